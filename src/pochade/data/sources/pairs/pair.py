"""A picture before and after, with an instruction: what editing, inpainting and super-resolution learn from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from pochade.data.dataset import split_of
from pochade.data.sources.image_files import Reading
from pochade.data.sources.tars import Skipped
from pochade.images.decode import BadImage, load_image, to_tensor
from pochade.types import TASKS

if TYPE_CHECKING:
    from pochade.data.report import Report

PAIR_TASKS = TASKS[1:]
"""The tasks that have a source."""
HOLE = (128, 128, 128)
"""What the source of an inpainting shows where the mask is 1."""
MOST_STRETCHED = 0.04
"""By how much the aspect ratios of the pictures of a pair may differ: more, and they do not lie upon each other."""
DIFFERENT, DIFFERENT_FRACTION = 24, 0.01
"""A pixel has changed when a channel differs by this many of 256 steps, a picture when this fraction of pixels has."""


@dataclass(frozen=True)
class Pair:
    """``source`` became ``target``, both RGB and size by size.

    ``task`` is one of ``PAIR_TASKS``. ``instruction`` is what to do ("make it green") or, where there is a hole to
    fill or detail to find, what the picture shows; it may be empty there. ``mask`` is a grey picture, 255 where to
    repaint and 0 elsewhere, and always there for "inpaint"; for "edit" it marks what is meant, and hides nothing. Pairs
    of one ``group`` are never on both sides of a ``split``, "train" or "held_out".
    """

    task: str
    source: Image.Image
    target: Image.Image
    mask: Image.Image | None
    instruction: str
    name: str
    group: str
    split: str = ""

    def sample(self) -> dict[str, Any]:
        """As tensors and words, see `PairDataset.sample`."""
        size = self.target.height, self.target.width
        grey = np.zeros(size, np.uint8) if self.mask is None else np.asarray(self.mask)
        return {
            "source": to_tensor(self.source),
            "target": to_tensor(self.target),
            "mask": torch.from_numpy((grey >= 128).astype(np.float32))[None],
            "instruction": self.instruction,
            "task": TASKS.index(self.task),
            "name": self.name,
        }


class PairDataset(ABC):
    """Pairs in a fixed order, all that is random drawn from a generator.

    Attributes:
        tasks: of ``PAIR_TASKS`` those that there are pairs of.
    """

    tasks: tuple[str, ...]

    @property
    def report(self) -> "Report | None":
        """What became of every file; None where nothing can be skipped."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """Pair ``index`` as pictures; without ``rng`` always the same one."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """A hexadecimal text that changes with all that any draw of pair ``index`` depends on."""

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Pair ``index`` as tensors and words.

        ``{"source", "target": float32 [3, size, size] in [-1, 1], "mask": float32 [1, size, size] in {0, 1},
        "instruction": str, "task": int, index into TASKS, "name": str}``. A mask of zeros is the same as none.
        """
        return self.pair(index, rng).sample()

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the identity of any pair, and with the order."""
        digest = sha256()
        for index in range(len(self)):
            digest.update(self.identity(index).encode())
        return digest.hexdigest()


class Readable(Protocol):
    """The bytes of a picture, wherever they lie."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Raises `BadImage`."""
        ...


@dataclass(frozen=True)
class Found:
    """A pair whose pictures are not decoded yet.

    ``instructions`` are alternatives; the mask is 1 where its picture is white, or, ``by_alpha``, where it is
    transparent; ``split`` is "" where none is stored.
    """

    name: str
    task: str
    instructions: tuple[str, ...]
    group: str
    source: Readable
    target: Readable
    mask: Readable | None = None
    by_alpha: bool = False
    split: str = ""

    def load(self, size: int, instruction: str, reading: Reading) -> tuple[Pair, tuple[str, ...]]:
        """The pair, and the conversions that its pictures took; raises `BadImage`.

        The largest square in the middle is taken and resampled to ``size`` (Lanczos; a source that is smaller,
        bicubic).
        """
        source, conversions = _load(self.source, size, reading)
        target, more = _load(self.target, size, reading)
        if _stretch(source, target) > MOST_STRETCHED:
            raise BadImage(self.name, "other shape", f"{_shape(source)} became {_shape(target)}")
        mask = None
        if self.mask is not None:
            mask = _read_mask(self.mask, size, self.by_alpha, reading)
            if _stretch(mask, target) > MOST_STRETCHED:
                raise BadImage(self.name, "other shape", f"a mask of {_shape(mask)} for {_shape(target)}")
            mask = _fit_mask(mask, size)
        source, target = fit(source, size), fit(target, size)
        if self.task == "inpaint":
            if mask is None:
                raise BadImage(self.name, "empty mask")
            source = with_hole(source, mask)
        split = self.split or split_of(self.group)
        pair = Pair(self.task, source, target, mask, instruction, self.name, self.group, split)
        return pair, tuple(dict.fromkeys((*conversions, *more)))


class PairFiles(ABC):
    """Where pairs lie as files."""

    @abstractmethod
    def candidates(self, progress: bool = True) -> Iterator[Found | Skipped]:
        """The pairs, undecoded, and what cannot be used.

        Raises:
            PochadeError: there are none in this form.
        """

    @abstractmethod
    def paths(self) -> tuple[Path, ...]:
        """The files and folders that are read, of which some may not exist."""


def fit(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square at ``size`` by ``size``: reduced by Lanczos, enlarged by bicubic interpolation."""
    side = min(image.size)
    if image.size == (size, size):
        return image
    left, top = (image.width - side) / 2, (image.height - side) / 2
    method = Image.Resampling.BICUBIC if side < size else Image.Resampling.LANCZOS
    return image.resize((size, size), method, box=(left, top, left + side, top + side))


def with_hole(image: Image.Image, mask: Image.Image) -> Image.Image:
    """``image`` with mid grey where ``mask`` is 255."""
    return Image.composite(Image.new("RGB", image.size, HOLE), image, mask)


def differ(one: Image.Image, other: Image.Image, fraction: float = DIFFERENT_FRACTION) -> bool:
    """Whether at least such a fraction of the pixels of two RGB pictures of one size differs visibly."""
    steps = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max(-1)
    return float((steps >= DIFFERENT).mean()) >= fraction


def _load(
    picture: Readable, size: int, reading: Reading, ground: tuple[int, int, int] | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    colour, limit = ground or reading.colour(picture.name), reading.max_megapixels
    return load_image(picture.read(), size=size, max_megapixels=limit, background=colour, name=picture.name)


def _read_mask(mask: Readable, size: int, by_alpha: bool, reading: Reading) -> Image.Image:
    if not by_alpha:
        return _load(mask, size, reading)[0].convert("L")
    white, _ = _load(mask, size, reading, (255, 255, 255))
    black, _ = _load(mask, size, reading, (0, 0, 0))
    pixels = np.asarray(white, np.int16)
    # What is transparent by a fraction a differs by 255 a on the two grounds.
    clear = (pixels - np.asarray(black, np.int16)).max(-1) >= 128
    # A mask that has lost its alpha on white ground shows the region in pure white.
    return Image.fromarray(np.where(clear if clear.any() else pixels.min(-1) >= 250, 255, 0).astype(np.uint8))


def _fit_mask(mask: Image.Image, size: int) -> Image.Image | None:
    """As `fit`, 255 wherever an area holds a pixel of at least 128, so that no hole shrinks; None where all are 0."""
    side = min(mask.size)
    left, top = (mask.width - side) / 2, (mask.height - side) / 2
    white = Image.fromarray((np.asarray(mask) >= 128).astype(np.float32))
    covered = white.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    chosen = np.asarray(covered) > 0
    return Image.fromarray(np.where(chosen, 255, 0).astype(np.uint8)) if chosen.any() else None


def _stretch(one: Image.Image, other: Image.Image) -> float:
    ratio = one.width * other.height / (one.height * other.width)
    return max(ratio, 1 / ratio) - 1


def _shape(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
