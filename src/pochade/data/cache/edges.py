"""A cache of the latents of pictures' edges beside one of the pictures'."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from pochade.data.cache.latents import CachedLatents, EncodeImages, Pictures, build_cache
from pochade.errors import PochadeError
from pochade.images.edges import edges, edges_image, encode_lines


class _Outlines:
    """The same pictures as their edges, black on white."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self.captions, self.label, self.group = pictures.captions, pictures.label, pictures.group

    def __len__(self) -> int:
        return len(self._pictures)

    def image(self, index: int) -> Image.Image:
        return ImageOps.invert(edges_image(edges(self._pictures.image(index)))).convert("RGB")


def build_edges(
    latents: CachedLatents, pictures: Pictures, encode_images: EncodeImages, folder: Path, *, progress: bool = True
) -> "CachedEdges":
    """Encode the edges of all ``pictures``, of which ``latents`` are, into ``folder``, which may hold a part of them.

    Args:
        encode_images: [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
        folder: named after ``pochade.data.cache.latents.fingerprint``, so that it never holds anything else.

    Raises:
        PochadeError: the pictures are not as many as the latents, a part that was there already is damaged, or
            scikit-image is not installed.
    """
    if len(pictures) != latents.pictures:
        raise PochadeError(f"pictures: {len(pictures)} given, there are latents of {latents.pictures}")

    def encode(images: Tensor) -> Tensor:
        return encode_lines((1 - images[:, :1]) / 2, encode_images)

    return CachedEdges(latents, build_cache(_Outlines(pictures), encode, None, folder, progress=progress))


class CachedEdges:
    """Samples of a cache of latents, each with ``"control"`` [C, h, w], the latents of its picture's edges."""

    def __init__(self, latents: CachedLatents, outlines: CachedLatents) -> None:
        self._latents = latents
        self._outlines = outlines

    def __len__(self) -> int:
        return len(self._latents)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of group ``index`` with one of its captions, both drawn evenly, and its edges."""
        item = self._latents.variant(index, rng)
        return {**self._latents.picture(item, rng), "control": self._outlines.in_words(item, rng)["latents"]}
