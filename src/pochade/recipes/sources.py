"""From the name of a data source to its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pochade.data.cache.latents import Pictures
from pochade.data.scores import keep_best
from pochade.data.sources.joined import Joined, JoinedPictures
from pochade.errors import PochadeError
from pochade.recipes.stages import ImageData

CLASSES = "classes:"
"""Before a folder: its classes are wanted, not its captions."""


@dataclass(frozen=True)
class _Captioned:
    """A folder or shards as ``Pictures``, with captions or classes: every picture is a group of its own."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Image.Image:
        return self.dataset.image(index)

    def captions(self, index: int) -> Sequence[str]:
        return self.dataset.captions(index)

    def label(self, index: int) -> int:
        return self.dataset.label(index)

    def group(self, index: int) -> int:
        return index


@dataclass(frozen=True)
class _Drawings(_Captioned):
    """OpenMoji as ``Pictures``: each drawing, the variants of a concept in one group."""

    def __len__(self) -> int:
        return len(self.dataset.items)

    def label(self, index: int) -> int:  # noqa: ARG002
        return -1

    def group(self, index: int) -> int:
        return self.dataset.group(index)


@dataclass(frozen=True)
class _Labelled(_Captioned):
    """A data set with classes and no captions as ``Pictures``."""

    def __len__(self) -> int:
        return len(self.dataset.labels)

    def captions(self, index: int) -> Sequence[str]:  # noqa: ARG002
        return ()

    def label(self, index: int) -> int:
        return int(self.dataset.labels[index])

    def group(self, index: int) -> int:
        return self.dataset.group(index) if hasattr(self.dataset, "group") else index


def open_images(data: ImageData, split: str = "train") -> Any:
    """The data set of one split, for training on pixels (``pochade.data.dataset.Dataset``).

    Raises:
        PochadeError: the source does not exist, or holds no pictures with captions or classes.
    """
    return _open_images(data, split, None)


def _open_images(data: ImageData, split: str, classes: bool | None) -> Any:
    """As ``open_images``; ``classes`` says what to take of a folder that has captions and classes."""
    if data.source.startswith("SET "):
        raise PochadeError(f"data.source: not set; add {data.source.removeprefix('SET ')!r} to the command")
    if data.size < 8 or data.size % 8:
        raise PochadeError(f"data.size: {data.size} given, allowed are multiples of 8")
    if "+" in data.source and not Path(data.source).expanduser().is_dir():
        parts = [_open_images(replace(data, source=name.strip()), split, False) for name in data.source.split("+")]
        if any(hasattr(part, "class_names") for part in parts):
            raise PochadeError(f"data.source: {data.source!r} given, but only captioned pictures can be joined")
        return Joined(parts)
    dataset = _open(data, split if data.held_out else "all", classes)
    if data.best != 1:
        if not hasattr(dataset, "keep"):
            raise PochadeError(f"data.best: {data.best} given, but only captioned pictures can be chosen from")
        keep_best(dataset, data.best)
    return dataset


def _open(data: ImageData, split: str, classes: bool | None) -> Any:
    if data.source == "openmoji":
        from pochade.data.sources.openmoji import OpenMoji

        return OpenMoji(data.size, split)  # pyright: ignore[reportArgumentType]
    if data.source == "openmoji:groups":
        from pochade.data.sources.openmoji_groups import OpenMojiGroups

        return OpenMojiGroups(data.size, split)  # pyright: ignore[reportArgumentType]
    if data.source.startswith("cifar10:"):
        from pochade.data.sources.cifar10 import CIFAR10

        return CIFAR10(Path(data.source.removeprefix("cifar10:")), "train", size=data.size)
    folder = Path(data.source.removeprefix(CLASSES)).expanduser()
    if not folder.is_dir():
        raise PochadeError(
            f"data.source: {data.source!r} given, allowed are openmoji, cifar10:PATH, a folder, {CLASSES}FOLDER, or "
            "several joined by +"
        )
    from pochade.data.prepare.pictures import open_folder

    return open_folder(folder, data.size, split, classes=True if data.source.startswith(CLASSES) else classes)


def as_pictures(dataset: Any) -> Pictures:
    """A data set in the form that can be cached."""
    if isinstance(dataset, Joined):
        return JoinedPictures([as_pictures(part) for part in dataset.parts])
    if hasattr(dataset, "concepts"):
        return _Drawings(dataset)
    return _Labelled(dataset) if hasattr(dataset, "labels") else _Captioned(dataset)
