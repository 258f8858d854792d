"""What every source of pictures opens to, and the rule that holds pictures out of training."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, get_args

from PIL import Image

from pochade.arguments import is_whole, shown
from pochade.errors import PochadeError
from pochade.images.controls import control_image
from pochade.images.decode import fitted
from pochade.images.edges import edges

if TYPE_CHECKING:
    from pochade.data.report import Report
    from pochade.data.windows import Windows

Split = Literal["train", "held_out", "composed", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT_FRACTION = 0.1
Shape = tuple[int, int]
"""Width and height of a picture in pixels."""
LARGEST = 8192
"""Rows and columns in pixels that a picture can have."""


Scores = tuple[tuple[str, float], ...]
"""Numbers that are stored with a picture, by their names in lower case."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture, undecoded.

    Attributes:
        name: unique in its data set.
        captions: alternatives; empty where the data set is one of classes.
        label: an index into ``Dataset.classes``; None where there are captions.
        group: pictures of one group are variants of one concept: they are never on both sides of a split, and an epoch
            shows one of them.
        split: "train", "held_out", or "composed": a style and a concept that are both seen in training, never together.
        licence: None where it is not known.
        scores: numbers that are stored with it.
    """

    name: str
    captions: tuple[str, ...]
    label: int | None
    group: str
    split: str
    licence: str | None = None
    scores: Scores = ()

    @property
    def caption(self) -> str:
        """The fullest of the captions, the first of the longest; empty where there is none."""
        return max(self.captions, key=len, default="")


class Dataset(ABC):
    """Pictures in a fixed order, each with captions or with a class, of no size of their own.

    Attributes:
        classes: names of the classes where pictures are labelled, which then have no captions; else empty.
        windows: the order in which pictures are read that this machine's disk does not hold, none of which is then a
            variant of another; None: they are read in any order.
    """

    classes: tuple[str, ...] = ()
    windows: "Windows | None" = None

    @property
    def report(self) -> "Report | None":
        """What became of every file; None where nothing can be skipped."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """The number of pictures, the variants of all groups."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """All that is known of picture ``index`` in [0, len) without decoding it."""

    @abstractmethod
    def image(self, index: int, size: int) -> Image.Image:
        """Picture ``index``, RGB, ``size`` by ``size`` pixels: the largest square in the middle, by Lanczos.

        Raises:
            BadImage: it cannot be read any more.
            PochadeError: a size outside 1 to 8192.
        """

    def fitted(self, index: int, width: int, height: int) -> Image.Image:
        """Picture ``index``, RGB, ``width`` by ``height`` pixels: the largest part of that ratio in its middle.

        Raises as ``image``.
        """
        return fitted(self.image(index, max(width, height)), width, height)

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        """The control of picture ``index``, as large as ``image`` gives that, of a kind of ``pochade.types.CONTROLS``.

        Raises:
            PochadeError: the data have none of that kind, or finding edges needs a package that is missing.
        """
        if kind != "edges":
            raise PochadeError(
                f"task.kind: {kind} given, but {self.item(index).name!r} comes without: openmoji and drawings have "
                "depth, figures:COUNT a pose"
            )
        return control_image(edges(self.image(index, size)))

    @abstractmethod
    def identity(self, index: int) -> str:
        """A hexadecimal text that changes with the bytes of picture ``index``, not with its place or time."""

    def dimensions(self, index: int) -> Shape | None:  # noqa: ARG002
        """Width and height in pixels of picture ``index`` as stored; None where it is drawn, square, at any size."""
        return None

    def different(self) -> int | None:
        """How many different pictures there are, by their bytes; None where all differ, or it is not known without
        reading them."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that the labels of ``stored`` index: ``classes``, also where captions are preferred to them."""
        return self.classes

    def stored(self, index: int) -> Item:
        """As `item`, with caption and label both where both are known: what is written when a data set is prepared."""
        return self.item(index)

    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with any identity, caption, label, group or split, and with the order."""
        digest = sha256(json.dumps(self.classes).encode())
        for index in range(len(self)):
            item = self.item(index)
            facts = [self.identity(index), item.captions, item.label, item.group, item.split]
            digest.update(json.dumps(facts).encode())
        return digest.hexdigest()

    def expect(self, seed: int, position: int | None) -> None:
        """Fetches what a run with ``seed`` reads from ``position`` on, where there are ``windows``; None: no more."""
        del seed, position

    def evenly_spaced(self, count: int) -> Sequence[int]:
        """At most ``count`` pictures from all over the data set; from as few shards as hold them where it has
        ``windows``."""
        return range(0, len(self), -(-len(self) // count))

    def groups(self) -> dict[str, list[int]]:
        """The pictures of each group, groups and pictures in the order of the data set."""
        found: dict[str, list[int]] = {}
        for index in range(len(self)):
            found.setdefault(self.item(index).group, []).append(index)
        return found

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """The pictures at ``indices``, in that order."""
        return Subset(self, indices)


class Subset(Dataset):
    """Some pictures of another data set."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, list(indices)
        self.classes = dataset.classes

    @property
    def report(self) -> "Report | None":
        return self.dataset.report

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Item:
        return self.dataset.item(self.indices[index])

    def image(self, index: int, size: int) -> Image.Image:
        return self.dataset.image(self.indices[index], size)

    def fitted(self, index: int, width: int, height: int) -> Image.Image:
        return self.dataset.fitted(self.indices[index], width, height)

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        return self.dataset.control(self.indices[index], size, kind)

    def identity(self, index: int) -> str:
        return self.dataset.identity(self.indices[index])

    def dimensions(self, index: int) -> Shape | None:
        return self.dataset.dimensions(self.indices[index])

    def different(self) -> int | None:
        if self.dataset.different() is None:
            return None
        count = len(set(map(self.identity, range(len(self)))))
        return count if count < len(self) else None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    def stored(self, index: int) -> Item:
        return self.dataset.stored(self.indices[index])


def is_held_out(key: str, fraction: float = HELD_OUT_FRACTION) -> bool:
    """Whether ``key`` belongs to the held-out ``fraction`` in [0, 1].

    It depends on the key alone, so that a picture added later moves no other one to the other side.
    """
    digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32


def split_of(group: str) -> str:
    """ "train" or "held_out", by the name of a group."""
    return "held_out" if is_held_out(group) else "train"


def check_size(size: int) -> None:
    """Raises `PochadeError` unless ``size`` is a number of pixels that a picture can have."""
    if not is_whole(size) or not 1 <= size <= LARGEST:
        raise PochadeError(f"size: {shown(size)} given, 1 to {LARGEST} pixels allowed")


def check_split(split: str) -> None:
    """Raises `PochadeError` for an unknown split."""
    if split not in SPLITS:
        raise PochadeError(f"split: {split!r} given, allowed are {', '.join(SPLITS)}")
