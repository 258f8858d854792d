"""Features of reference pictures, and a cache of them beside one of latents.

A picture is its own reference in training, in several views, so that it is told by how it is drawn rather than by where
things are. The cache is written in parts, each a safetensors file renamed into place when whole: an interrupted build
goes on where it stopped. Features, which are inputs and forgive it, are float16.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pochade.data.cache.latents import CachedLatents, Pictures
from pochade.data.sources.captioned import progress_bar
from pochade.errors import PochadeError
from pochade.files import atomic_file, write_json
from pochade.images.decode import to_tensor

PART = 512
"""Pictures in one file of the cache."""
BATCH = 16
"""Pictures whose views are encoded at once."""
LEAST = 0.5
"""Side of the smallest crop, as a share of the picture's."""

EncodeReference = Callable[[Tensor], Tensor]
"""[B, 3, H, W] in [-1, 1] -> features [B, R, D_ref]."""


def views(image: Image.Image, count: int, seed: int) -> list[Image.Image]:
    """The picture itself, and ``count - 1`` crops of it, mirrored at random and enlarged to its size."""
    rng = np.random.default_rng(seed)
    found = [image]
    width, height = image.size
    for _ in range(count - 1):
        share = rng.uniform(LEAST, 1)
        left, top = rng.uniform(0, 1 - share, 2) * image.size
        box = (left, top, left + share * width, top + share * height)
        crop = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
        found.append(ImageOps.mirror(crop) if rng.random() < 0.5 else crop)
    return found


def build_references(
    latents: CachedLatents,
    pictures: Pictures,
    encode: EncodeReference,
    folder: Path,
    count: int,
    *,
    progress: bool = True,
) -> "CachedReferences":
    """Encode ``count`` views of all ``pictures``, of which ``latents`` are, into ``folder``, which may hold a part.

    Args:
        folder: named after ``pochade.data.cache.latents.fingerprint``, so that it never holds anything else.

    Raises:
        PochadeError: the pictures are not as many as the latents, or a part that was there already is damaged.
    """
    if len(pictures) != latents.pictures:
        raise PochadeError(f"pictures: {len(pictures)} given, there are latents of {latents.pictures}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = -(-len(pictures) // PART)
    with progress_bar(progress) as bar:
        task = bar.add_task("encoding references", total=len(pictures))
        for part in range(parts):
            path = folder / f"part-{part:05d}.safetensors"
            items = range(part * PART, min(len(pictures), (part + 1) * PART))
            if path.exists():
                bar.advance(task, len(items))
                continue
            rows: list[Tensor] = []
            for start in range(items.start, items.stop, BATCH):
                batch = range(start, min(items.stop, start + BATCH))
                shown = [to_tensor(view) for i in batch for view in views(pictures.image(i), count, i)]
                rows.append(encode(torch.stack(shown)).half().unflatten(0, (len(batch), count)))
                bar.advance(task, len(batch))
            with atomic_file(path) as file:
                file.write(save({"references": torch.cat(rows).contiguous()}))
    write_json(folder / "cache.json", {"pictures": len(pictures), "parts": parts})
    return CachedReferences(latents, folder, parts)


class CachedReferences:
    """Samples of a cache of latents, each with ``"reference"``, the features [R, D_ref] float32 of a view of its
    picture."""

    def __init__(self, latents: CachedLatents, folder: Path, parts: int) -> None:
        self._latents = latents
        self._parts = [_read(folder / f"part-{number:05d}.safetensors") for number in range(parts)]

    def __len__(self) -> int:
        return len(self._latents)

    def reference(self, item: int, view: int = 0) -> Tensor:
        """The features [R, D_ref] of a view of picture ``item``; 0 is the picture as it is."""
        return self._parts[item // PART][item % PART, view].float()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each feature [D_ref] over the cache."""
        whole = torch.cat([part.flatten(0, 2) for part in self._parts]).float()
        return whole.mean(0), whole.std(0, correction=0)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of group ``index`` with one of its captions, and a view of it: all drawn evenly."""
        item = self._latents.variant(index, rng)
        told = self._latents.picture(item, rng)
        return {**told, "reference": self.reference(item, int(rng.integers(self._parts[0].shape[1])))}


def _read(path: Path) -> Tensor:
    """[pictures, views, R, D_ref] float16."""
    try:
        return load_file(path)["references"]
    except (SafetensorError, OSError, KeyError) as error:
        raise PochadeError(f"{path}: damaged ({error}); delete this file and it is made again") from error
