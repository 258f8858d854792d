"""Cached latents of pictures' edges beside those of the pictures, for a control."""

from pathlib import Path

import torch
from torch import Tensor

from pochade.data.cache.build import build_cache
from pochade.data.cache.latents import CachedLatents, LatentEncoders, check_pictures
from pochade.data.cache.part_cache import Contents, PartCache, Values
from pochade.data.dataset import Dataset
from pochade.data.samples import Batch, Samples, in_threads
from pochade.images.edges import edges, encode_lines, load_canny

VERSION = 1
"""Changes with what edges are."""


def cache_edges(
    dataset: Dataset,
    size: int,
    encoders: LatentEncoders,
    latents: CachedLatents,
    folder: Path,
    *,
    progress: bool = True,
) -> "CachedEdges":
    """Latents of the edges of all pictures of ``dataset``, of which ``latents`` are, as ``cache_latents`` makes them.

    Raises:
        PochadeError: ``latents`` are of other pictures, or scikit-image is not installed.
    """
    check_pictures(dataset, latents)
    load_canny()
    first = latents.first_pictures()

    def load(rows: list[int]) -> Tensor:
        return torch.stack(in_threads(lambda picture: edges(dataset.image(picture, size)), first[rows].tolist()))

    def encode(lines: Tensor) -> Values:
        return {"control": encode_lines(lines, encoders.encode_images).float()}

    identity = (encoders.images_identity, str(size), str(VERSION))
    contents = Contents("edges", identity, latents.images.keys, load, encode, "caching edges")
    return CachedEdges(latents, build_cache(contents, folder, progress=progress))


class CachedEdges(Samples):
    """Samples of cached latents, each with ``"control"`` [B, C, h, w], the latents of its picture's edges."""

    def __init__(self, latents: CachedLatents, cache: PartCache) -> None:
        self.latents, self.cache = latents, cache

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """A variant of each group at ``indices`` [B] with one of its captions, drawn by ``keys`` [B]."""
        pictures = self.latents.groups.draw(indices, keys)
        control = self.cache.gather(self.latents.image_rows(pictures), "control")
        return {**self.latents.of_pictures(pictures, keys), "control": control}
