"""How well an autoencoder gives pictures back."""

from collections.abc import Callable, Iterable
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from pochade.errors import missing_extra
from pochade.evaluation import bootstrap
from pochade.features.perceptual import PerceptualLoss


class Autoencoder(Protocol):
    """Images [B, 3, H, W] in [-1, 1] to latents and back."""

    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB of images [B, 3, H, W] in [-1, 1]; infinite where equal."""
    return 10 * torch.log10(4 / (a - b).square().mean((1, 2, 3)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [B] (Wang et al. 2004, Gaussian window of 11, sigma 1.5) of images in [-1, 1]."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise missing_extra("scikit-image", "eval") from error
    # In [0, 1]: the term for luminance compares means and makes no sense below zero.
    pairs = zip(*(((x.double().cpu() + 1) / 2).numpy() for x in (a, b)), strict=True)
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [structural_similarity(x, y, channel_axis=0, data_range=1.0, **options) for x, y in pairs]
    return torch.tensor(np.array(values))


def sharpness(a: Tensor, b: Tensor) -> Tensor:
    """What is left [B] of the high frequencies of images ``b`` in ``a``, both [B, 3, H, W] in [-1, 1]; below 1 is blur.

    sum |A(f)|^2 / sum |B(f)|^2 over the frequencies |f| >= 1/4 cycle a pixel, half of Nyquist's, where A and B are the
    Fourier transforms of the grey pictures (mean of the three colours). 1 where both have none. Noise counts as
    sharpness too: read it beside ``psnr``.
    """
    rows, columns = (torch.fft.fftfreq(n, device=a.device) for n in a.shape[-2:])
    high = torch.hypot(*torch.meshgrid(rows, columns, indexing="ij")) >= 0.25
    # The 1e-6 is far below the energy of one grey level in one pixel.
    left, given = (torch.fft.fft2(x.double().mean(1)).abs().square()[:, high].sum(1) + 1e-6 for x in (a, b))
    return left / given


class Reconstruction(TypedDict):
    """Means over all pictures, with intervals of 95 % by ``bootstrap``."""

    psnr: float
    """dB, the mean of that of each picture."""
    psnr_total: float
    """dB, of the mean squared error of all pixels."""
    ssim: float
    perceptual: NotRequired[float]
    pictures: int
    intervals: dict[str, bootstrap.Interval]


@torch.no_grad()
def reconstruction(
    autoencoder: Autoencoder,
    batches: Iterable[Tensor],
    perceptual: PerceptualLoss | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Reconstruction:
    """Means over all pictures of ``batches`` ([B, 3, H, W] in [-1, 1], on the autoencoder's device); ``perceptual``
    where a network is given. ``advance`` hears how many are done."""
    columns: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "error": [], "perceptual": []}
    for images in batches:
        given = autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1).float().cpu()
        images = images.float().cpu()
        columns["error"].append((given - images).square().mean((1, 2, 3)).double())
        # A picture given back exactly would make the mean infinite: 8-bit pictures end at 60 dB.
        columns["psnr"].append(psnr(given, images).clamp(max=60.0).double())
        columns["ssim"].append(ssim(given, images))
        if perceptual is not None:
            columns["perceptual"].append(perceptual.per_image(given, images).double())
        advance(len(images))
    values = {name: torch.cat(parts) for name, parts in columns.items() if parts}
    error = values.pop("error")
    low, high = bootstrap.of_mean(error)
    intervals = {name: bootstrap.of_mean(column) for name, column in values.items()}
    found: Reconstruction = {
        "psnr": float(values["psnr"].mean()),
        "psnr_total": _decibel(float(error.mean())),
        "ssim": float(values["ssim"].mean()),
        "pictures": len(error),
        "intervals": {**intervals, "psnr_total": [_decibel(high), _decibel(low)]},
    }
    if "perceptual" in values:
        found["perceptual"] = float(values["perceptual"].mean())
    return found


def _decibel(error: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error in [-1, 1]."""
    return float(10 * np.log10(4 / max(error, 4e-6)))
