"""The real pictures of an evaluation, and the features of any pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.data.sources import open_source
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


def read_pictures(data: str | Path, size: int, split: str, seed: int = 0) -> Pictures:
    """One picture of each concept of a split ("train" or "held_out"), in an order drawn with ``seed``.

    A concept is what the data set calls so (OpenMoji: variants in skin tone and gender share one), else the
    caption: without this a concept with thirty variants would weigh thirty times. At most ``MOST_REAL``
    pictures.

    Raises:
        PochadeError: as `open_source`.
    """
    source = open_source(data, split)  # pyright: ignore[reportArgumentType]  # checked there
    groups = list(source.groups().items())
    order = np.random.default_rng(seed).permutation(len(groups))[:MOST_REAL]
    groups = [groups[i] for i in order]
    images = torch.empty(len(groups), 3, size, size, dtype=torch.uint8)
    for row, (_, indices) in enumerate(groups):
        images[row] = to_uint8(source.image(indices[0], size))
    captions = [(source.item(indices[0]).captions or ("",))[0] for _, indices in groups]
    return Pictures(images, captions, [group for group, _ in groups])


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
