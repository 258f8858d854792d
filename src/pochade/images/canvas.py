"""From a picture of any size to a size that a model samples, and back."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

LONGEST = 4
"""The longer side of a canvas is at most this many times that of a square one."""


def resample(images: Tensor, height: int, width: int) -> Tensor:
    """Pictures [B, C, H, W] in [0, 1] at another size: bicubic, antialiased where they shrink."""
    if tuple(images.shape[2:]) == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True).clamp(0, 1)


@dataclass(frozen=True)
class Canvas:
    """Where a picture lies while it is sampled anew: resampled in its own proportions, and continued by the colours
    of its border to sides that the model can sample.

    Attributes:
        height: rows of the picture.
        width: its columns.
        inner: rows and columns of the resampled picture.
        outer: those of the canvas, multiples of what the model samples.
    """

    height: int
    width: int
    inner: tuple[int, int]
    outer: tuple[int, int]

    @classmethod
    def fit(cls, height: int, width: int, side: int, multiple: int, *, shrink: bool = True) -> "Canvas":
        """The canvas on which a picture covers about ``side`` x ``side`` pixels.

        Args:
            height: rows of the picture, at least 1.
            width: its columns, likewise.
            side: of a square of the same area. The longer side is at most ``LONGEST`` times that.
            multiple: the sides of the canvas are multiples of this.
            shrink: False where a picture of a larger area keeps its size.
        """
        scale = min(side / math.sqrt(height * width), LONGEST * side / max(height, width))
        if not shrink and height * width > side * side:
            scale = 1.0
        rows, columns = (max(1, round(length * scale)) for length in (height, width))
        outer = (-(-rows // multiple) * multiple, -(-columns // multiple) * multiple)
        return cls(height, width, (rows, columns), outer)

    @property
    def magnification(self) -> float:
        """How many pixels of the picture are one of the canvas, along a side."""
        return max(self.height / self.inner[0], self.width / self.inner[1])

    def _margins(self) -> tuple[int, int]:
        return (self.outer[0] - self.inner[0]) // 2, (self.outer[1] - self.inner[1]) // 2

    def _pad(self, values: Tensor) -> Tensor:
        top, left = self._margins()
        bottom, right = self.outer[0] - self.inner[0] - top, self.outer[1] - self.inner[1] - left
        return F.pad(values, (left, right, top, bottom), mode="replicate")

    def put(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, height, width] in [0, 1] -> [B, 3, *outer]."""
        return self._pad(resample(images, *self.inner))

    def put_mask(self, mask: Tensor, downsampling: int) -> Tensor:
        """[B, 1, height, width] in {0, 1} -> latent cells [B, 1, H, W], 1 where any pixel in them is."""
        return F.max_pool2d(self._pad(F.adaptive_max_pool2d(mask, self.inner)), downsampling)

    def take(self, images: Tensor) -> Tensor:
        """Sampled [B, 3, *outer] -> [B, 3, height, width], both in [0, 1]."""
        top, left = self._margins()
        inside = images[:, :, top : top + self.inner[0], left : left + self.inner[1]]
        return resample(inside, self.height, self.width)
