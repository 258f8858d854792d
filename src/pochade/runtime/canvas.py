"""From a picture of any size to the sizes that the graphs of a bundle take, and back; and tiles of them.

Pictures are float32 [H, W, 3] in [0, 1], masks float32 [H, W] in {0, 1}.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HOLE = 128 / 255
"""The grey of what is to be inpainted, in the source that a model is shown which was trained for that."""
LONGEST = 4
"""The longer side of a canvas is at most this many times that of a square one, where a model samples any size."""


def sampled_size(
    height: int, width: int, side: int, multiple: int, *, shrink: bool = True, margin: int = 0
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size at which a model that samples any size has a picture in its own proportions: rows and columns of the
    picture, and of the canvas on which it lies.

    Args:
        height: rows of the picture, at least 1.
        width: its columns, likewise.
        side: of a square of the same area. The longer side is at most ``LONGEST`` times that.
        multiple: the sides of the canvas are multiples of this.
        shrink: False where a picture of a larger area keeps its size.
        margin: pixels of the canvas, at least, that lie beyond each border of the picture.
    """
    scale = min(side / math.sqrt(height * width), LONGEST * side / max(height, width))
    if not shrink and height * width > side * side:
        scale = 1.0
    rows, columns = (max(1, round(length * scale)) for length in (height, width))
    outer = (-(-(rows + 2 * margin) // multiple) * multiple, -(-(columns + 2 * margin) // multiple) * multiple)
    return (rows, columns), outer


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture [H, W, C] at another size: bicubic, antialiased where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    return _bicubic(image, height, width).clip(0, 1)


def _bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    channels = (Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2]))
    resized = [np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels]
    return np.stack(resized, axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Canvas:
    """Where a picture lies while it is sampled anew: resampled in its own proportions, and continued by the colours
    of its border.

    Attributes:
        size: rows and columns of the picture.
        inner: those of the resampled picture.
        outer: those of the canvas.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]

    @classmethod
    def fit(cls, size: tuple[int, int], outer: tuple[int, int]) -> "Canvas":
        """The largest form of a picture inside ``outer``."""
        scale = min(outer[0] / size[0], outer[1] / size[1])
        inner = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        return cls(size, (min(inner[0], outer[0]), min(inner[1], outer[1])), outer)

    @property
    def magnification(self) -> float:
        """How many pixels of the picture are one of the canvas, along a side."""
        return max(self.size[0] / self.inner[0], self.size[1] / self.inner[1])

    def _margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        (h, w), (H, W) = self.inner, self.outer
        top, left = (H - h) // 2, (W - w) // 2
        return (top, H - h - top), (left, W - w - left)

    def put(self, image: np.ndarray) -> np.ndarray:
        """A picture [*size, 3] -> [*outer, 3]."""
        return np.pad(resample(image, *self.inner), (*self._margins(), (0, 0)), mode="edge")

    def put_mask(self, mask: np.ndarray, downsampling: int) -> np.ndarray:
        """A mask [*size] -> latent cells [H, W], 1 where any pixel in them is."""
        for axis in (0, 1):
            given, taken = self.size[axis], self.inner[axis]
            spans = [(i * given // taken, -(-(i + 1) * given // taken)) for i in range(taken)]
            mask = np.stack([mask.take(range(a, b), axis).max(axis) for a, b in spans], axis)
        mask = np.pad(mask, self._margins(), mode="edge")
        cells = (self.outer[0] // downsampling, downsampling, self.outer[1] // downsampling, downsampling)
        return mask.reshape(cells).max((1, 3))

    def take(self, image: np.ndarray) -> np.ndarray:
        """A canvas [*outer, 3] -> [*size, 3]."""
        (top, bottom), (left, right) = self._margins()
        inside = image[top : self.outer[0] - bottom, left : self.outer[1] - right]
        # Rows first, as the pipelines do: what goes beyond [0, 1] is cut after each direction.
        return resample(resample(inside, self.size[0], self.inner[1]), *self.size)


def agree(image: np.ndarray, small: np.ndarray, rounds: int = 8) -> np.ndarray:
    """The picture changed so that, made smaller, it is ``small``: back-projection (Irani and Peleg, 1991).

    A pixel stays within twice the range of the colours around it in ``small``, and details fade where the picture, made
    smaller, is far from it: see ``pochade.pipelines.super_resolution.agree``.
    """
    (h, w), (H, W) = small.shape[:2], image.shape[:2]

    def shrunk() -> np.ndarray:
        return image.reshape(h, H // h, w, W // w, 3).mean((1, 3))

    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = np.stack([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)])
    most, least = around.max(0), around.min(0)
    error, span = (np.square(a - b).mean(-1) for a, b in ((small, shrunk()), (most, least)))
    kept = np.maximum(1 - 4 * error / np.maximum(span, np.float32(1e-8)), 0)
    kept = np.asarray(Image.fromarray(kept).resize((W, H), Image.Resampling.BILINEAR))[..., None]
    image = _bicubic(small, H, W) + kept * (image - _bicubic(shrunk(), H, W))
    high, low = (
        bound.repeat(H // h, 0).repeat(W // w, 1)
        for bound in ((2 * most - least).clip(max=1), (2 * least - most).clip(min=0))
    )
    for number in range(2 * rounds):
        error = small - shrunk()
        same = number >= rounds
        image = image + (error.repeat(H // h, 0).repeat(W // w, 1) if same else _bicubic(error, H, W))
        image = image.clip(low, high)
    return image


@dataclass(frozen=True)
class Tiles:
    """A canvas cut into tiles of one size, which overlap by half a tile and are blended linearly there.

    Attributes:
        size: rows and columns of the canvas in latent cells, at least those of a tile.
        tile: those of a tile.
    """

    size: tuple[int, int]
    tile: tuple[int, int]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._places())

    def cut(self, values: np.ndarray) -> list[np.ndarray]:
        """Values [1, C, k H, k W], k for a cell, -> tiles [1, C, k h, k w]."""
        k = values.shape[2] // self.size[0]
        return [values[:, :, k * y : k * (y + self.tile[0]), k * x : k * (x + self.tile[1])] for y, x in self._places()]

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Tiles [1, C, k h, k w] -> the whole [1, C, k H, k W]; one tile as it is."""
        if len(parts) == 1:
            return parts[0]
        k = parts[0].shape[2] // self.tile[0]
        down, across = (_rising_and_falling(k * side) for side in self.tile)
        weight = down[:, None] * across
        whole = np.zeros((*parts[0].shape[:2], *(k * side for side in self.size)), dtype=np.float32)
        total = np.zeros(whole.shape[2:], dtype=np.float32)
        for (y, x), part in zip(self._places(), parts, strict=True):
            rows, columns = slice(k * y, k * (y + self.tile[0])), slice(k * x, k * (x + self.tile[1]))
            whole[:, :, rows, columns] += weight * part
            total[rows, columns] += weight
        return whole / total

    def _places(self) -> list[tuple[int, int]]:
        rows, columns = (
            [*range(0, whole - part, max(1, part // 2)), whole - part]
            for whole, part in zip(self.size, self.tile, strict=True)
        )
        return [(y, x) for y in rows for x in columns]


def _rising_and_falling(length: int) -> np.ndarray:
    at = (np.arange(length, dtype=np.float32) + 0.5) / length
    return np.minimum(at, 1 - at)
