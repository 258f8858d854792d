"""Pictures and masks as callers hand them over, to tensors: every mode, one size."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.errors import PochadeError
from pochade.images.decode import MAX_MEGAPIXELS, upright_rgb
from pochade.pipelines.checks import ALPHA


class EditingWarning(UserWarning):
    """Something is done to a picture or a mask that the caller may not expect."""


def read_pictures(image: Any) -> Tensor:
    """Pictures [n, 3, H, W] float32 in [0, 1].

    Args:
        image: a PIL picture of any mode (turned as its EXIF record says; what is transparent shows white), an array
            [H, W], [H, W, 3] or [n, H, W, 3], of bytes or of floats in [0, 1], a tensor [3, H, W] or [n, 3, H, W] in
            [0, 1], or a list of pictures, all of one size.

    Raises:
        PochadeError: something else is given, or one that is empty, or larger than ``MAX_MEGAPIXELS``.
    """
    rows = [_picture(one) for one in _listed(image, "image")]
    _check_one_size("image", rows)
    return torch.cat(rows)


def read_masks(mask_image: Any, image: Any, size: tuple[int, int]) -> Tensor:
    """Masks [m, 1, H, W] float32 in {0, 1}, 1 where the picture is generated anew: white, from the middle grey on.

    Args:
        mask_image: a PIL picture, an array [H, W] of bytes, of floats in [0, 1] or of truth values, a tensor
            [H, W], [1, H, W] or [m, 1, H, W], or a list of them; ``ALPHA`` for what is transparent in ``image``.
        image: as given to ``read_pictures``.
        size: H and W of the pictures.

    Raises:
        PochadeError: a mask is of another size, or has nothing white; there is no transparent part.

    Warns:
        EditingWarning: there are grey pixels; all of a mask is white.
    """
    if isinstance(mask_image, str):
        if mask_image != ALPHA:
            raise PochadeError(f"mask_image: {mask_image!r} given, allowed are a picture and {ALPHA!r}")
        rows = [_transparent(one) for one in _listed(image, "image")]
    else:
        rows = [_grey(one) for one in _listed(mask_image, "mask_image")]
    _check_one_size("mask_image", rows)
    masks = torch.cat(rows)
    if tuple(masks.shape[2:]) != size:
        (H, W), (h, w) = size, masks.shape[2:]
        raise PochadeError(f"mask_image: {w} x {h} pixels given, allowed is the size of the picture, {W} x {H}")
    grey = int(((masks > 0) & (masks < 1)).sum())
    if grey:
        warnings.warn(
            f"mask: {grey} of {masks.numel()} pixels are grey, those from the middle on are taken as white",
            EditingWarning,
            stacklevel=3,
        )
    marked = masks >= 0.5
    if not bool(marked.flatten(1).any(1).all()):
        raise PochadeError(
            f"mask_image: nothing is white (its brightest value is {float(masks.max()):.3g} of 1), allowed is a mask "
            "that is white where the picture is generated anew"
        )
    if bool(marked.flatten(1).all(1).any()):
        warnings.warn("mask: all of it is white, so that nothing of the picture is kept", EditingWarning, stacklevel=3)
    return marked.float()


def _listed(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        return [value]
    if not value:
        raise PochadeError(f"{name}: an empty list given, allowed is one picture or more")
    return value


def _check_one_size(name: str, rows: Sequence[Tensor]) -> None:
    sizes = sorted({(int(row.shape[3]), int(row.shape[2])) for row in rows})
    if len(sizes) > 1:
        given = " and ".join(f"{w} x {h}" for w, h in sizes)
        raise PochadeError(f"{name}: pictures of {given} pixels given, allowed is one size a call")


def check_megapixels(name: str, width: int, height: int) -> None:
    """Raises PochadeError where a picture is empty or larger than ``MAX_MEGAPIXELS``."""
    if not width or not height or width * height > MAX_MEGAPIXELS * 1e6:
        raise PochadeError(
            f"{name}: {width} x {height} pixels given, allowed are 1 to {MAX_MEGAPIXELS:g} megapixels, in a picture "
            "that is not empty"
        )


def _picture(image: Any) -> Tensor:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size:
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        check_megapixels("image", *image.size)
        pixels = torch.from_numpy(np.array(upright_rgb(image)[0], dtype=np.uint8))
        return pixels.permute(2, 0, 1)[None].float() / 255
    if isinstance(image, np.ndarray):
        rows = torch.from_numpy(image / np.float32(255) if image.dtype == np.uint8 else image)
        rows = rows[..., None].expand(*rows.shape, 3) if rows.ndim == 2 else rows
        rows = (rows if rows.ndim == 4 else rows[None]).permute(0, 3, 1, 2) if rows.ndim in (3, 4) else rows
    elif isinstance(image, Tensor):
        rows = image if image.ndim == 4 else image[None]
    else:
        raise PochadeError(f"image: {type(image).__name__} given, allowed are a picture, an array, a tensor, a list")
    if rows.ndim != 4 or rows.shape[1] != 3 or not rows.shape[0]:
        raise PochadeError(
            f"image: shape {list(image.shape)} given, allowed are arrays [H, W, 3] and tensors [3, H, W], or many"
        )
    check_megapixels("image", rows.shape[3], rows.shape[2])
    rows = rows.detach().cpu().float().contiguous()
    if not bool(torch.isfinite(rows).all()) or float(rows.min()) < 0 or float(rows.max()) > 1:
        raise PochadeError(f"image: values {float(rows.min())} to {float(rows.max())} given, allowed are [0, 1]")
    return rows


def _grey(mask: Any) -> Tensor:
    if isinstance(mask, np.ndarray | Tensor):
        rows = torch.as_tensor(mask)
        rows = rows[..., 0] if isinstance(mask, np.ndarray) and rows.ndim == 3 and rows.shape[-1] == 1 else rows
        rows = rows.detach().cpu()
        rows = rows.float() / 255 if rows.dtype == torch.uint8 else rows.float()
        rows = rows[None] if rows.ndim == 2 else rows
        rows = rows[None] if rows.ndim == 3 else rows
        if rows.ndim != 4 or rows.shape[1] != 1 or not rows.numel():
            raise PochadeError(f"mask_image: shape {list(mask.shape)} given, allowed are [H, W] and [m, 1, H, W]")
        if not bool(torch.isfinite(rows).all()) or float(rows.min()) < 0 or float(rows.max()) > 1:
            raise PochadeError(
                f"mask_image: values {float(rows.min())} to {float(rows.max())} given, allowed are 0 to 1"
            )
        return rows
    if not isinstance(mask, Image.Image):
        raise PochadeError(
            f"mask_image: {type(mask).__name__} given, allowed are a picture, an array, a tensor, a list"
        )
    # What is transparent in a mask is not white.
    grey = np.array(upright_rgb(mask, "black")[0].convert("L"), dtype=np.uint8)
    return torch.from_numpy(grey)[None, None].float() / 255


def _transparent(image: Any) -> Tensor:
    if not isinstance(image, Image.Image) or not image.has_transparency_data:
        raise PochadeError(f"mask_image: {ALPHA!r} given, but the picture has no transparent part")
    alpha = image.convert("RGBA").getchannel("A")
    upright = upright_rgb(alpha)[0].convert("L")
    return 1 - torch.from_numpy(np.array(upright, dtype=np.uint8))[None, None].float() / 255
