"""What a loader draws batches from: whole batches at once, all that is random in them a function of keys."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from hashlib import sha256
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from pochade.data.dataset import Dataset
from pochade.device import device_memory
from pochade.nn.keyed_random import keyed_integers, permuted

KEPT_SHARE = 0.25
"""Of the free memory, for pictures that are decoded."""

T = TypeVar("T")
R = TypeVar("R")

Batch = dict[str, Tensor | list[str]]
"""Tensors with the batch first, and lists of strings."""


class Stream(IntEnum):
    """Which of a sample's random numbers (``pochade.nn.keyed_random``); apart from those that tasks draw."""

    VARIANT = 1000
    CAPTION = 1001
    VIEW = 1002
    RECORD = 1003
    DRAW = 1004
    PICTURE_INSTEAD = 1005
    WHICH_PICTURE = 1006


class Samples(Protocol):
    """Samples that are drawn by whole batches.

    ``len`` is the number of samples that an epoch shows. ``batch`` gives those at ``indices`` [B] int64 in [0, len);
    whatever is random in them comes from ``keys`` [B] int64, so that a sample is the same alone and in any batch.
    ``order`` says which samples are seen at ``positions`` [B] int64 of a run with ``seed``, in steps of ``batch_size``:
    each epoch is a permutation of its own. ``expect`` gets the position of a run before what is seen there is drawn,
    and None at its end. ``notes`` are lines to print before a training.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, keys: Tensor) -> Batch: ...

    def order(self, seed: int, positions: Tensor, batch_size: int) -> Tensor:
        del batch_size
        return permuted(seed, positions, len(self))

    def expect(self, seed: int, position: int | None) -> None:
        del seed, position

    def notes(self) -> list[str]:
        return []


class Groups:
    """Which pictures are variants of one concept, of which an epoch shows one.

    Args:
        order: [P] int64, the pictures, those of a group side by side; None where each picture is a group.
        first: [G + 1] int64, where in ``order`` each group begins; the last entry is P.
        pictures: P.
    """

    def __init__(self, order: Tensor | None, first: Tensor | None, pictures: int) -> None:
        self.order, self.first, self.pictures = order, first, pictures

    @classmethod
    def by_name(cls, names: np.ndarray) -> "Groups":
        """Groups in the order of their first picture, from the digests of all pictures' groups."""
        numbers, begins = distinct(names)
        if len(begins) == len(names):
            return cls(None, None, len(names))
        first = np.zeros(len(begins) + 1, np.int64)
        np.cumsum(np.bincount(numbers), out=first[1:])
        return cls(torch.from_numpy(np.argsort(numbers, kind="stable")), torch.from_numpy(first), len(names))

    def __len__(self) -> int:
        return self.pictures if self.first is None else len(self.first) - 1

    def draw(self, indices: Tensor, keys: Tensor) -> Tensor:
        """A picture [B] int64 of each group, drawn evenly."""
        if self.first is None or self.order is None:
            return indices
        begins = self.first[indices]
        return self.order[begins + keyed_integers(keys, self.first[indices + 1] - begins, Stream.VARIANT)]


def digest(*parts: str) -> bytes:
    """16 bytes that differ between texts, also where they are joined differently."""
    return sha256(b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)).digest()[:16]


def digests(joined: bytes | bytearray) -> np.ndarray:
    """Digests, end to end, as an array [N] that compares and sorts them."""
    return np.frombuffer(joined, "S16")


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The R distinct ones of N digests, in the order in which they appear first.

    Returns:
        numbers [N] int64 in [0, R), and of each distinct one the place [R] int64 where it appears first.
    """
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.empty(len(first), np.int64)
    numbers[order] = np.arange(len(first))
    return numbers[inverse], first[order]


def groups_of(dataset: Dataset) -> Groups:
    """The groups of a data set."""
    if dataset.windows is not None:
        return Groups(None, None, len(dataset))
    return Groups.by_name(digests(b"".join(digest(dataset.item(index).group) for index in range(len(dataset)))))


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``function`` of each of ``items``, in a few threads: for what releases the interpreter, as decoding does."""
    with ThreadPoolExecutor(max(1, min(16, os.cpu_count() or 1, len(items))), "pochade-decoder") as pool:
        return list(pool.map(function, items))


def decode(dataset: Dataset, pictures: Sequence[int], width: int, height: int) -> Tensor:
    """Pictures of a data set as [B, 3, height, width] float32 in [-1, 1].

    Raises:
        BadImage: one cannot be read any more.
    """
    return _normalised(_pixels(dataset, pictures, width, height))


def _pixels(dataset: Dataset, pictures: Sequence[int], width: int, height: int) -> list[np.ndarray]:
    """Of each picture [height, width, 3] uint8."""
    return in_threads(lambda picture: np.asarray(dataset.fitted(picture, width, height)), pictures)


def _normalised(pixels: Sequence[np.ndarray]) -> Tensor:
    return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


class PictureSamples(Samples):
    """Pictures of a data set, in its groups and its order."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.groups = dataset, groups_of(dataset)

    def __len__(self) -> int:
        return len(self.groups)

    def order(self, seed: int, positions: Tensor, batch_size: int) -> Tensor:
        windows = self.dataset.windows
        return super().order(seed, positions, batch_size) if windows is None else windows.order(seed, positions)

    def expect(self, seed: int, position: int | None) -> None:
        self.dataset.expect(seed, position)


class PixelSamples(PictureSamples):
    """Pictures as pixels: ``{"image" [B, 3, size, size] in [-1, 1], "name"}``, a variant of each group drawn evenly.

    What was decoded stays in memory while a quarter of what was free has room for it: decoding takes longer than a
    step of an autoencoder on a GPU.
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        super().__init__(dataset)
        self.size = size
        memory = None if dataset.windows else device_memory(torch.device("cpu"))
        self._room = 0 if memory is None else int(KEPT_SHARE * memory.free) // (3 * size**2)
        self._kept: dict[int, np.ndarray] = {}

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        pictures: list[int] = self.groups.draw(indices, keys).tolist()
        names = [self.dataset.item(picture).name for picture in pictures]
        unknown = [picture for picture in dict.fromkeys(pictures) if picture not in self._kept]
        known = dict(zip(unknown, _pixels(self.dataset, unknown, self.size, self.size), strict=True))
        image = _normalised([known[p] if p in known else self._kept[p] for p in pictures])
        self._kept |= dict(list(known.items())[: self._room - len(self._kept)])
        return {"image": image, "name": names}
