"""Edges of pictures, a kind of control for a denoiser."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pochade.errors import PochadeError, missing_extra

SIGMA = 1.0
"""Width in pixels of the blur before edges are searched: drawings have no noise, and their lines are thin."""


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
