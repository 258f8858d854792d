"""Cached features of pictures as image prompts (IP-Adapter), beside cached latents.

A picture is its own prompt in training, in several views, so that it is followed in how it is drawn rather than in
where things are. Features, which are inputs and forgive it, are float16.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pochade.data.cache.build import build_cache
from pochade.data.cache.latents import CachedLatents, channel_statistics, check_pictures
from pochade.data.cache.part_cache import Contents, PartCache, Values
from pochade.data.dataset import Dataset
from pochade.data.samples import Batch, Samples, Stream, in_threads
from pochade.errors import PochadeError
from pochade.images.decode import to_tensor
from pochade.nn.keyed_random import keyed_integers

LEAST = 0.5
"""Side of the smallest crop, as a fraction of the picture's."""
VERSION = 1
"""Changes with what views are."""

EncodePrompt = Callable[[Tensor], Tensor]
"""[B, 3, H, W] in [-1, 1] -> features [B, R, D_image], on any device."""


def views(image: Image.Image, count: int, seed: int) -> list[Image.Image]:
    """The picture itself, and ``count - 1`` crops of it, mirrored at random and enlarged to its size."""
    rng = np.random.default_rng(seed)
    found = [image]
    width, height = image.size
    for _ in range(count - 1):
        fraction = rng.uniform(LEAST, 1)
        left, top = rng.uniform(0, 1 - fraction, 2) * image.size
        box = (left, top, left + fraction * width, top + fraction * height)
        crop = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
        found.append(ImageOps.mirror(crop) if rng.random() < 0.5 else crop)
    return found


def cache_image_prompts(
    dataset: Dataset,
    size: int,
    latents: CachedLatents,
    encode: EncodePrompt,
    identity: str,
    count: int,
    folder: Path,
    *,
    progress: bool = True,
) -> "CachedImagePrompts":
    """Features of ``count`` views of all pictures of ``dataset``, of which ``latents`` are, as ``cache_latents``.

    Args:
        identity: changes with what ``encode`` gives.

    Raises:
        PochadeError: ``latents`` are of other pictures, or ``count`` is below 1.
    """
    if count < 1:
        raise PochadeError(f"views: {count} given, allowed is 1 and more")
    check_pictures(dataset, latents)
    first, keys = latents.first_pictures(), latents.images.keys

    def load(rows: list[int]) -> Tensor:
        pictures = zip(rows, first[rows].tolist(), strict=True)
        return torch.cat(in_threads(lambda one: load_views(*one), list(pictures)))

    def load_views(row: int, picture: int) -> Tensor:
        seed = int.from_bytes(keys[row : row + 1].tobytes()[:8], "little")
        return torch.stack([to_tensor(view) for view in views(dataset.image(picture, size), count, seed)])

    def encode_views(images: Tensor) -> Values:
        return {"features": encode(images).half().unflatten(0, (-1, count))}

    facts = (identity, str(size), str(count), str(VERSION))
    contents = Contents("image-prompts", facts, keys, load, encode_views, "caching image prompts", batch=16)
    return CachedImagePrompts(latents, build_cache(contents, folder, progress=progress))


class CachedImagePrompts(Samples):
    """Samples of cached latents, each with ``"image_prompt"`` [B, R, D_image] float32, the features of a view of its
    picture."""

    def __init__(self, latents: CachedLatents, cache: PartCache) -> None:
        self.latents, self.cache = latents, cache
        self.views = cache.shapes["features"][0]

    def __len__(self) -> int:
        return len(self.latents)

    def features(self, pictures: Tensor, view: Tensor | None = None) -> Tensor:
        """Of one view [B] each of ``pictures`` [B], or of them as they are: [B, R, D_image] float32."""
        view = torch.zeros_like(pictures) if view is None else view
        return self.cache.gather(self.latents.image_rows(pictures), "features", view)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature [D_image]; reads all of them."""
        return channel_statistics(part.flatten(0, 2) for part in self.cache.each("features"))

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """A variant of each group at ``indices`` [B] with one of its captions, and a view of it, drawn by ``keys``."""
        pictures = self.latents.groups.draw(indices, keys)
        view = keyed_integers(keys, self.views, Stream.VIEW)
        return {**self.latents.of_pictures(pictures, keys), "image_prompt": self.features(pictures, view)}
