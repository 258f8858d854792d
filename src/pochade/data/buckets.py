"""Pictures of several ratios: shapes of about one area, and batches that are each of one shape.

As in NovelAI's training (2022) pictures are cropped to the nearest of a few ratios instead of to squares.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pochade.data.dataset import Dataset, Shape
from pochade.data.samples import Batch, Samples
from pochade.errors import PochadeError
from pochade.nn.keyed_random import permuted, sample_keys

MOST = 4.0
"""The widest ratio of a picture's longer side to its shorter one that can be kept."""
AREA = 1 / 8
"""By which share the area of a shape may differ from that of the square."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def check_ratio(widest: float) -> None:
    """Raises PochadeError for a ratio out of range."""
    if not 1 < widest <= MOST:
        raise PochadeError(f"data.ratios: {widest:g} given, allowed are numbers above 1 and up to {MOST:g}, and none")


def shapes(size: int, multiple: int, widest: float) -> list[Shape]:
    """Shapes of nearly ``size`` x ``size`` pixels, an eighth more or less at most, from the tallest to the widest.

    Width and height are multiples of ``multiple``, as is ``size``; their ratio is at most ``widest`` either way. For
    each shorter side there are the two longer ones between which the area would be the same.
    """
    found: set[Shape] = set()
    for short in range(multiple, size + 1, multiple):
        below = size * size // short // multiple * multiple
        for long in (below, below + multiple):
            if short <= long <= widest * short and abs(short * long - size * size) <= AREA * size * size:
                found |= {(short, long), (long, short)}
    return sorted(found, key=lambda shape: shape[0] / shape[1])


def nearest_shape(dimensions: Shape | None, allowed: Sequence[Shape]) -> int:
    """The number of the shape that crops the least of a picture; a drawn one, without dimensions, is square."""
    width, height = dimensions or (1, 1)
    return min(range(len(allowed)), key=lambda n: abs(math.log(allowed[n][0] / allowed[n][1] * height / width)))


def lost(dimensions: Sequence[Shape | None], cropped: Callable[[Shape], Shape]) -> float:
    """The share of all pixels that is cut off where pictures are cropped to the ratios of shapes."""
    whole = kept = 0.0
    for width, height in (one for one in dimensions if one is not None):
        wide, high = cropped((width, height))
        part = min(width / wide, height / high)
        whole, kept = whole + width * height, kept + part * part * wide * high
    return 1 - kept / whole if whole else 0.0


class Bucketed(Samples):
    """Pictures in buckets, each of one shape, so that every batch is of one.

    Which bucket a step takes, and which of its pictures, is a function of the seed and the step: the steps' places in
    [0, 1), equally far from each other as multiples of the golden ratio are, fall into intervals as long as the buckets
    are large. So each bucket has its share of the steps at any time, within a few. Within a bucket each epoch is a
    permutation.

    Variants of one concept that are of different shapes are seen as often as there are shapes.

    Args:
        dataset: of all shapes.
        allowed: the shapes.
        encoded: a bucket's pictures at a shape, as samples.
    """

    def __init__(
        self, dataset: Dataset, allowed: Sequence[Shape], encoded: Callable[[Dataset, Shape], Samples]
    ) -> None:
        dimensions = [dataset.dimensions(index) for index in range(len(dataset))]
        members: dict[int, list[int]] = {}
        for index, one in enumerate(dimensions):
            members.setdefault(nearest_shape(one, allowed), []).append(index)
        self.shapes = {allowed[number]: len(indices) for number, indices in sorted(members.items())}
        self._lost = lost(dimensions, lambda one: allowed[nearest_shape(one, allowed)])
        self._lost_as_squares = lost(dimensions, lambda _: (1, 1))
        self.parts = [encoded(dataset.subset(indices), allowed[number]) for number, indices in sorted(members.items())]
        self._starts = torch.tensor([0, *np.cumsum([len(part) for part in self.parts])])
        self._known: tuple[int, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def notes(self) -> list[str]:
        counts = ", ".join(f"{width}x{height} ({count})" for (width, height), count in self.shapes.items())
        shapes = "1 shape" if len(self.parts) == 1 else f"{len(self.parts)} shapes, each batch of one"
        return [
            f"{shapes}: {counts}; {self._lost:.1%} of the pixels are cropped, "
            f"{self._lost_as_squares:.1%} with squares (data.ratios=none)"
        ]

    def order(self, seed: int, positions: Tensor, batch_size: int) -> Tensor:
        steps = positions // batch_size
        bucket, before = self._chosen(seed, int(steps.max()) + 1)
        number, earlier = bucket[steps], before[steps]
        local = earlier * batch_size + positions % batch_size
        found = torch.empty_like(positions)
        for part in number.unique().tolist():
            rows = number == part
            found[rows] = self._starts[part] + permuted(seed + part, local[rows], len(self.parts[part]))
        return found

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """Samples of one bucket. Raises PochadeError where they are of several."""
        parts = (torch.bucketize(indices, self._starts, right=True) - 1).unique().tolist()
        if len(parts) != 1:
            raise PochadeError(f"indices: of {len(parts)} shapes given, allowed is one")
        (part,) = parts
        return self.parts[part].batch(indices - self._starts[part], keys)

    def _chosen(self, seed: int, count: int) -> tuple[Tensor, Tensor]:
        """Of the first ``count`` steps and more the bucket, and how many steps before had the same."""
        if self._known is not None and self._known[0] == seed and len(self._known[1]) >= count:
            return self._known[1:]
        count *= 2
        offset = float(sample_keys(seed, torch.tensor([0])) >> 10) / 2**53
        places = (offset + np.arange(count) * _GOLDEN) % 1.0
        ends = self._starts[1:].numpy() / len(self)
        bucket = np.searchsorted(ends[:-1], places, side="right")
        before = np.zeros(count, np.int64)
        for part in range(len(self.parts)):
            rows = bucket == part
            before[rows] = np.arange(int(rows.sum()))
        self._known = seed, torch.from_numpy(bucket), torch.from_numpy(before)
        return self._known[1:]
