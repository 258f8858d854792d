"""Pictures to tensors and back; ``pochade.runtime.decode`` reads their files."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.errors import FailureError, PochadeError
from pochade.runtime.decode import (
    MAX_MEGAPIXELS,
    UNSUPPORTED,
    BadImage,
    check_megapixels,
    check_picture,
    dimensions,
    is_16_bit,
    load_image,
    upright_grey,
    upright_rgb,
)

__all__ = [
    "MAX_MEGAPIXELS",
    "UNSUPPORTED",
    "BadImage",
    "check_megapixels",
    "check_picture",
    "dimensions",
    "fitted",
    "is_16_bit",
    "load_image",
    "square",
    "to_image",
    "to_tensor",
    "upright_grey",
    "upright_rgb",
]


def square(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square of ``image``, resampled to ``size`` by ``size`` (Lanczos, antialiased)."""
    return fitted(image, size, size)


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest centred part of ``image`` of that ratio, resampled to that size (Lanczos, antialiased)."""
    if image.size == (width, height):
        return image
    wide, high = image.size
    if wide * height > high * width:
        wide = high * width / height
    else:
        high = wide * height / width
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    return image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + wide, top + high))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as float32 [3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return (pixels.float() / 127.5 - 1.0).contiguous()


def to_image(tensor: Tensor) -> Image.Image:
    """Float [3, H, W] in [-1, 1] as a picture, clipped. Raises `FailureError` at NaN or infinity."""
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise PochadeError(f"tensor: shape {list(tensor.shape)} given, [3, H, W] expected")
    tensor = tensor.detach().float().cpu()
    if not bool(torch.isfinite(tensor).all()):
        raise FailureError("tensor: it holds NaN or infinite values, which is no picture")
    pixels = ((tensor.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
