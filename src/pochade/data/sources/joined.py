"""Several data sets as one."""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pochade.data.cache.latents import Pictures
from pochade.data.dataset import Dataset


class _Chain:
    """Numbers things through several lists of them, one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> tuple[int, int]:
        """The number of the part that holds ``index``, and the index there."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)


class Joined(_Chain):
    """Data sets of captioned pictures of one size, one after the other; one given twice is seen twice as often."""

    parts: list[Dataset]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Sample ``index`` of all: image, caption and name."""
        part, index = self._at(index)
        sample = self.parts[part].sample(index, rng)
        return {key: sample[key] for key in ("image", "caption", "name")}

    def caption(self, index: int) -> str:
        """A caption of sample ``index``."""
        part, index = self._at(index)
        inner: Any = self.parts[part]
        return inner.caption(index)


class JoinedPictures(_Chain):
    """``Pictures`` one after the other; groups keep to their part."""

    parts: list[Pictures]

    def image(self, index: int) -> Image.Image:
        part, index = self._at(index)
        return self.parts[part].image(index)

    def captions(self, index: int) -> Sequence[str]:
        part, index = self._at(index)
        return self.parts[part].captions(index)

    def label(self, index: int) -> int:
        part, index = self._at(index)
        return self.parts[part].label(index)

    def group(self, index: int) -> int:
        # No part has more groups than pictures.
        part, index = self._at(index)
        return (self._ends[part - 1] if part else 0) + self.parts[part].group(index)
