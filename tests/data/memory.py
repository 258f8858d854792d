"""A data set of flat pictures held in memory, of which tests change one thing at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from PIL import Image

from pochade.data.dataset import Dataset, Item

GROUPS = [[0], [1, 2], [3, 4, 5], [6], [7, 8], [9], [10]]


@dataclass(frozen=True)
class Flat:
    """A picture of one colour."""

    colour: tuple[int, int, int]
    captions: tuple[str, ...] = ()
    label: int | None = None
    group: str = ""
    name: str = ""


class MemoryDataset(Dataset):
    """Counts in ``read`` the pictures that were decoded."""

    def __init__(self, pictures: Sequence[Flat], classes: tuple[str, ...] = ()) -> None:
        self.pictures, self.classes = list(pictures), classes
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.pictures)

    def item(self, index: int) -> Item:
        picture = self.pictures[index]
        return Item(picture.name, picture.captions, picture.label, picture.group or picture.name, "train")

    def image(self, index: int, size: int) -> Image.Image:
        self.read.append(index)
        return Image.new("RGB", (size, size), self.pictures[index].colour)

    def identity(self, index: int) -> str:
        return sha256(bytes(self.pictures[index].colour)).hexdigest()

    def with_picture(self, index: int, picture: Flat) -> "MemoryDataset":
        """A copy with another picture ``index``."""
        return MemoryDataset([*self.pictures[:index], picture, *self.pictures[index + 1 :]], self.classes)

    def repainted(self, index: int, colour: tuple[int, int, int]) -> "MemoryDataset":
        """A copy in which picture ``index`` has another colour."""
        return self.with_picture(index, replace(self.pictures[index], colour=colour))


def captioned() -> MemoryDataset:
    """Eleven pictures in ``GROUPS`` of 1, 2 and 3 variants; picture i has 1 + i % 3 captions of different lengths."""
    return MemoryDataset(
        [
            Flat(
                (20 * index, 255 - 20 * index, 7),
                tuple(f"{'word ' * (k + 1)}{index}" for k in range(1 + index % 3)),
                group=f"group {group}",
                name=f"picture {index}",
            )
            for group, members in enumerate(GROUPS)
            for index in members
        ]
    )


def labelled() -> MemoryDataset:
    """The same pictures in four classes."""
    pictures = [replace(picture, captions=(), label=index % 4) for index, picture in enumerate(captioned().pictures)]
    return MemoryDataset(pictures, ("a", "b", "c", "d"))
