"""Masks, in pipelines and hosts alike: where a picture is new, the part of it that is sampled, and how both join."""

import warnings
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from PIL import Image, ImageFilter

from ..arguments import ALPHA
from ..errors import PochadeError

CROP = 1.5
"""Side of what is cropped for a mask, as a multiple of the longer side of what the mask marks."""
NOISE = 8
"""Of 255: what compression does to black and white in a soft mask."""


class EditingWarning(UserWarning):
    """Something is done to a picture or a mask that the caller may not expect."""


def greatest(values: np.ndarray) -> int:
    """The greatest value that there can be: 255 of bytes, 1 of floats and of truth values."""
    return 255 if values.dtype == np.uint8 else 1


def read_mask(
    name: str,
    mask: np.ndarray,
    size: tuple[int, int],
    *,
    soft: bool = False,
    blur: float = 0.0,
    invert: bool = False,
    stacklevel: int = 2,
) -> np.ndarray:
    """Where a picture is generated anew, [H, W] bool: where a mask is white, from the middle grey on.

    That of a soft or blurred mask is of bytes instead: how much of the new picture is shown, of 255.

    Args:
        name: of the argument, for errors.
        mask: [H, W], of bytes or of floats in [0, 1].
        size: H and W of the picture.
        soft: grey is taken as it is, but for what lies within 3 % of black or white, where compression leaves noise.
        blur: standard deviation in pixels of a Gaussian that the mask is convolved with, beyond the border as at it; 0
            for none.
        invert: what is black is generated anew.
        stacklevel: of ``warnings.warn``, seen from the caller.

    Raises:
        PochadeError: it is of another size, or nothing is white.

    Warns:
        EditingWarning: there are grey pixels in a mask that is not soft; all of it is white.
    """
    if mask.shape != size:
        (H, W), (h, w) = size, mask.shape
        raise PochadeError(f"{name}: {w} x {h} pixels given, allowed is the size of the picture, {W} x {H}")
    most = greatest(mask)
    mask = most - mask if invert else mask
    if soft:
        marked = mask if most == 255 else (mask * np.float32(255)).round().astype(np.uint8)
        marked = np.where(marked < NOISE, np.uint8(0), np.where(marked > 255 - NOISE, np.uint8(255), marked))
    else:
        marked = mask >= most / 2
    if not marked.any() and invert:
        raise PochadeError(
            f"{name}: nothing is black, allowed with invert_mask is a mask that is black where the picture is "
            "generated anew"
        )
    if not marked.any():
        raise PochadeError(
            f"{name}: nothing is white (its brightest value is {float(mask.max()) / most:.3g} of 1), "
            "allowed is a mask that is white where the picture is generated anew"
        )
    grey = 0 if soft else np.count_nonzero(mask) - np.count_nonzero(mask == most)
    if grey:
        warnings.warn(
            f"mask: {grey} of {mask.size} pixels are grey, those from the middle on are taken as white "
            "(soft_mask=True, --soft-mask, takes them as they are)",
            EditingWarning,
            stacklevel=stacklevel + 1,
        )
    if blur:
        marked = _blurred(marked, blur)
    if marked.min() == greatest(marked):
        message = "mask: all of it is white, so that nothing of the picture is kept"
        warnings.warn(message, EditingWarning, stacklevel=stacklevel + 1)
    return marked


def transparent(name: str, alpha: np.ndarray | None) -> np.ndarray:
    """What is transparent in a picture, be it in part: [H, W] bool.

    Args:
        name: of the argument, for errors.
        alpha: [H, W], of bytes or of floats in [0, 1], 0 where it is transparent; None where nothing is.

    Raises:
        PochadeError: nothing is transparent.
    """
    if alpha is None or not (clear := alpha < greatest(alpha)).any():
        raise PochadeError(f"{name}: {ALPHA!r} given, but the picture has no transparent part")
    return clear


def _blurred(marked: np.ndarray, deviation: float) -> np.ndarray:
    levels = Image.fromarray(marked.astype(np.uint8) * 255 if marked.dtype == np.bool_ else marked)
    blurred = np.array(levels.filter(ImageFilter.GaussianBlur(float(deviation))))
    if not blurred.any():
        raise PochadeError(f"mask_blur: {deviation:g} pixels given, which leave nothing of the mask")
    return blurred


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def sides(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def place(self) -> tuple[EllipsisType, slice, slice]:
        """What takes that part of pixels [..., H, W]: ``pixels[box.place]``."""
        return ..., *self.sides


def crop_around(marked: np.ndarray, least: int) -> Box:
    """The part of a picture in which the marked pixels are sampled.

    A square around their middle whose side is ``CROP`` times that of what is marked, and at least ``least``, so that
    no pixel is enlarged; moved into the picture, and cut where the picture is smaller.

    Args:
        marked: [H, W], true somewhere.
        least: pixels.
    """
    spans = [np.flatnonzero(marked.any(axis))[[0, -1]].tolist() for axis in (1, 0)]
    side = max(least, round(CROP * max(last - first + 1 for first, last in spans)))
    starts, sides = [], []
    for (first, last), length in zip(spans, marked.shape, strict=True):
        sides.append(min(side, length))
        starts.append(min(max(0, (first + last + 1 - sides[-1]) // 2), length - sides[-1]))
    return Box(starts[0], starts[1], sides[0], sides[1])


def depth_inside(marked: np.ndarray, most: int) -> np.ndarray:
    """How many pixels each pixel lies inside of what is marked: 0 outside, 1 at the border, to ``most``; [H, W] of
    bytes where they hold ``most``, else int16.

    The chessboard distance to the nearest pixel outside, by two passes (Rosenfeld and Pfaltz, 1966). Beyond the picture
    nothing is outside.

    Args:
        marked: [H, W] bool.
        most: up to 2^14.
    """
    kind = np.uint8 if most < 255 else np.int16  # a large picture is in memory a few times already
    depth = np.where(marked, kind(most), kind(0))
    columns = np.arange(depth.shape[1], dtype=np.int32)
    # The second pass is the first one of the picture turned by half a circle.
    for passed in (depth, depth[::-1, ::-1]):
        above = np.full(depth.shape[1] + 2, most, dtype=kind)
        for row in passed:
            nearest = np.minimum(np.minimum(above[:-2], above[2:]), above[1:-1]) + kind(1)
            nearest = np.minimum(nearest, row)
            row[:] = np.minimum.accumulate(nearest - columns) + columns
            above[1:-1] = row
    return depth


def inside_seam(marked: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """How much of the new picture is shown, as a fraction: numerator [H, W], of bytes or int16, and denominator.

    0 outside, and from the border of what is marked on it rises evenly over ``width`` pixels, or over half of how deep
    it is where that is less, so that thin strokes are replaced.

    Args:
        marked: [H, W] bool.
        width: pixels, at least 1.
    """
    depth = depth_inside(marked, 2 * width)
    steps = min(width, int(depth.max()) // 2)
    return np.minimum(depth, depth.dtype.type(steps + 1), out=depth), steps + 1


def shown_of(marked: np.ndarray, seam: int) -> tuple[np.ndarray, int]:
    """How much of the new picture is shown where ``read_mask`` marks it, as ``inside_seam`` says it: a soft mask as it
    is, any other with a seam of ``seam`` pixels."""
    return inside_seam(marked, seam) if marked.dtype == np.bool_ else (marked.copy(), 255)


def lay_over(old: np.ndarray, new: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What is new over a picture, [3 or 4, h, w] in [0, 1] as ``old``.

    The old picture fades, the new one is opaque: colours are weighted by what is seen of them (over, Porter and Duff,
    1984).

    Args:
        old: [3 or 4, h, w] in [0, 1], the fourth its alpha.
        new: [3, h, w] in [0, 1].
        weight: [h, w] in [0, 1], how much of the new picture is shown.
    """
    if len(old) == 3:
        return old + weight * (new - old)
    seen = (1 - weight) * old[3]
    alpha = weight + seen
    mixed = (weight * new + seen * old[:3]) / np.maximum(alpha, np.float32(1e-6))
    return np.concatenate((np.where(weight > 0, mixed, old[:3]), alpha[None]))
