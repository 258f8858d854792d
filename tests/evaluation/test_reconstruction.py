"""Errors of a reconstruction, and the energy of high frequencies that it keeps."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from pochade.evaluation.reconstruction import psnr, reconstruction, sharpness, ssim


def pictures(n: int = 3, rows: int = 32, columns: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, rows, columns, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_picture_is_as_sharp_as_itself() -> None:
    images = pictures()
    torch.testing.assert_close(sharpness(images, images), torch.ones(3, dtype=torch.float64))
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert sharpness(flat, flat).item() == pytest.approx(1.0, abs=1e-6)


def test_blur_lowers_it_and_noise_raises_it() -> None:
    images = pictures()
    previous = torch.ones(3, dtype=torch.float64)
    for sigma in (0.5, 1.0, 2.0):
        blurred = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="wrap"))
        left = sharpness(blurred, images)
        assert bool((left < previous).all())
        previous = left
    assert previous.max() < 1e-3
    noise = 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert bool((sharpness(images + noise, images) > 1.1).all())


@pytest.mark.parametrize("cycles, counted", [(0.125, False), (0.3125, True)])
def test_a_wave_counts_from_half_of_the_nyquist_frequency_on(cycles: float, counted: bool) -> None:
    x = torch.arange(32.0)
    wave = torch.cos(2 * math.pi * cycles * x).expand(1, 3, 32, 32)
    checks = ((-1.0) ** (x[:, None] + x)).expand(1, 3, 32, 32)
    # Half the amplitude is a quarter of the energy; the checks, at Nyquist's frequency, always count.
    expected = (0.25 * 0.5 + 1) / (0.5 + 1) if counted else 1.0
    assert sharpness(0.5 * wave + checks, wave + checks).item() == pytest.approx(expected, rel=1e-5)


def test_each_picture_has_its_own_and_brightness_does_not_matter() -> None:
    images = pictures()
    both = sharpness(torch.stack((images[0], 0.5 * images[1])), torch.stack((images[0] + 0.5, images[1])))
    torch.testing.assert_close(both, torch.tensor([1.0, 0.25], dtype=torch.float64))


class Halving(nn.Module):
    """Gives every picture back with a known error."""

    def encode(self, images: Tensor) -> Tensor:
        return images / 2

    def decode(self, latents: Tensor) -> Tensor:
        return latents * 2 + 0.02


def test_reconstruction_of_a_known_error() -> None:
    images = torch.rand(5, 3, 16, 16) - 0.5
    found = reconstruction(Halving(), images.split(2))
    expected = 20 * np.log10(2 / 0.02)
    assert found["psnr"] == pytest.approx(expected, abs=1e-3)
    assert found["psnr_total"] == pytest.approx(expected, abs=1e-3)
    assert found["pictures"] == 5
    assert 0.99 < found["ssim"] < 1
    assert "perceptual" not in found
    torch.testing.assert_close(psnr(images, images + 0.02), torch.full((5,), expected, dtype=torch.float32))
    torch.testing.assert_close(ssim(images, images), torch.ones(5, dtype=torch.float64))
    assert ssim(images, -images).max() < 0
