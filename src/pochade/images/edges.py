"""Edges of pictures, as a control for a denoiser."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pochade.errors import PochadeError, missing_extra

SIGMA = 1.0
"""Width in pixels of the blur before edges are searched: drawings have no noise, and their lines are thin."""
MOST = 0.5
"""Fraction of the pixels that lines can take at most: they are one or two pixels wide."""


def load_canny() -> Any:
    """scikit-image's function. Raises PochadeError where it is not installed."""
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise missing_extra("scikit-image", "eval") from error
    return canny


def edges(image: Image.Image | Tensor) -> Tensor:
    """[1, H, W] float32 in {0, 1}, 1 on an edge: Canny's edges of red, green and blue, joined.

    Two colours may be equally bright, so that their border is to be seen in one channel only.

    Args:
        image: a picture, or [3, H, W] in [-1, 1].

    Raises:
        PochadeError: a tensor of another shape is given, or scikit-image is not installed.
    """
    canny = load_canny()
    if isinstance(image, Image.Image):
        channels = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
    elif image.ndim == 3 and image.shape[0] == 3:
        channels = image.detach().float().cpu().numpy() / 2 + 0.5
    else:
        raise PochadeError(f"image: shape {tuple(image.shape)} given, allowed is [3, H, W]")
    found = np.any([canny(channel, sigma=SIGMA) for channel in channels], axis=0)
    return torch.from_numpy(found[None].astype(np.float32))


def edges_of(image: Image.Image, width: int, height: int) -> Tensor:
    """The edges [1, H, W] of a picture, whose middle is cropped and resampled to that size first.

    Raises:
        PochadeError: scikit-image is not installed.
    """
    return edges(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))


def read_edges(image: Image.Image, name: str) -> Tensor:
    """[1, H, W] float32 in {0, 1} from a picture of white lines on black, each pixel rounded to one of both.

    Raises:
        PochadeError: more than half of it is white, as where lines are black on white; it begins with ``name``.
    """
    lines = torch.from_numpy(np.asarray(image.convert("L")) >= 128)[None].float()
    if float(lines.mean()) > MOST:
        raise PochadeError(f"{name}: {float(lines.mean()):.0%} of it is white, allowed are white lines on black")
    return lines


def edges_image(lines: Tensor) -> Image.Image:
    """Edges [1, H, W] as a picture of white lines on black, as ``read_edges`` takes it."""
    return Image.fromarray((lines[0] * 255).round().to(torch.uint8).cpu().numpy())


def encode_lines(lines: Tensor, encode_images: Callable[[Tensor], Tensor]) -> Tensor:
    """Latents [B, C, h, w] of lines [B, 1, H, W] in [0, 1], drawn black on white, as pictures show them.

    A row without lines becomes one of zeros, which is no control.

    Args:
        encode_images: [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
    """
    latents = encode_images((1 - 2 * lines).expand(-1, 3, -1, -1))
    return latents * (lines != 0).flatten(1).any(1)[:, None, None, None]
