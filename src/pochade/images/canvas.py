"""From a picture of any size to a size that a model samples, and back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.runtime.canvas import sampled_size

BAND = 2**18
"""Pixels that are resampled at once, so that a large picture needs little more memory than its bytes."""


def as_floats(images: Tensor) -> Tensor:
    """Bytes, or floats in [0, 1], as floats in [0, 1]."""
    return images / 255 if images.dtype == torch.uint8 else images


def resample(images: Tensor, height: int, width: int) -> Tensor:
    """Pictures [B, C, H, W], of bytes or of floats in [0, 1], as floats at another size: bicubic, antialiased where
    they shrink."""
    H, W = images.shape[2:]
    if (height, width) == (H, W):
        return as_floats(images)
    return _resampled((as_floats(images[:, :, rows]) for rows in bands(H, W)), height, width)


def _resampled(parts: Iterable[Tensor], height: int, width: int) -> Tensor:
    narrow = torch.cat([_interpolated(part, part.shape[2], width) for part in parts], dim=2)
    return _interpolated(narrow, height, width).clamp(0, 1)


def _interpolated(images: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True)


def bands(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture in bands of about ``BAND`` pixels."""
    step = max(1, BAND // width)
    return (slice(first, min(first + step, height)) for first in range(0, height, step))


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
    def fit(
        cls, height: int, width: int, side: int, multiple: int, *, shrink: bool = True, margin: int = 0
    ) -> "Canvas":
        """The canvas on which a picture covers about ``side`` x ``side`` pixels: see ``sampled_size``."""
        inner, outer = sampled_size(height, width, side, multiple, shrink=shrink, margin=margin)
        return cls(height, width, inner, outer)

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
        """Pictures [B, 3, height, width], of bytes or of floats in [0, 1], -> [B, 3, *outer] in [0, 1]."""
        return self.put_bands(lambda rows: images[:, :, rows])

    def put_bands(self, shown: Callable[[slice], Tensor]) -> Tensor:
        """``put``, of pictures that are asked for some of their rows at a time."""
        parts = (as_floats(shown(rows)) for rows in bands(self.height, self.width))
        same = self.inner == (self.height, self.width)
        return self._pad(torch.cat(list(parts), dim=2) if same else _resampled(parts, *self.inner))

    def put_mask(self, mask: Tensor) -> Tensor:
        """[B, 1, height, width] bool -> [B, 1, *outer] in {0, 1}, 1 where any pixel is True."""
        rows, columns = self.inner
        return self._pad(_any_in(_any_in(mask, rows, 2), columns, 3).float())

    def take(self, images: Tensor) -> Tensor:
        """Sampled [B, 3, *outer] -> [B, 3, height, width], both in [0, 1]."""
        return torch.cat([rows for _, rows in self.bands(images)], dim=2)

    def bands(self, images: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """``take`` in bands of rows: the rows of the picture and what stands there."""
        top, left = self._margins()
        inside = images[:, :, top : top + self.inner[0], left : left + self.inner[1]]
        tall = resample(inside, self.height, self.inner[1])
        for rows in bands(self.height, self.width):
            yield rows, resample(tall[:, :, rows], rows.stop - rows.start, self.width)


def _any_in(mask: Tensor, count: int, dim: int) -> Tensor:
    """Whether any value is True in each of ``count`` even parts of an axis; a value may lie in two of them."""
    length = mask.shape[dim]
    ends = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
    return torch.stack([mask.narrow(dim, first, last - first).any(dim) for first, last in ends], dim)
