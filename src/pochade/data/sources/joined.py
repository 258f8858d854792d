"""Several data sets as one."""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from pochade.data.dataset import Dataset, Item, Shape
from pochade.data.report import Report


class Joined(Dataset):
    """Data sets of captioned pictures, one after the other; groups keep to their part, so that one that is given twice
    is seen twice as often."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = list(parts)
        self._ends = list(itertools.accumulate(len(part) for part in parts))
        self._report = Report.joined([part.report for part in parts if part.report is not None])

    @property
    def report(self) -> Report | None:
        return self._report

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> Item:
        number, inside = self._at(index)
        item = self.parts[number].item(inside)
        return replace(item, name=f"{number}/{item.name}", group=f"{number}/{item.group}")

    def stored(self, index: int) -> Item:
        number, inside = self._at(index)
        return replace(self.parts[number].stored(inside), name=self.item(index).name, group=self.item(index).group)

    def image(self, index: int, size: int) -> Image.Image:
        number, inside = self._at(index)
        return self.parts[number].image(inside, size)

    def fitted(self, index: int, width: int, height: int) -> Image.Image:
        number, inside = self._at(index)
        return self.parts[number].fitted(inside, width, height)

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        number, inside = self._at(index)
        return self.parts[number].control(inside, size, kind)

    def dimensions(self, index: int) -> Shape | None:
        number, inside = self._at(index)
        return self.parts[number].dimensions(inside)

    def identity(self, index: int) -> str:
        number, inside = self._at(index)
        return self.parts[number].identity(inside)

    def _at(self, index: int) -> tuple[int, int]:
        """The number of the part that holds ``index``, and the index there."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)
