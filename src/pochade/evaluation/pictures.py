"""The real pictures of an evaluation, and the features of any pictures."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.data.dataset import Dataset, Item, Shape
from pochade.errors import PochadeError
from pochade.features.lite0 import FEATURES, EfficientNetLite0
from pochade.files import mapped_file

MOST_REAL = 10_000
"""Real pictures of a split that are read at most, unless more are generated: the figures change little from there."""
IN_MEMORY = 1 << 28
"""Bytes of pictures from which on they lie in a file that is mapped into memory."""

TOO_FEW = 2
"""Groups that a split needs at least: with fewer there is nothing to compare."""
NO_HELD_OUT = "not measured: fewer than two concepts of the data are held out"
ALL_TRAINED = "not measured: the model was trained on all pictures of this data"


@dataclass(frozen=True)
class Pictures:
    """Real pictures with prompts, one of each group; they are read when ``images`` is first used."""

    data: Dataset
    rows: Sequence[int]
    """The n pictures, by their places in ``data``."""
    shape: Shape
    """Width and height in pixels."""
    folder: Path | None
    """Where many of them lie in a file, see ``empty_pictures``."""

    @cached_property
    def images(self) -> Tensor:
        """uint8 [n, 3, H, W]."""
        images = empty_pictures(len(self), self.shape, self.folder)
        for row, index in enumerate(self.rows):
            images[row] = to_uint8(self.data.fitted(index, *self.shape))
        return images

    @cached_property
    def captions(self) -> list[str]:
        """The prompt of each: its fullest caption, or the name of its class."""
        return [self._class_name(item) or item.caption for item in map(self.data.item, self.rows)]

    @cached_property
    def concepts(self) -> list[str]:
        """What each shows: its group, or its class."""
        return [self._class_name(item) or item.group for item in map(self.data.item, self.rows)]

    def _class_name(self, item: Item) -> str | None:
        return None if item.label is None else self.data.classes[item.label]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Splits:
    """The real pictures of an evaluation."""

    train: Pictures
    held_out: Pictures | None
    """None where fewer than two groups are held out."""
    why: str = ""
    """Why there are no held-out ones."""
    composed: Pictures | None = None
    """Pairs of a style and a concept that are each seen in training, never together; None where fewer than two."""
    trained: int = 0
    """Pictures that the data holds out and the model was trained on: they are among ``train``."""

    def present(self) -> dict[str, Pictures]:
        """The splits that there are, by name."""
        found = {"train": self.train, "composed": self.composed, "held_out": self.held_out}
        return {name: pictures for name, pictures in found.items() if pictures is not None}


def read_splits(
    data: Dataset,
    size: int | Shape,
    seed: int = 0,
    seen: Collection[str] = (),
    most: int = MOST_REAL,
    folder: Path | None = None,
) -> Splits:
    """One picture of each group of all splits, in an order drawn with ``seed``; at most ``most`` of each.

    Split and group are those of the data. A group that the model has seen counts as a training one. One picture of each
    group: else a concept with thirty variants would weigh thirty times.

    Args:
        data: of all splits.
        size: pixels a side, or width and height: of each picture the largest part of that ratio in its middle.
        seed: of the order.
        seen: groups that the model was trained on, see ``seen_groups``.
        most: pictures of a split; the first ones do not depend on it.
        folder: where many pictures lie in a file, see ``empty_pictures``.

    Raises:
        PochadeError: fewer than two groups are for training.
    """

    def drawn(firsts: Sequence[int]) -> Pictures:
        order = np.random.default_rng(seed).permutation(len(firsts))[:most]
        return Pictures(data, [firsts[place] for place in order], shape_of(size), folder)

    firsts: dict[str, list[int]] = {"train": [], "composed": [], "held_out": []}
    trained = 0
    for group, (first, *variants) in data.groups().items():
        split = data.item(first).split
        if split != "train" and group in seen:
            split, trained = "train", trained + 1 + len(variants)
        firsts[split].append(first)
    train, composed, held_out = firsts.values()
    if len(train) < TOO_FEW:
        raise PochadeError(f"data: {len(train)} training concepts given, at least {TOO_FEW} are needed")
    pictures = drawn(train)
    mixed = None if len(composed) < TOO_FEW else drawn(composed)
    if len(held_out) < TOO_FEW:
        why = ALL_TRAINED if trained and not held_out else NO_HELD_OUT
        return Splits(pictures, None, why, mixed, trained)
    return Splits(pictures, drawn(held_out), composed=mixed, trained=trained)


def shape_of(size: int | Shape) -> Shape:
    """Width and height of pixels a side, or of width and height."""
    return (size, size) if isinstance(size, int) else size


def empty_pictures(count: int, shape: Shape, folder: Path | None) -> Tensor:
    """uint8 [count, 3, H, W] to be filled, for pictures of width and height ``shape``.

    Many lie in a file without a name in ``folder``, or that for temporary files, so that the system can drop them from
    memory and read them again. Raises FailureError where the disk is full.
    """
    width, height = shape
    size = count * 3 * height * width
    if size < IN_MEMORY:
        return torch.empty(count, 3, height, width, dtype=torch.uint8)
    file = mapped_file(Path(tempfile.gettempdir()) if folder is None else folder, size)
    return torch.frombuffer(file, dtype=torch.uint8).view(count, 3, height, width)


def to_uint8(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_pil(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@torch.no_grad()
def pooled_features(
    net: EfficientNetLite0,
    images: Tensor,
    advance: Callable[[int], object] = lambda _: None,
    batch_size: int = 32,
) -> Tensor:
    """Lite0 features [B, 1280] of uint8 images [B, 3, H, W]; ``advance`` hears how many are done."""
    # One tensor from the start: results kept between large temporaries would keep the memory of these from reuse.
    features = torch.empty(len(images), FEATURES)
    for rows, part in zip(features.split(batch_size), images.split(batch_size), strict=True):
        rows.copy_(net.pooled(part.float() / 127.5 - 1))
        advance(len(part))
    return features


def caption_embeddings(captions: Sequence[str]) -> Tensor:
    """MiniLM's mean-pooled, normalised embeddings [B, 384] of B captions; equal ones are encoded once."""
    from pochade.text_encoders.minilm import MiniLMEncoder

    index = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    return MiniLMEncoder().sentence_vectors(list(index))[[index[caption] for caption in captions]]
