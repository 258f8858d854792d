"""Data sets in the form of the recipes that are not stages yet: of one size, with samples. Goes with them."""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from pochade.data.dataset import Dataset
from pochade.data.samples import Batch, PixelSamples
from pochade.data.scores import keep_best
from pochade.data.sources import OpenMojiSource, parse_source
from pochade.errors import PochadeError
from pochade.recipes.stages import ImageData


class Pictures(Protocol):
    """Pictures in a fixed order."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image: ...

    def captions(self, index: int) -> Sequence[str]: ...

    def label(self, index: int) -> int: ...

    def group(self, index: int) -> int: ...


class SizedPictures:
    """A data set at one size."""

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset, self.size = dataset, size
        self._samples = PixelSamples(dataset, size)
        self._groups = list(dataset.groups().values())
        self._numbers = {index: number for number, variants in enumerate(self._groups) for index in variants}

    def __len__(self) -> int:
        return len(self._groups)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        return self._samples.batch(indices, keys)

    def caption(self, index: int) -> str:
        return self.dataset.item(self._groups[index][0]).captions[0]


class LabelledPictures(SizedPictures):
    """A data set of classes at one size."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.classes


class OpenMojiPictures(SizedPictures):
    """OpenMoji at one size."""

    concepts = ()


class _Variants:
    """All pictures of a data set, to be cached."""

    def __init__(self, pictures: SizedPictures) -> None:
        self.dataset, self.size, self._numbers = pictures.dataset, pictures.size, pictures._numbers

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Image.Image:
        return self.dataset.image(index, self.size)

    def captions(self, index: int) -> Sequence[str]:
        return self.dataset.item(index).captions

    def label(self, index: int) -> int:
        label = self.dataset.item(index).label
        return -1 if label is None else label

    def group(self, index: int) -> int:
        return self._numbers[index]


def open_images(data: ImageData, split: str = "train") -> Any:
    """The data set of one split. Raises PochadeError where there is no such source, or it is empty."""
    if data.source.startswith("SET "):
        raise PochadeError(f"data.source: not set; add {data.source.removeprefix('SET ')!r} to the command")
    if data.size < 8 or data.size % 8:
        raise PochadeError(f"data.size: {data.size} given, allowed are multiples of 8")
    source = parse_source(data.source)
    dataset = source.open(split if data.held_out else "all")  # pyright: ignore[reportArgumentType]
    dataset = keep_best(dataset, data.best)
    if dataset.classes:
        return LabelledPictures(dataset, data.size)
    return (OpenMojiPictures if source == OpenMojiSource() else SizedPictures)(dataset, data.size)


def as_pictures(dataset: Any) -> Pictures:
    """A data set in the form that can be cached."""
    return _Variants(dataset)
