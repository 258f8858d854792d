"""Masks: where a picture is new, and the part of the picture that is sampled for it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CROP = 1.5
"""Side of what is cropped for a mask, as a multiple of the longer side of what the mask marks."""


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Tensor) -> Tensor:
        """That part of pixels [..., H, W]; a view."""
        return pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]


def crop_around(marked: Tensor, least: int) -> Box:
    """The part of a picture in which the marked pixels are sampled.

    A square around their middle whose side is ``CROP`` times that of what is marked, and at least ``least``, so that
    no pixel is enlarged; moved into the picture, and cut where the picture is smaller.

    Args:
        marked: [H, W] bool, True somewhere.
        least: pixels.
    """
    spans = [torch.nonzero(marked.any(axis)).flatten()[[0, -1]].tolist() for axis in (1, 0)]
    side = max(least, round(CROP * max(last - first + 1 for first, last in spans)))
    starts, sides = [], []
    for (first, last), length in zip(spans, marked.shape, strict=True):
        sides.append(min(side, length))
        starts.append(min(max(0, (first + last + 1 - sides[-1]) // 2), length - sides[-1]))
    return Box(starts[0], starts[1], sides[0], sides[1])


def depth_inside(marked: Tensor, most: int) -> Tensor:
    """How many pixels each pixel lies inside of what is marked, [H, W] int16: 0 outside, 1 at the border, to ``most``.

    The chessboard distance to the nearest pixel outside, by two passes (Rosenfeld and Pfaltz, 1966). Beyond the picture
    nothing is outside.

    Args:
        marked: [H, W] bool.
        most: up to 2^14.
    """
    depth = np.where(marked.numpy(), np.int16(most), np.int16(0))
    columns = np.arange(depth.shape[1], dtype=np.int32)
    # The second pass is the first one of the picture turned by half a circle.
    for passed in (depth, depth[::-1, ::-1]):
        above = np.full(depth.shape[1] + 2, most, dtype=np.int16)
        for row in passed:
            nearest = np.minimum(np.minimum(above[:-2], above[2:]), above[1:-1]) + np.int16(1)
            nearest = np.minimum(nearest, row)
            row[:] = np.minimum.accumulate(nearest - columns) + columns
            above[1:-1] = row
    return torch.from_numpy(depth)


def inside_seam(marked: Tensor, width: int) -> tuple[Tensor, int]:
    """How much of the new picture is shown, as a fraction: numerator [H, W] int16 and denominator.

    0 outside, and from the border of what is marked on it rises evenly over ``width`` pixels, or over half of how deep
    it is where that is less, so that thin strokes are replaced.

    Args:
        marked: [H, W] bool.
        width: pixels, at least 1.
    """
    depth = depth_inside(marked, 2 * width)
    steps = min(width, int(depth.max()) // 2)
    return depth.clamp_(max=steps + 1), steps + 1
