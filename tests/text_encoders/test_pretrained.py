"""Pretrained CLIP and Gemma-2: weights, tokens, what cannot be had, and a denoiser conditioned on it."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, Gemma2ForCausalLM

from contracts.families import FAMILIES, make, stir
from pochade import text_encoders
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.errors import PochadeError
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.gemma import GemmaEncoder
from pochade.training.stages.flow import FlowSettings, FlowTask
from text_encoders.folders import CAPTIONS, clip_folder, gemma_folder, old_clip_folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma_folder(tmp_path_factory.mktemp("hub") / "gemma")


# --- CLIP-L/14 and TinyCLIP, in the files of their time


@pytest.mark.parametrize("whole", [True, False])
def test_a_clip_of_2023_is_read_as_one_of_today(tmp_path: Path, whole: bool) -> None:
    new = text_encoders.load(f"clip:{clip_folder(tmp_path / 'new', whole=whole)}").encode(CAPTIONS[:3])
    folder = old_clip_folder(tmp_path / "old", whole=whole)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    encoder = text_encoders.load(f"clip:{folder}")
    old = encoder.encode(CAPTIONS[:3])
    assert torch.equal(old.mask, new.mask)
    torch.testing.assert_close(old.tokens, new.tokens, atol=1e-6, rtol=0)
    torch.testing.assert_close(old.pooled, new.pooled, atol=1e-6, rtol=0)
    encoder.save_pretrained(tmp_path / "saved")
    again = type(encoder).from_pretrained(tmp_path / "saved").encode(CAPTIONS[:3])
    assert torch.equal(again.tokens, old.tokens)


def test_a_clip_in_half_precision_gives_float32(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "half")
    CLIPTextModel.from_pretrained(folder).half().save_pretrained(folder)
    encoder = text_encoders.load(f"clip:{folder}")
    assert encoder.dtype == encoder.encode(["cat"]).tokens.dtype == torch.float32


def test_tensors_of_another_shape_are_an_error(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "odd", whole=True)
    weights = load_file(folder / "model.safetensors")
    name = next(k for k in weights if k.endswith("final_layer_norm.weight") and "text" in k)
    save_file({**weights, name: torch.ones(8)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PochadeError, match="no CLIP could be loaded"):
        text_encoders.load(f"clip:{folder}")


# --- Gemma-2


def test_gemma_gives_the_last_hidden_states_and_their_mean(gemma: Path) -> None:
    encoder = text_encoders.load(f"gemma:{gemma}")
    assert isinstance(encoder, GemmaEncoder)
    assert (encoder.identity, encoder.dim, encoder.max_tokens) == (f"gemma:{gemma}", 32, 300)
    assert not any(p.requires_grad for p in encoder.parameters())
    ids, mask = encoder.tokenize(["a red apple", ""])
    assert ids[:, 0].tolist() == [2, 2]
    assert mask.sum(1).tolist()[1] == 1, "an empty prompt is the opening token alone"
    out = encoder.encode(["a red apple", ""])
    reference = Gemma2ForCausalLM.from_pretrained(gemma).model
    n = int(mask[0].sum())
    expected = reference(input_ids=ids[:1, :n]).last_hidden_state
    torch.testing.assert_close(out.tokens[:1, :n], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.pooled[:1], expected.mean(1), atol=1e-5, rtol=0)


def test_the_opening_token_stands_once_whatever_the_files_ask_for(gemma: Path, tmp_path: Path) -> None:
    from transformers.models.gemma.tokenization_gemma import GemmaTokenizer

    counts = []
    for bos, eos in ((True, True), (True, False), (False, False)):
        folder = gemma_folder(tmp_path / f"{bos}-{eos}")
        GemmaTokenizer.from_pretrained(gemma, add_bos_token=bos, add_eos_token=eos).save_pretrained(folder)
        counts.append(GemmaEncoder(str(folder)).tokenize(["a red apple"])[0][0].tolist())
    assert counts[0] == counts[1] == counts[2]
    assert counts[0].count(2) == 1
    assert 1 not in counts[0]


def test_a_saved_gemma_holds_its_configuration_alone(gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(gemma.parent)
    encoder = GemmaEncoder("gemma", max_tokens=5)
    encoder.save_pretrained(tmp_path / "saved")
    assert [p.name for p in (tmp_path / "saved").iterdir()] == ["config.json"]
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["name"], config["max_tokens"]) == (str(gemma), 5)
    monkeypatch.chdir(tmp_path)
    again = GemmaEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.encode(CAPTIONS).tokens, encoder.encode(CAPTIONS).tokens)
    assert again.encode(["a red apple a red apple"]).tokens.shape[1] == 5


def test_gemma_in_bfloat16_keeps_it_and_gives_float32(gemma: Path, tmp_path: Path) -> None:
    encoder = GemmaEncoder(str(gemma_folder(tmp_path / "bfloat16", torch.bfloat16)))
    assert encoder.dtype == torch.bfloat16
    out, exact = encoder.encode(CAPTIONS), GemmaEncoder(str(gemma)).encode(CAPTIONS)
    assert out.tokens.dtype == out.pooled.dtype == torch.float32
    torch.testing.assert_close(out.pooled, exact.pooled, atol=0.05, rtol=0)


def test_a_gemma_that_cannot_be_had(gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("google/gemma-2-2b", "", str(clip_folder(tmp_path / "clip"))):
        with pytest.raises(PochadeError, match=r"^text_encoder: (no Gemma-2 could be loaded|.* lacks)") as info:
            text_encoders.load(f"gemma:{name}")
        assert "\n" not in str(info.value)
        assert repr(name) in str(info.value)
    saved = tmp_path / "saved"
    GemmaEncoder(str(gemma)).save_pretrained(saved)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "name": "/nowhere"}))
    with pytest.raises(PochadeError, match="no Gemma-2 could be loaded from '/nowhere'"):
        GemmaEncoder.from_pretrained(saved)


@pytest.mark.parametrize("name", ["clip", "gemma"])
def test_a_hub_that_does_not_answer_is_one_attempt(name: str, silent_hub: list[str]) -> None:
    with pytest.raises(PochadeError, match=r"could be loaded from 'a/b' .*: it is not on this machine, and the hub"):
        text_encoders.load(f"{name}:a/b")
    assert sum("a/b" in request for request in silent_hub) == 1


def test_missing_tensors_are_named_and_counted(tmp_path: Path) -> None:
    folder = gemma_folder(tmp_path / "short")
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "layers.1." not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PochadeError, match=r"lacks the tensors layers\.1\..* and 7 more"):
        text_encoders.load(f"gemma:{folder}")


def test_a_pipeline_with_gemma_is_saved_and_loaded(gemma: Path, tmp_path: Path) -> None:
    encoder = GemmaEncoder(str(gemma))
    widths = {"text_dim": encoder.dim, "pooled_dim": encoder.pooled_dim, "num_classes": 0}
    name = next(iter(FAMILIES))
    denoiser = make(name, next(iter(FAMILIES[name].toys)), **widths, text_encoder=encoder.identity)
    autoencoder = TinyAutoencoder(
        denoiser.config.latent_channels, width=8, encoder_blocks=(0, 0, 1, 0), decoder_blocks=(0, 1, 0, 0)
    )
    TextToImagePipeline(autoencoder, stir(denoiser), text_encoder=encoder).save_pretrained(tmp_path / "model")
    assert [p.name for p in (tmp_path / "model" / "text_encoder").iterdir()] == ["config.json"]
    images = list[torch.Tensor]()
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = TextToImagePipeline.from_pretrained(tmp_path / "model", torch_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline.text_encoder.dtype == dtype
        seed = torch.Generator().manual_seed(0)
        images.append(pipeline("a red apple", num_inference_steps=2, generator=seed, output_type="pt").images)
    assert images[0].std() > 0.2, "a grey picture would agree with any"
    torch.testing.assert_close(images[0], images[1].float(), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_denoiser_of_any_family_is_trained_on_gemma(gemma: Path, name: str) -> None:
    encoder = GemmaEncoder(str(gemma))
    widths = {"text_dim": encoder.dim, "pooled_dim": encoder.pooled_dim, "num_classes": 0}
    denoiser = make(name, next(iter(FAMILIES[name].toys)), **widths)
    text = encoder.encode(CAPTIONS[:2])
    latents = torch.randn(2, denoiser.config.latent_channels, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = {"latents": latents, "seed": torch.arange(2), "tokens": text.tokens, "mask": text.mask}
    task = FlowTask(denoiser, FlowSettings(name, cfg_dropout=0.0))
    optimiser = torch.optim.SGD(task.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = task({**batch, "pooled": text.pooled})["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
