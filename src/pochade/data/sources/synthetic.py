"""Pictures made of their number alone: for dry runs, benchmarks and tests of any size."""

import json
from hashlib import sha256

import numpy as np
from PIL import Image, ImageDraw

from pochade.data.dataset import Dataset, Item, Split, check_size, check_split
from pochade.errors import EmptySplitError, PochadeError

COLOURS = {
    "red": (210, 40, 40),
    "orange": (235, 140, 30),
    "yellow": (240, 210, 50),
    "green": (50, 160, 70),
    "blue": (40, 90, 200),
    "purple": (130, 60, 170),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle")
EVERY, FIRST = 10, 1
"""Of so many pictures one is held out, this one first: two are enough for both splits."""
GRID = 4
"""Rows and columns of random colours between which a background changes smoothly."""
VERSION = 1
"""Changes with what the pictures show."""


class Numbered(Dataset):
    """``count`` pictures, each made of its number alone, of which a tenth is held out.

    Raises:
        PochadeError: a number out of range.
        EmptySplitError: one picture alone is not held out.
    """

    def __init__(self, name: str, split: Split, count: int) -> None:
        check_split(split)
        if count < 1:
            raise PochadeError(f"{name}: {count} pictures given, at least 1 expected")
        numbers = np.arange(count)
        held_out = numbers % EVERY == FIRST
        self.numbers = {"train": numbers[~held_out], "held_out": numbers[held_out], "all": numbers}[split]
        if not len(self.numbers):
            raise EmptySplitError(split, f"{name}:{count}", count)

    def __len__(self) -> int:
        return len(self.numbers)

    def number(self, index: int) -> tuple[int, str]:
        """The number of a picture, and the side that it is on."""
        number = int(self.numbers[index])
        return number, "held_out" if number % EVERY == FIRST else "train"


class Synthetic(Numbered):
    """A coloured shape on a smooth background of random colours, with a caption ("synthetic 12 red circle") or a class.

    Args:
        split: "train", "held_out" (a tenth) or "all".
        count: of all pictures, at least 1.
        classes: names, of which each picture has one drawn evenly; none: captions.

    Raises:
        PochadeError: a number out of range.
        EmptySplitError: one picture alone is not held out.
    """

    def __init__(self, split: Split, count: int, classes: tuple[str, ...] = ()) -> None:
        super().__init__("synthetic", split, count)
        self.classes = classes
        self._facts = [VERSION, split, count, classes]

    def item(self, index: int) -> Item:
        number, split = self.number(index)
        rng = self._rng(number)
        colour, shape = self._shape(rng)
        caption = f"synthetic {number} {colour} {shape}"
        label = int(rng.integers(len(self.classes))) if self.classes else None
        return Item(str(number), () if self.classes else (caption,), label, caption, split, "CC0-1.0")

    def image(self, index: int, size: int) -> Image.Image:
        check_size(size)
        return self._draw(index, size)[0]

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        """Of depth, the shape before its background."""
        if kind == "edges":
            return super().control(index, size, kind)
        check_size(size)
        return self._draw(index, size)[1]

    def _draw(self, index: int, size: int) -> tuple[Image.Image, Image.Image]:
        """The picture, and its shape in white on black."""
        rng = self._rng(int(self.numbers[index]))
        colour, shape = self._shape(rng)
        grid = Image.fromarray(rng.integers(0, 256, (GRID, GRID, 3), dtype=np.uint8))
        image, mask = grid.resize((size, size), Image.Resampling.BICUBIC), Image.new("L", (size, size))
        x, y = rng.uniform(0.3, 0.7, 2) * size
        radius = rng.uniform(0.15, 0.3) * size
        box = (x - radius, y - radius, x + radius, y + radius)
        for page, fill in ((image, COLOURS[colour]), (mask, 255)):
            pen = ImageDraw.Draw(page)
            match shape:
                case "circle":
                    pen.ellipse(box, fill=fill)
                case "square":
                    pen.rectangle(box, fill=fill)
                case _:
                    pen.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=fill)
        return image, mask

    def identity(self, index: int) -> str:
        return sha256(json.dumps([VERSION, int(self.numbers[index])]).encode()).hexdigest()

    def fingerprint(self) -> str:
        return sha256(json.dumps(["synthetic", *self._facts]).encode()).hexdigest()

    @staticmethod
    def _rng(number: int) -> np.random.Generator:
        return np.random.default_rng([VERSION, number])

    @staticmethod
    def _shape(rng: np.random.Generator) -> tuple[str, str]:
        return list(COLOURS)[int(rng.integers(len(COLOURS)))], SHAPES[int(rng.integers(len(SHAPES)))]
