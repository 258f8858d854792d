import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from safetensors.torch import load_file, save_file

from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.errors import PochadeError

WIDTH, BLOCKS = 8, (1, 1, 2, 1)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def theirs(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "encoder_block_out_channels": (WIDTH,) * 4,
        "decoder_block_out_channels": (WIDTH,) * 4,
        "num_encoder_blocks": BLOCKS,
        "num_decoder_blocks": BLOCKS[::-1],
    }
    return AutoencoderTiny(**(settings | changes)).eval()


def ours(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": WIDTH, "encoder_blocks": BLOCKS, "decoder_blocks": BLOCKS[::-1]}
    return TinyAutoencoder(**(settings | changes)).eval()


def images(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taesd")
    theirs().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("channels", [4, 16])
def test_parameters_are_those_of_diffusers(channels: int):
    shapes = [
        {k: v.shape for k, v in m.state_dict().items()}
        for m in (ours(latent_channels=channels), theirs(latent_channels=channels))
    ]
    assert shapes[0] == shapes[1]


def test_defaults_are_those_of_taesd():
    assert sum(p.numel() for p in TinyAutoencoder().parameters()) == sum(
        p.numel() for p in AutoencoderTiny().parameters()
    )


@torch.no_grad()
def test_pretrained_weights_give_the_same_latents_and_pictures(taesd: Path):
    a, b = TinyAutoencoder.from_taesd(str(taesd)), AutoencoderTiny.from_pretrained(taesd).eval()
    latents = b.encode(images()).latents
    torch.testing.assert_close(a.encode(images()), latents, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(a.decode(latents), b.decode(latents).sample.clamp(-1, 1), atol=1e-6, rtol=1e-6)
    assert not a.training
    assert a.config.latents_mean is None


@torch.no_grad()
def test_pretrained_weights_in_half_precision_load_in_full(taesd: Path, tmp_path: Path):
    theirs().half().save_pretrained(tmp_path)
    half = TinyAutoencoder.from_taesd(str(tmp_path))
    assert half.dtype == torch.float32
    full = TinyAutoencoder.from_taesd(str(taesd))
    torch.testing.assert_close(half.encode(images()), full.encode(images()), atol=5e-3, rtol=5e-3)


def broken(taesd: Path, folder: Path, kind: str) -> Path:
    shutil.copytree(taesd, folder, dirs_exist_ok=True)
    weights = load_file(folder / WEIGHTS)
    name = "decoder.layers.0.bias"
    if kind == "missing":
        weights.pop(name)
    elif kind == "extra":
        weights["decoder.extra"] = torch.zeros(2)
    elif kind == "shape":
        weights[name] = torch.zeros(2)
    if kind == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    elif kind == "json":
        (folder / "config.json").write_text("{")
    elif kind == "no weights":
        (folder / WEIGHTS).unlink()
    else:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "missing decoder.layers.0.bias"),
        ("extra", "unexpected decoder.extra"),
        ("shape", "decoder.layers.0.bias"),
        ("cut", "name_or_folder"),
        ("json", "name_or_folder"),
        ("no weights", "name_or_folder"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(taesd: Path, tmp_path: Path, kind: str, message: str):
    with pytest.raises(PochadeError, match=message) as caught:
        TinyAutoencoder.from_taesd(str(broken(taesd, tmp_path, kind)))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"act_fn": "silu"},
        {"upsample_fn": "bilinear"},
        {"in_channels": 1, "out_channels": 1},
        {"decoder_block_out_channels": (16,) * 4},
        {
            "encoder_block_out_channels": (8,) * 3,
            "decoder_block_out_channels": (8,) * 3,
            "num_encoder_blocks": (1,) * 3,
            "num_decoder_blocks": (1,) * 3,
        },
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, changes: dict[str, Any]):
    theirs(**changes).save_pretrained(tmp_path)
    with pytest.raises(PochadeError, match="other blocks than TAESD's"):
        TinyAutoencoder.from_taesd(str(tmp_path))


def test_names_and_folders_of_something_else(tmp_path: Path):
    with pytest.raises(PochadeError, match="'nonsense' is no folder and no hub name"):
        TinyAutoencoder.from_taesd("nonsense")
    with pytest.raises(PochadeError, match="neither a folder with an AutoencoderTiny"):
        TinyAutoencoder.from_taesd(str(tmp_path))
    ours().save_pretrained(tmp_path)
    with pytest.raises(PochadeError, match="holds a TinyAutoencoder, allowed is an AutoencoderTiny"):
        TinyAutoencoder.from_taesd(str(tmp_path))


@torch.no_grad()
def test_before_training_pictures_come_out_mid_grey():
    decoded = ours()(images())
    assert decoded.abs().mean() < 0.2
    assert torch.isfinite(decoded).all()


@torch.no_grad()
def test_the_path_of_training_is_encoding_and_decoding_without_the_clamp():
    model = ours()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    model.set_statistics(torch.arange(4.0), torch.arange(4.0) + 1)
    through = model.decode(model.encode(images()))
    free = model(images())
    assert free.abs().max() > 1, "else the clamp would have nothing to do"
    torch.testing.assert_close(through, free.clamp(-1, 1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_statistics_are_per_channel_and_outlive_saving(tmp_path: Path):
    model = ours()
    mean, std = torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 0.5, 4.0])
    raw = model.encode_raw(images())
    model.set_statistics(mean, std)
    torch.testing.assert_close(model.encode(images()), (raw - mean.view(1, 4, 1, 1)) / std.view(1, 4, 1, 1))
    model.save_pretrained(tmp_path)
    again: Any = TinyAutoencoder.from_pretrained(tmp_path)
    assert again.config.latents_mean == mean.tolist()
    assert again.config.latents_std == std.tolist()
    with pytest.raises(PochadeError, match="mean, std: "):
        model.set_statistics(torch.zeros(3), torch.ones(3))


@torch.no_grad()
def test_moving_by_one_cell_moves_the_latents_by_one():
    """Convolutions alone: a shift by 8 pixels is a shift by one cell, away from the border."""
    model = ours(encoder_blocks=(1, 0, 0, 0), decoder_blocks=(0, 0, 0, 1))
    picture = torch.rand(1, 3, 72, 72, generator=torch.Generator().manual_seed(4)) * 2 - 1
    moved = picture.roll((8, 8), (2, 3))
    torch.testing.assert_close(model.encode(moved)[..., 3:6, 3:6], model.encode(picture)[..., 2:5, 2:5])


def test_weights_lie_channels_last():
    weight = ours().encoder.layers[2].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_shapes_that_do_not_fit_are_named():
    model = ours()
    for wrong in (torch.zeros(1, 3, 30, 32), torch.zeros(1, 1, 32, 32), torch.zeros(3, 32, 32)):
        with pytest.raises(PochadeError, match="images: shape"):
            model.encode(wrong)
    with pytest.raises(PochadeError, match="latents: shape"):
        model.decode(torch.zeros(1, 3, 4, 4))
