"""The real pictures of an evaluation, and the judges' features of any pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.errors import PochadeError
from pochade.features.lite0 import EfficientNetLite0

MOST_REAL = 10_000
"""No more real pictures of a split are read: the figures change little from there, the memory does."""


@dataclass(frozen=True)
class Pictures:
    """Real pictures with captions, one for each concept."""

    images: Tensor
    """uint8 [n, 3, size, size]."""
    captions: list[str]
    concepts: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def open_data(data: str | Path, size: int, split: str) -> Any:
    """The data set behind ``openmoji``, a folder of captioned pictures, or a folder or pattern of shards.

    Raises:
        PochadeError: there is no such data, or it cannot be used.
    """
    if str(data) == "openmoji":
        from pochade.data.sources.openmoji import OpenMoji

        return OpenMoji(size, split=split)  # pyright: ignore[reportArgumentType]  # checked there
    path = Path(data)
    if str(data).endswith(".tar") or (path.is_dir() and any(path.glob("*.tar"))):
        from pochade.data.sources.shards import ShardDataset

        return ShardDataset(str(data), size, split=split)
    if not path.is_dir():
        raise PochadeError(f"data: {data} given, allowed are 'openmoji', a folder of pictures, and .tar shards")
    from pochade.data.sources.folder import ImageFolder

    return ImageFolder(path, size, split=split)


def read_pictures(data: str | Path, size: int, split: str, seed: int = 0) -> Pictures:
    """One picture of each concept of a split ("train" or "held_out"), in an order drawn with ``seed``.

    A concept is what the data set calls so (OpenMoji: variants in skin tone and gender share one), else the
    caption: without this a concept with thirty variants would weigh thirty times. At most ``MOST_REAL``
    pictures.

    Raises:
        PochadeError: as `open_data`, and where the split is empty.
    """
    source = open_data(data, size, split)
    first: dict[str, int] = {}
    for index, item in enumerate(source.items):
        first.setdefault(getattr(item, "concept", None) or source.caption(index).casefold(), index)
    concepts = list(first)
    order = np.random.default_rng(seed).permutation(len(concepts))[:MOST_REAL]
    concepts = [concepts[i] for i in order]
    images = torch.empty(len(concepts), 3, size, size, dtype=torch.uint8)
    for row, concept in enumerate(concepts):
        images[row] = to_uint8(source.image(first[concept]))
    return Pictures(images, [source.caption(first[c]) for c in concepts], concepts)


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
    """MiniLM's mean-pooled, normalised embeddings [B, 384] of B captions."""
    from pochade.text_encoders.minilm import MiniLMEncoder

    return MiniLMEncoder().sentence_vectors(list(captions))
