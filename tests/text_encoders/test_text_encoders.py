"""The contract of every text encoder, on each of them at toy size."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPModel

from pochade import text_encoders
from pochade.errors import PochadeError
from pochade.text_encoders.bag import BagEncoder
from pochade.text_encoders.base import PromptEncoder
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.text_encoders.clip import ClipEncoder
from pochade.text_encoders.gemma import GemmaEncoder
from pochade.text_encoders.minilm import MiniLMEncoder
from text_encoders.folders import CAPTIONS, clip_folder, gemma_folder


@pytest.fixture(scope="module", params=["minilm", "clip", "gemma", "bag"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    if request.param == "minilm":
        return MiniLMEncoder()
    if request.param == "clip":
        return ClipEncoder.from_transformers(str(clip_folder(tmp_path_factory.mktemp("hub") / "tiny")))
    if request.param == "gemma":
        return GemmaEncoder(str(gemma_folder(tmp_path_factory.mktemp("hub") / "tiny")), max_tokens=24)
    torch.manual_seed(0)
    return BagEncoder(BagEncoder.train_tokenizer(CAPTIONS, 300), dim=16, hidden_dim=32, max_tokens=24)


def test_shapes_types_and_padding_is_zero(encoder: PromptEncoder) -> None:
    out = encoder.encode(["a red apple", "a cat sleeping"])
    m = out.mask.shape[1]
    assert out.tokens.shape == (2, m, encoder.dim)
    assert out.pooled.shape == (2, encoder.pooled_dim)
    assert out.tokens.dtype == out.pooled.dtype == torch.float32
    assert out.mask.dtype == torch.bool
    assert not out.tokens.requires_grad
    assert m == max(encoder.count_tokens(p) for p in ("a red apple", "a cat sleeping"))
    assert out.tokens[~out.mask].eq(0).all()
    assert encoder.encode(["a red apple"]).tokens.abs().sum() > 0


def test_padding_never_changes_real_tokens(encoder: PromptEncoder) -> None:
    prompts = ["a cat", "red", "a long red ship"]
    batch = encoder.encode(prompts)
    for i, prompt in enumerate(prompts):
        alone = encoder.encode([prompt])
        n = int(alone.mask.sum())
        torch.testing.assert_close(batch.tokens[i, :n], alone.tokens[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.pooled[i], alone.pooled[0], atol=1e-5, rtol=0)
        assert batch.mask[i].sum() == n
    # What stands in the padding, and how much of it there is, is never read.
    ids, mask = encoder.tokenize(prompts)
    other = ids.masked_fill(~mask, 7)
    wider = torch.nn.functional.pad(other, (0, 2), value=3), torch.nn.functional.pad(mask, (0, 2))
    out = encoder.eval()(*wider)
    torch.testing.assert_close(out.tokens[:, : ids.shape[1]], batch.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.pooled, batch.pooled, atol=1e-5, rtol=0)


def test_long_prompts_are_truncated_and_counted(encoder: PromptEncoder) -> None:
    long = "red cat " * 1250
    assert encoder.count_tokens(long) > encoder.max_tokens
    out = encoder.encode([long, "a cat"])
    assert out.tokens.shape[1] == encoder.max_tokens
    assert bool(out.mask[0].all())
    ids, _ = encoder.tokenize([long])
    closing, _ = encoder.tokenize(["cat"])
    if not isinstance(encoder, BagEncoder | GemmaEncoder):
        assert ids[0, -1] == closing[0, -1], "the closing token survives truncation"


def test_different_prompts_differ_and_equal_ones_agree(encoder: PromptEncoder) -> None:
    out = encoder.encode(["a red cat", "a green ship", "a red cat"])
    assert torch.equal(out.pooled[0], out.pooled[2])
    assert (out.pooled[0] - out.pooled[1]).abs().max() > 1e-3


def test_odd_prompts(encoder: PromptEncoder) -> None:
    out = encoder.encode(["", "\udc80", "\n\t", "🍎"])
    assert torch.isfinite(out.tokens).all()
    assert torch.isfinite(out.pooled).all()
    for wrong in ([], "a string", [3]):
        with pytest.raises(PochadeError, match="prompts: "):
            encoder.encode(wrong)  # type: ignore[arg-type]


def test_save_and_load_bit_equal(encoder: PromptEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "text_encoder")
    again = type(encoder).from_pretrained(tmp_path, subfolder="text_encoder")
    assert again.identity == encoder.identity
    assert (again.dim, again.pooled_dim, again.max_tokens) == (
        encoder.dim,
        encoder.pooled_dim,
        encoder.max_tokens,
    )
    a, b = encoder.encode(CAPTIONS), again.encode(CAPTIONS)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.pooled, b.pooled)
    assert torch.equal(a.mask, b.mask)
    small = sum(f.stat().st_size for f in (tmp_path / "text_encoder").iterdir())
    assert small < 1000 or not isinstance(encoder, MiniLMEncoder | GemmaEncoder)


def test_encode_ignores_and_keeps_the_mode(encoder: PromptEncoder) -> None:
    expected = encoder.encode(["a red cat"])
    encoder.train()
    assert torch.equal(encoder.encode(["a red cat"]).tokens, expected.tokens)
    assert encoder.training
    encoder.eval()


class Holder(DiffusionPipeline):
    """A pipeline of nothing but a text encoder."""

    def __init__(self, text_encoder: PromptEncoder | ClassLabelEncoder) -> None:
        super().__init__()
        self.register_modules(text_encoder=text_encoder)


def test_is_a_pipeline_component(encoder: PromptEncoder, tmp_path: Path) -> None:
    Holder(encoder).save_pretrained(tmp_path)
    again = Holder.from_pretrained(tmp_path)
    assert type(again.text_encoder) is type(encoder)
    assert torch.equal(again.text_encoder.encode(["a cat"]).tokens, encoder.encode(["a cat"]).tokens)
    assert again.device.type == "cpu"


def test_minilm_understands() -> None:
    encoder = text_encoders.load("minilm-l6-v2")
    assert isinstance(encoder, MiniLMEncoder)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(22.6e6, rel=0.01)
    texts = ["a red apple", "a crimson fruit", "an aeroplane in the sky"]
    vectors = encoder.sentence_vectors(texts, batch_size=2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    torch.testing.assert_close(vectors, encoder.encode(texts).pooled, atol=1e-5, rtol=0)


def test_clip_from_a_whole_clip_and_its_closing_token(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "whole", whole=True)
    encoder = text_encoders.load(f"clip:{folder}")
    assert encoder.identity == f"clip:{folder}"
    out = encoder.encode(["a cat", "cat"])
    assert out.mask.sum(1).tolist() == [4, 3]
    assert torch.equal(out.pooled[1], out.tokens[1, 2])
    reference = CLIPModel.from_pretrained(folder).text_model
    ids, mask = encoder.tokenize(["a cat"])
    expected = reference(input_ids=ids, attention_mask=mask.long())
    torch.testing.assert_close(out.tokens[:1], expected.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.pooled[:1], expected.pooler_output, atol=1e-5, rtol=0)


def test_clip_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PochadeError, match="text_encoder: no CLIP could be loaded from 'nobody/no-clip'") as info:
        text_encoders.load("clip:nobody/no-clip")
    assert "\n" not in str(info.value)
    folder = clip_folder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PochadeError, match="no CLIP could be loaded"):
        text_encoders.load(f"clip:{folder}")


def test_clip_with_missing_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = clip_folder(tmp_path / "short")
    tensors = load_file(folder / "model.safetensors")
    name = next(k for k in tensors if "final_layer_norm.weight" in k)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PochadeError, match=r"lacks the tensors .*final_layer_norm"):
        text_encoders.load(f"clip:{folder}")


def test_unknown_identity() -> None:
    with pytest.raises(PochadeError, match=r"did you mean 'minilm-l6-v2'\?"):
        text_encoders.load("minilm-l6")
    with pytest.raises(PochadeError, match="from its folder"):
        text_encoders.load("bag:00000000")


def test_bag_vocabulary() -> None:
    text = BagEncoder.train_tokenizer(CAPTIONS * 3, 300)
    assert text == BagEncoder.train_tokenizer(CAPTIONS * 3, 300)
    encoder = BagEncoder(text, dim=8, hidden_dim=8)
    assert encoder.embedding.num_embeddings <= 300
    assert encoder.count_tokens("apple") < encoder.count_tokens("zxqvw"), "frequent words are shorter"
    for size in (256, 8193):
        with pytest.raises(PochadeError, match=f"size: {size} given"):
            BagEncoder.train_tokenizer(CAPTIONS, size)
    with pytest.raises(PochadeError, match="captions: none"):
        BagEncoder.train_tokenizer(["", " "])


def test_bag_trains_and_its_identity_follows() -> None:
    encoder = BagEncoder(BagEncoder.train_tokenizer(CAPTIONS, 300), dim=8, hidden_dim=8)
    before = encoder.identity
    out = encoder(*encoder.tokenize(CAPTIONS))
    (out.tokens.square().sum() + out.pooled.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert encoder.identity == before
    with torch.no_grad():
        encoder.contract.bias.add_(1)
    assert encoder.identity != before


def test_bag_has_no_word_order_and_nothing_for_an_empty_prompt() -> None:
    encoder = BagEncoder(BagEncoder.train_tokenizer(CAPTIONS, 300), dim=8, hidden_dim=8)
    out = encoder.encode(["red cat", "cat red", ""])
    torch.testing.assert_close(out.pooled[0], out.pooled[1], atol=1e-6, rtol=0)
    assert not out.mask[2].any()
    assert out.pooled[2].eq(0).all()
    assert out.tokens[2].eq(0).all()


def test_class_labels(tmp_path: Path) -> None:
    encoder = ClassLabelEncoder(["airplane", "automobile", "hot dog"])
    assert encoder.encode_labels(["Automobile ", "hot  dog", ""]).tolist() == [1, 2, -1]
    with pytest.raises(PochadeError, match=r"'airplan' is no class.*did you mean 'airplane'"):
        encoder.encode_labels(["airplan"])
    Holder(encoder).save_pretrained(tmp_path)
    again = Holder.from_pretrained(tmp_path)
    assert again.text_encoder.names == encoder.names
    assert again.text_encoder.identity == encoder.identity
    assert again.device.type == "cpu"
    for wrong in ([], ["a", "A"], ["a", ""]):
        with pytest.raises(PochadeError, match="names: "):
            ClassLabelEncoder(wrong)


def test_config_only_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=r"no config.json"):
        MiniLMEncoder.from_pretrained(tmp_path)


def test_emoji_are_read_by_their_names() -> None:
    encoder = MiniLMEncoder()
    for symbols, words in (("a 🍎!", "a red apple!"), ("👍🏽", "thumbs up sign"), ("☃ 5°", "snowman 5°")):
        assert encoder.tokenize([symbols])[0].tolist() == encoder.tokenize([words])[0].tolist()
    apple, cat, words = encoder.encode(["🍎", "🐱", "red apple"]).pooled
    assert (apple - words).abs().max() < 1e-5
    assert (apple - cat).abs().max() > 0.01
    assert encoder.unknown("🍎") == 0
    assert encoder.unknown("ꦲꦏ ꦱꦫ") == 1
