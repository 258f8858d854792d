"""Cached latents of controls, such as pictures' edges, beside those of the pictures."""

from pathlib import Path

import torch
from torch import Tensor

from pochade.data.cache.build import build_cache
from pochade.data.cache.latents import CachedLatents, LatentEncoders, check_pictures
from pochade.data.cache.part_cache import Contents, PartCache, Values
from pochade.data.dataset import Dataset
from pochade.data.samples import Batch, Samples, in_threads
from pochade.images.controls import KINDS, encode_control

VERSION = 1
"""Changes with what controls are."""


def cache_controls(
    dataset: Dataset,
    size: int,
    kind: str,
    encoders: LatentEncoders,
    latents: CachedLatents,
    folder: Path,
    *,
    progress: bool = True,
) -> "CachedControls":
    """The latents of the controls of all pictures of ``dataset``, of which ``latents`` are, as ``cache_latents`` does.

    Args:
        kind: of control, of ``pochade.types.CONTROLS``.

    Raises:
        PochadeError: ``latents`` are of other pictures, or there is no such control (``Dataset.control``).
    """
    check_pictures(dataset, latents)
    first = latents.first_pictures()

    def control(picture: int) -> Tensor:
        return KINDS[kind].tensor(dataset.control(picture, size, kind))

    def load(rows: list[int]) -> Tensor:
        return torch.stack(in_threads(control, first[rows].tolist()))

    def encode(controls: Tensor) -> Values:
        return {"control": encode_control(controls, encoders.encode_images).float()}

    identity = (encoders.images_identity, str(size), str(VERSION))
    contents = Contents(kind, identity, latents.images.keys, load, encode, f"caching {kind}")
    return CachedControls(latents, build_cache(contents, folder, progress=progress))


class CachedControls(Samples):
    """Samples of cached latents, each with ``"control"`` [B, C, h, w], the latents of its picture's control."""

    def __init__(self, latents: CachedLatents, cache: PartCache) -> None:
        self.latents, self.cache = latents, cache

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """A variant of each group at ``indices`` [B] with one of its captions, drawn by ``keys`` [B]."""
        pictures = self.latents.groups.draw(indices, keys)
        control = self.cache.gather(self.latents.image_rows(pictures), "control")
        return {**self.latents.of_pictures(pictures, keys), "control": control}
