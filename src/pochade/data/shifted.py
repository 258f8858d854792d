"""Drawings made smaller and moved on their white ground: more of the places and sizes that a model sees."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset, Item, Shape
from pochade.data.report import Report
from pochade.errors import PochadeError

PLAIN = 3
"""How often each picture itself stands in the data set, so that two copies show it in three draws of five."""
LEAST, MOST = 0.82, 0.98
"""Sides of the copies, as fractions of the picture's."""


class Shifted(Dataset):
    """Each picture ``PLAIN`` times as it is, and ``copies`` times smaller at a random place, in one group.

    What is random comes from the picture's name: the same in every run, so that latents can be cached.

    Raises:
        PochadeError: fewer than one copy.
    """

    def __init__(self, dataset: Dataset, copies: int) -> None:
        if copies < 1:
            raise PochadeError(f"shifts: {copies} given, allowed are 1 and more")
        self.dataset, self.rows = dataset, PLAIN + copies
        self.classes = dataset.classes

    @property
    def report(self) -> Report | None:
        return self.dataset.report

    def different(self) -> int | None:
        return self.dataset.different()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    def __len__(self) -> int:
        return len(self.dataset) * self.rows

    def item(self, index: int) -> Item:
        picture, row = divmod(index, self.rows)
        item = self.dataset.item(picture)
        return replace(item, name=f"{item.name}#{row}") if row else item

    def image(self, index: int, size: int) -> Image.Image:
        return self._placed(index, self.dataset.image(index // self.rows, size), "white")

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        if kind == "edges":  # of lines made smaller, some would be lost
            return super().control(index, size, kind)
        return self._placed(index, self.dataset.control(index // self.rows, size, kind), "black")

    def _placed(self, index: int, image: Image.Image, ground: str) -> Image.Image:
        """The square ``image`` as this copy of its picture has it, on a ground."""
        picture, row = divmod(index, self.rows)
        if row < PLAIN:
            return image
        size = image.width
        rng = np.random.default_rng(int(self._copy_of(picture, row)[:16], 16))
        side = max(1, round(size * rng.uniform(LEAST, MOST)))
        left, top = rng.integers(0, size - side + 1, 2).tolist()
        page = Image.new(image.mode, (size, size), ground)
        page.paste(image.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        return page

    def dimensions(self, index: int) -> Shape | None:
        return self.dataset.dimensions(index // self.rows)

    def identity(self, index: int) -> str:
        picture, row = divmod(index, self.rows)
        return self.dataset.identity(picture) if row < PLAIN else self._copy_of(picture, row)

    def _copy_of(self, picture: int, row: int) -> str:
        return sha256(f"{self.dataset.identity(picture)} shifted {row}".encode()).hexdigest()
