"""The real pictures of an evaluation, and the features of any pictures."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.data.dataset import Dataset, Shape
from pochade.errors import PochadeError
from pochade.features.lite0 import EfficientNetLite0

MOST_REAL = 10_000
"""No more real pictures of a split are read: the figures change little from there, the memory does."""


TOO_FEW = 2
"""Groups that a split needs at least: with fewer there is nothing to compare."""
NO_HELD_OUT = "not measured: fewer than two concepts of the data are held out"
ALL_TRAINED = "not measured: the model was trained on all pictures of this data"


@dataclass(frozen=True)
class Pictures:
    """Real pictures with prompts, one of each group."""

    images: Tensor
    """uint8 [n, 3, H, W]."""
    captions: list[str]
    """The prompt of each: its fullest caption, or the name of its class."""
    concepts: list[str]
    """What each shows: its group, or its class."""

    def __len__(self) -> int:
        return len(self.captions)


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


def read_splits(data: Dataset, size: int | Shape, seed: int = 0, seen: Collection[str] = ()) -> Splits:
    """One picture of each group of all splits, in an order drawn with ``seed``; at most ``MOST_REAL`` of each.

    Split and group are those of the data. A group that the model has seen counts as a training one. One picture of each
    group: else a concept with thirty variants would weigh thirty times.

    Args:
        data: of all splits.
        size: pixels a side, or width and height: of each picture the largest part of that ratio in its middle.
        seed: of the order.
        seen: groups that the model was trained on, see ``seen_groups``.

    Raises:
        PochadeError: fewer than two groups are for training.
    """
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
    pictures = _read(data, train, size, seed)
    mixed = None if len(composed) < TOO_FEW else _read(data, composed, size, seed)
    if len(held_out) < TOO_FEW:
        why = ALL_TRAINED if trained and not held_out else NO_HELD_OUT
        return Splits(pictures, None, why, mixed, trained)
    return Splits(pictures, _read(data, held_out, size, seed), composed=mixed, trained=trained)


def shape_of(size: int | Shape) -> Shape:
    """Width and height of pixels a side, or of width and height."""
    return (size, size) if isinstance(size, int) else size


def _read(dataset: Dataset, firsts: Sequence[int], size: int | Shape, seed: int) -> Pictures:
    width, height = shape_of(size)
    order = np.random.default_rng(seed).permutation(len(firsts))[:MOST_REAL]
    images = torch.empty(len(order), 3, height, width, dtype=torch.uint8)
    captions: list[str] = []
    concepts: list[str] = []
    for row, chosen in enumerate(order):
        index = firsts[chosen]
        images[row] = to_uint8(dataset.fitted(index, width, height))
        item = dataset.item(index)
        name = None if item.label is None else dataset.classes[item.label]
        captions.append(name or item.caption)
        concepts.append(name or item.group)
    return Pictures(images, captions, concepts)


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
    parts: list[Tensor] = []
    for part in images.split(batch_size):
        parts.append(net.pooled(part.float() / 127.5 - 1))
        advance(len(part))
    return torch.cat(parts)


def caption_embeddings(captions: Sequence[str]) -> Tensor:
    """MiniLM's mean-pooled, normalised embeddings [B, 384] of B captions; equal ones are encoded once."""
    from pochade.text_encoders.minilm import MiniLMEncoder

    index = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    return MiniLMEncoder().sentence_vectors(list(index))[[index[caption] for caption in captions]]
