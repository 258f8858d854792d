"""What a loader draws batches from: whole batches at once, all that is random in them a function of keys."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from hashlib import sha256
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pochade.data.dataset import Dataset
from pochade.nn.keyed_random import keyed_integers

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
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, keys: Tensor) -> Batch: ...


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
        """Groups in the order of their first picture, from the digests (``digest``) of all pictures' groups."""
        different, begins, inverse = np.unique(names, return_index=True, return_inverse=True)
        if len(different) == len(names):
            return cls(None, None, len(names))
        number = np.empty(len(different), np.int64)
        number[np.argsort(begins)] = np.arange(len(different))
        groups = number[inverse]
        first = np.zeros(len(different) + 1, np.int64)
        np.cumsum(np.bincount(groups), out=first[1:])
        return cls(torch.from_numpy(np.argsort(groups, kind="stable")), torch.from_numpy(first), len(names))

    def __len__(self) -> int:
        return self.pictures if self.first is None else len(self.first) - 1

    def draw(self, indices: Tensor, keys: Tensor) -> Tensor:
        """A picture [B] int64 of each group, drawn evenly."""
        if self.first is None or self.order is None:
            return indices
        begins = self.first[indices]
        return self.order[begins + keyed_integers(keys, self.first[indices + 1] - begins, Stream.VARIANT)]


def digest(*parts: str) -> bytes:
    """16 bytes that tell texts apart, also where they are joined differently."""
    return sha256(b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)).digest()[:16]


def digests(values: Sequence[bytes]) -> np.ndarray:
    """Digests as an array [N] that compares and sorts them."""
    return np.array(values, dtype="S16")


def groups_of(dataset: Dataset) -> Groups:
    """The groups of a data set."""
    return Groups.by_name(digests([digest(dataset.item(index).group) for index in range(len(dataset))]))


class Decoder:
    """The pictures of a data set at one size, decoded by a few threads."""

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset, self.size = dataset, size
        self._pool: ThreadPoolExecutor | None = None

    def images(self, pictures: Sequence[int]) -> Tensor:
        """[B, 3, size, size] float32 in [-1, 1]. Raises `BadImage` where one cannot be read any more."""
        if self._pool is None:  # begun late, so that a process may be forked before
            self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pochade-decoder")
        pixels = np.stack(list(self._pool.map(self._pixels, pictures)))
        return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()

    def _pixels(self, picture: int) -> np.ndarray:
        return np.array(self.dataset.image(picture, self.size), dtype=np.uint8)


class PixelSamples:
    """Pictures as pixels: ``{"image" [B, 3, size, size] in [-1, 1], "name"}``, a variant of each group drawn evenly."""

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset = dataset
        self._decoder = Decoder(dataset, size)
        self._groups = groups_of(dataset)

    def __len__(self) -> int:
        return len(self._groups)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        pictures: list[int] = self._groups.draw(indices, keys).tolist()
        names = [self.dataset.item(picture).name for picture in pictures]
        return {"image": self._decoder.images(pictures), "name": names}
