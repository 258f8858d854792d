from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.autoencoders.wavelet import VARIANTS, HaarJoin, HaarSplit, WaveletVAE
from pochade.errors import PochadeError

TOY: dict[str, Any] = {
    "latent_channels": 4,
    "widths": (6, 12, 12, 8),
    "encoder_blocks": (1, 1, 0, 1),
    "decoder_blocks": (1, 0, 1, 1),
}


def make(**changes: Any) -> Any:
    torch.manual_seed(0)
    return WaveletVAE(**(TOY | changes)).eval()


def stirred(**changes: Any) -> Any:
    model = make(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(rows: int = 64, columns: int = 96, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, rows, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_of_the_variants():
    with torch.device("meta"):
        WaveletVAE()  # the defaults go together
        nano, base = (WaveletVAE(**VARIANTS[name]) for name in ("nano", "base"))
    assert set(VARIANTS) == {"nano", "small", "base"}
    assert count(nano) <= 1.5e6
    assert count(base.encoder) == pytest.approx(15e6, rel=0.1)
    assert count(base.decoder) == pytest.approx(8e6, rel=0.1)


@torch.no_grad()
def test_256_pixels_are_compressed_48_fold():
    model = WaveletVAE(**VARIANTS["nano"] | {"encoder_blocks": (0,) * 4, "decoder_blocks": (0,) * 4}).eval()
    picture = images(256, 256, 1)
    latents = model.encode(picture)
    assert latents.shape == (1, 16, 16, 16)
    assert picture.numel() / latents.numel() == 48


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_bands_come_back_as_the_picture(dtype: torch.dtype, atol: float):
    x = images(34, 46).to(dtype)
    torch.testing.assert_close(HaarJoin()(HaarSplit()(x)), x, atol=atol, rtol=0)


def test_bands_are_halved_so_that_the_first_three_are_the_picture_at_half_size():
    x = images()
    bands = HaarSplit()(x)
    assert bands.shape == (2, 12, 32, 48)
    torch.testing.assert_close(bands[:, :3], nn.functional.avg_pool2d(x, 2))
    assert bands.abs().max() <= 1


@torch.no_grad()
def test_before_training_the_shortcuts_give_a_small_copy_of_the_picture():
    """16 latents for 12 bands: the mean of every cell comes through, through each band."""
    model = make(latent_channels=16, widths=(16, 32, 32, 64))
    means = nn.functional.avg_pool2d(HaarSplit()(images()), 8)
    bands = means.repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.testing.assert_close(model(images()), HaarJoin()(bands), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_variational_encoder_gives_the_same_mean_and_a_variance():
    model = make(variational=True)
    mean, log_variance = model.encode_distribution(images())
    assert torch.equal(mean, model.encode_raw(images()))
    assert mean.shape == log_variance.shape == (2, 4, 4, 6)
    assert torch.equal(log_variance, torch.full_like(mean, -4.0))
    model.encoder.head.bias[4:] = torch.tensor([1e3, -1e3, 0.0, 1.0])
    assert torch.equal(model.encode_distribution(images())[1][0, :, 0, 0], torch.tensor([20.0, -30.0, 0.0, 1.0]))
    with pytest.raises(PochadeError, match="variational: False"):
        make().encode_distribution(images())
    with pytest.raises(PochadeError, match="images: shape"):
        model.encode_distribution(images(40, 64))


@torch.no_grad()
def test_moving_by_one_cell_moves_the_latents_by_one():
    """Convolutions alone: a shift by 16 pixels is a shift by one cell, away from the border."""
    model = stirred()
    picture = images(256, 256, 1)
    moved = picture.roll((16, 16), (2, 3))
    inner = slice(6, 11)
    before = model.encode(picture)[..., 5:10, 5:10]
    torch.testing.assert_close(model.encode(moved)[..., inner, inner], before, atol=1e-5, rtol=1e-5)


def test_weights_lie_channels_last():
    assert make().encoder.stages[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"downsampling": 8}, "downsampling: 8 given, allowed are powers of two from 16"),
        ({"downsampling": 24}, "downsampling: 24 given"),
        ({"downsampling": 0}, "downsampling: 0 given"),
        ({"widths": (), "encoder_blocks": (), "decoder_blocks": ()}, "widths: none given"),
        ({"latent_channels": 3}, "latent_channels: 3 given, allowed are the divisors of 8"),
        ({"latent_channels": 0}, "latent_channels: 0 given"),
        ({"widths": (6, 12, 12, 20)}, "widths: 20 after 12 given, allowed are the divisors of 48"),
        ({"encoder_blocks": (1, 1)}, "encoder_blocks: .* a number for each"),
        ({"decoder_blocks": (1, 1, 1, -1)}, "decoder_blocks: .* must be a list, each a whole number from 0 to"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: dict[str, Any], message: str):
    with pytest.raises(PochadeError, match=message):
        make(**changes)
