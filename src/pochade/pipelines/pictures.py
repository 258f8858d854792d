"""Pictures and masks as callers hand them over, to tensors: every mode, one size."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.arguments import ALPHA
from pochade.errors import PochadeError
from pochade.images.canvas import as_floats, bands
from pochade.images.decode import check_megapixels, check_picture, upright_grey, upright_rgb
from pochade.runtime.masks import read_mask, transparent
from pochade.runtime.pictures import on_white

EVERY = slice(None)


@dataclass(frozen=True)
class Pictures:
    """n pictures of one size, in bytes, or in floats in [0, 1] where they were given as such.

    Attributes:
        colour: [n, 3, H, W], of what is transparent too.
        alpha: [n, 1, H, W], 0 where it is transparent; None where nothing is.
    """

    colour: Tensor
    alpha: Tensor | None = None

    def __len__(self) -> int:
        return len(self.colour)

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        return int(self.colour.shape[2]), int(self.colour.shape[3])

    def shown(self, rows: slice = EVERY, columns: slice = EVERY) -> Tensor:
        """What is seen of some rows and columns, [n, 3, h, w]: what is transparent shows white."""
        colour = self.colour[:, :, rows, columns]
        if self.alpha is None:
            return colour
        alpha = self.alpha[:, :, rows, columns]
        if colour.dtype != torch.uint8:
            return colour * alpha + (1 - alpha)
        white = torch.empty(colour.shape, dtype=torch.uint8)
        for i, picture in enumerate(torch.cat((colour, alpha), dim=1)):
            for band in bands(*picture.shape[1:]):
                part = on_white(Image.fromarray(picture[:, band].permute(1, 2, 0).contiguous().numpy()))
                white[i, :, band] = torch.from_numpy(np.array(part)).permute(2, 0, 1)
        return white

    def image(self) -> Image.Image:
        """The first one as it is shown."""
        new = NewPictures(1, 3, self.size, "pil")
        for rows in bands(*self.size):
            new.put(0, self.of(0).shown(rows)[0], rows.start)
        return new.images[0]

    def channels(self, rows: slice) -> Tensor:
        """Some rows with their transparency where there is any, [n, 3 or 4, h, W]."""
        colour = self.colour[:, :, rows]
        return colour if self.alpha is None else torch.cat((colour, self.alpha[:, :, rows]), dim=1)

    def opacity(self) -> Tensor:
        """``alpha``, or as much of nothing transparent."""
        most = 255 if self.colour.dtype == torch.uint8 else 1
        return torch.full_like(self.colour[:, :1], most) if self.alpha is None else self.alpha

    def of(self, i: int) -> "Pictures":
        """Picture i alone."""
        one = slice(i, i + 1)
        return Pictures(self.colour[one], None if self.alpha is None else self.alpha[one])

    def opaque(self) -> "Pictures":
        """The pictures with the colours that what is transparent has."""
        return Pictures(self.colour)

    @classmethod
    def cat(cls, parts: "Sequence[Pictures]") -> "Pictures":
        """Pictures of one size in one batch; floats where any are."""
        if len(parts) == 1:
            return parts[0]
        if len({part.colour.dtype for part in parts}) > 1:
            parts = [part._floats() for part in parts]
        colour = torch.cat([part.colour for part in parts])
        if all(part.alpha is None for part in parts):
            return cls(colour)
        return cls(colour, torch.cat([part.opacity() for part in parts]))

    def _floats(self) -> "Pictures":
        return Pictures(as_floats(self.colour), None if self.alpha is None else as_floats(self.alpha))


class NewPictures:
    """Pictures that come out, filled part by part: what the caller wants is the only copy of a large one.

    Args:
        B: how many.
        channels: 3, or 4 with transparency.
        size: H and W.
        output_type: ``pil``; ``np`` [B, H, W, C] or ``pt`` [B, C, H, W], floats in [0, 1].

    Attributes:
        images: of that type.
    """

    def __init__(self, B: int, channels: int, size: tuple[int, int], output_type: str) -> None:
        self._floats: Tensor | None = None
        self.images: Any
        if output_type == "pil":
            mode = "RGB" if channels == 3 else "RGBA"
            self.images = [Image.new(mode, (size[1], size[0])) for _ in range(B)]
        else:
            self._floats = torch.empty(B, channels, *size)
            self.images = self._floats if output_type == "pt" else self._floats.permute(0, 2, 3, 1).numpy()

    def put(self, i: int, part: Tensor, top: int = 0, left: int = 0) -> None:
        """A part [C, h, w] of picture i, of bytes or of floats in [0, 1], in its place."""
        if self._floats is not None:
            self._floats[i, :, top : top + part.shape[1], left : left + part.shape[2]] = as_floats(part)
            return
        rounded = part if part.dtype == torch.uint8 else (part * 255).round().to(torch.uint8)
        self.images[i].paste(Image.fromarray(rounded.permute(1, 2, 0).contiguous().numpy()), (left, top))


def read_pictures(image: Any) -> Pictures:
    """Pictures to start from.

    Args:
        image: a PIL picture of any mode (turned as its EXIF record says, in sRGB by its profile), an array [H, W],
            [H, W, 3] or [n, H, W, 3], of bytes or of floats in [0, 1], a tensor [3, H, W] or [n, 3, H, W], likewise,
            or a list of pictures, all of one size. What was read already is returned as it is.

    Raises:
        PochadeError: something else is given, or one that is empty, or larger than ``MAX_MEGAPIXELS``.
    """
    if isinstance(image, Pictures):
        return image
    parts = [_picture(one) for one in _listed(image, "image")]
    _check_one_size("image", [part.colour for part in parts])
    return Pictures.cat(parts)


def read_masks(
    mask_image: Any, pictures: Pictures, *, soft: bool = False, blur: float = 0.0, invert: bool = False
) -> list[np.ndarray]:
    """Masks [H, W], as ``pochade.runtime.masks.read_mask`` reads each: bool, or bytes where they are soft or blurred.

    Args:
        mask_image: a PIL picture, an array [H, W] of bytes, of floats in [0, 1] or of truth values, a tensor
            [H, W], [1, H, W] or [m, 1, H, W], or a list of them; ``ALPHA`` for what is transparent in the pictures,
            be it in part.
        pictures: of the same size.
        soft: grey is taken as it is.
        blur: standard deviation in pixels of a Gaussian that a mask is convolved with; 0 for none.
        invert: what is black is generated anew.

    Raises:
        PochadeError: a mask is of another size, or has nothing white; there is no transparent part, or one that is to
            be taken in another way.

    Warns:
        EditingWarning: there are grey pixels in a mask that is not soft; all of a mask is white.
    """
    if isinstance(mask_image, str):
        if mask_image != ALPHA:
            raise PochadeError(f"mask_image: {mask_image!r} given, allowed are a picture and {ALPHA!r}")
        if soft or blur or invert:
            raise PochadeError(f"mask_image: {ALPHA!r} given with soft_mask, mask_blur or invert_mask, allowed is none")
        alphas = [None] if pictures.alpha is None else [alpha.numpy() for alpha in pictures.alpha[:, 0]]
        return [transparent("mask_image", alpha) for alpha in alphas]
    parts = [mask.numpy() for one in _listed(mask_image, "mask_image") for mask in _grey(one)[:, 0]]
    options: dict[str, Any] = {"soft": soft, "blur": blur, "invert": invert}
    return [read_mask("mask_image", part, pictures.size, **options, stacklevel=4) for part in parts]


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


def _bytes(image: Image.Image) -> Tensor:
    """[1, C, H, W] of a picture, which is asked for one band of rows after the other."""
    width, height = image.size
    pixels: Tensor | None = None
    for rows in bands(height, width):
        band = image.crop((0, rows.start, width, rows.stop))
        part = torch.from_numpy(np.array(band))
        if pixels is None:
            pixels = torch.empty(1, height, width, part[0, 0].numel(), dtype=torch.uint8)
        pixels[0, rows] = part.view(*part.shape[:2], -1)
    assert pixels is not None
    return pixels.permute(0, 3, 1, 2)


def _picture(image: Any) -> Pictures:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size:
        with suppress(TypeError):  # of no known number of channels: named below
            image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        check_picture("image", image)
        upright = upright_rgb(image, None)[0]
        if upright.mode == "RGB":
            return Pictures(_bytes(upright))
        pixels = _bytes(upright)
        return Pictures(pixels[:, :3], pixels[:, 3:])
    if isinstance(image, np.ndarray):
        rows = _tensor("image", image)
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
    rows = _in_range("image", rows)
    return Pictures(rows)


def _tensor(name: str, values: np.ndarray) -> Tensor:
    if values.dtype.kind not in "buif":
        raise PochadeError(f"{name}: an array of {values.dtype} given, allowed are bytes, and floats in [0, 1]")
    return torch.from_numpy(values.copy())


def _in_range(name: str, values: Tensor) -> Tensor:
    """Bytes as they are, anything else as floats. Raises PochadeError where they do not lie in [0, 1]."""
    values = values.detach().cpu()
    if values.dtype == torch.uint8:
        return values
    values = values.float()
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise PochadeError(f"{name}: values {low} to {high} given, allowed are bytes, and floats in [0, 1]")
    return values


def _grey(mask: Any) -> Tensor:
    """[m, 1, H, W] of bytes or of floats in [0, 1]."""
    if isinstance(mask, np.ndarray | Tensor):
        rows = _tensor("mask_image", mask) if isinstance(mask, np.ndarray) else mask
        rows = rows[..., 0] if isinstance(mask, np.ndarray) and rows.ndim == 3 and rows.shape[-1] == 1 else rows
        rows = rows[None] if rows.ndim == 2 else rows
        rows = rows[None] if rows.ndim == 3 else rows
        if rows.ndim != 4 or rows.shape[1] != 1 or not rows.numel():
            raise PochadeError(f"mask_image: shape {list(mask.shape)} given, allowed are [H, W] and [m, 1, H, W]")
        return _in_range("mask_image", rows)
    if not isinstance(mask, Image.Image):
        raise PochadeError(
            f"mask_image: {type(mask).__name__} given, allowed are a picture, an array, a tensor, a list"
        )
    check_picture("mask_image", mask)
    # What is transparent in a mask is not white.
    return _bytes(upright_grey(mask))
