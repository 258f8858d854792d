"""Pretrained autoencoders of diffusers behind our interface, from folders that the tests make."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from contracts.families import DIFFUSERS
from pochade.autoencoders.pretrained import PretrainedAutoencoder
from pochade.autoencoders.tiling import decode_tiled, encode_tiled
from pochade.errors import PochadeError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def theirs(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    cls: Any = {"dc": AutoencoderDC, "kl": AutoencoderKL}[kind]
    return cls(**{**DIFFUSERS[kind], **changes}).eval()


@pytest.fixture(params=DIFFUSERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def images(rows: int = 64, columns: int = 96) -> torch.Tensor:
    return torch.rand(2, 3, rows, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_latents_are_scaled_by_the_models_own_factors(kind: str, tmp_path: Path) -> None:
    factors = {"scaling_factor": 0.4} if kind == "dc" else {"scaling_factor": 1.5, "shift_factor": 0.06}
    model = theirs(kind, **factors)
    model.save_pretrained(tmp_path)
    ours: Any = PretrainedAutoencoder.from_diffusers(str(tmp_path))
    raw = model.encode(images(), return_dict=False)[0]
    raw = raw if kind == "dc" else raw.mode()
    latents = ours.encode(images())
    torch.testing.assert_close(latents, (raw - factors.get("shift_factor", 0)) * factors["scaling_factor"])
    decoded = model.decode(raw, return_dict=False)[0].clamp(-1, 1)
    torch.testing.assert_close(ours.decode(latents), decoded, atol=1e-5, rtol=0)
    assert ours.downsampling == {"dc": 32, "kl": 8}[kind]
    assert not ours.training
    assert not any(p.requires_grad for p in ours.parameters())


@torch.no_grad()
def test_statistics_of_the_channels_come_before_the_scaling() -> None:
    mean, std = (0.1, -0.2, 0.3, 0.0), (2.0, 1.0, 0.5, 4.0)
    model = theirs("kl", latent_channels=4, latents_mean=mean, latents_std=std, scaling_factor=0.5)
    raw = model.encode(images(), return_dict=False)[0].mode()
    expected = (raw - torch.tensor(mean).view(1, 4, 1, 1)) * 0.5 / torch.tensor(std).view(1, 4, 1, 1)
    torch.testing.assert_close(PretrainedAutoencoder.from_network(model).encode(images()), expected)


@torch.no_grad()
def test_saved_and_loaded_every_bit_stays(kind: str, tmp_path: Path) -> None:
    ours = PretrainedAutoencoder.from_network(theirs(kind))
    ours.save_pretrained(tmp_path)
    again: Any = PretrainedAutoencoder.from_pretrained(tmp_path)
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in ours.state_dict().items())
    torch.testing.assert_close(again.eval().encode(images()), ours.encode(images()), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_large_pictures_are_coded_in_tiles(kind: str) -> None:
    """Attention and group norm read the whole picture, so that tiles agree with it only roughly."""
    ours = PretrainedAutoencoder.from_network(theirs(kind))
    picture = images(ours.downsampling * 3, ours.downsampling * 12)
    latents, decoded = ours.encode(picture), ours.decode(ours.encode(picture))
    rough = {"dc": 0.15, "kl": 0.9}[kind]  # unrelated pictures would differ by 1.4 deviations
    for whole, tiled in (
        (latents, encode_tiled(ours, picture, tile=8, overlap=4)),
        (decoded, decode_tiled(ours, latents, tile=8, overlap=4)),
    ):
        assert tiled.shape == whole.shape
        assert (tiled - whole).std() < rough * whole.std()


def test_folders_and_names_of_something_else(kind: str, tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    width = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**width, **blocks).save_pretrained(tmp_path / "taesd")
    with pytest.raises(PochadeError, match="holds a AutoencoderTiny, allowed is an AutoencoderDC or an AutoencoderKL"):
        PretrainedAutoencoder.from_diffusers(str(tmp_path / "taesd"))
    for name in ("nonsense", "a/b/c/d", "/nowhere"):
        with pytest.raises(PochadeError, match=f"'{name}' is no folder and no hub name OWNER/NAME"):
            PretrainedAutoencoder.from_diffusers(name)
    for name in ("pochade/no-such-model", "pochade/no-such-model/vae"):
        with pytest.raises(
            PochadeError,
            match=r"neither a folder with an AutoencoderDC or .* machine, and the hub cannot be reached",
        ) as caught:
            PretrainedAutoencoder.from_diffusers(name, local_files_only=True)
        assert "\n" not in str(caught.value)
    theirs(kind).save_pretrained(tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / WEIGHTS)
    name = next(iter(sorted(weights)))
    weights.pop(name)
    save_file(weights, tmp_path / "cut" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(PochadeError, match=f"has weights that do not fit: missing {name}"):
        PretrainedAutoencoder.from_diffusers(str(tmp_path / "cut"))


def test_a_hub_that_does_not_answer_is_one_attempt(silent_hub: list[str]) -> None:
    with pytest.raises(PochadeError, match=r"nor within reach: it is not on this machine, and the hub cannot be"):
        PretrainedAutoencoder.from_diffusers("pochade/no-such-model")
    assert sum("pochade/no-such-model" in request for request in silent_hub) == 1
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@torch.no_grad()
@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.bin"])
def test_files_of_the_first_release_are_read(name: str, tmp_path: Path) -> None:
    """As ``stabilityai/sd-vae-ft-mse`` is published: few fields, other names of the attention's layers, a pickle."""
    model = theirs("kl", latent_channels=4, use_quant_conv=True, use_post_quant_conv=True)
    model.save_pretrained(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights: dict[str, torch.Tensor] = {}
    for key, value in load_file(tmp_path / WEIGHTS).items():
        block, attention, layer = key.partition(".attentions.0.")
        found = next((new for new in old if layer.startswith(f"{new}.")), None)
        weights[key if found is None else block + attention + layer.replace(found, old[found])] = value
    assert sum("proj_attn" in key for key in weights) == 4
    (tmp_path / WEIGHTS).unlink()
    if name == WEIGHTS:
        save_file(weights, tmp_path / name, metadata={"format": "pt"})
    else:
        torch.save(weights, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    late = ("scaling_factor", "shift_factor", "use_quant_conv", "use_post_quant_conv", "force_upcast")
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in late}))
    raw = model.encode(images(), return_dict=False)[0].mode()
    torch.testing.assert_close(PretrainedAutoencoder.from_diffusers(str(tmp_path)).encode(images()), 0.18215 * raw)


def test_configurations_that_do_not_go_are_named() -> None:
    with pytest.raises(PochadeError, match="kind: 'VQModel' given, allowed are AutoencoderDC and AutoencoderKL"):
        PretrainedAutoencoder("VQModel")
    with pytest.raises(PochadeError, match="settings: 3 colours and 4 latent channels given, allowed are 3 and 5"):
        PretrainedAutoencoder("AutoencoderKL", {"latent_channels": 4, "block_out_channels": [32]}, 5)
    with pytest.raises(PochadeError, match="settings: 4 colours"):
        PretrainedAutoencoder("AutoencoderKL", {**DIFFUSERS["kl"], "in_channels": 4}, 16)
