"""A teacher's cached velocities beside cached latents, so that a student learns without its teacher being run.

A picture has several records. The key of a record, from which its noise, its time and the choice of its caption are
drawn, is a function of the picture's own key and the record's number, so that nothing but the answer has to be stored.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pochade.data.cache.build import build_cache
from pochade.data.cache.latents import CachedLatents
from pochade.data.cache.part_cache import Contents, PartCache, Values
from pochade.data.samples import Batch, Samples, Stream
from pochade.errors import FailureError, PochadeError
from pochade.nn.keyed_random import keyed_integers, sample_keys

VERSION = 1
"""Changes with what is drawn from a record's key."""

Answer = Callable[[Batch], Tensor]
"""{"latents" [B, C, h, w], "seed" [B], "name", and "caption" or "class_label" [B]} -> velocities [B, C, h, w]."""


def cache_velocities(
    latents: CachedLatents, answer: Answer, records: int, identity: str, folder: Path, *, progress: bool = True
) -> "CachedVelocities":
    """The teacher's answers to ``records`` noises and times of every picture, in float16, as ``cache_latents``.

    Args:
        answer: the teacher, on its own device.
        identity: changes with what it answers.

    Raises:
        PochadeError: ``records`` is below 1.
        FailureError: an answer is not finite in float16.
    """
    if records < 1:
        raise PochadeError(f"records: {records} given, must be at least 1")
    numbers = torch.arange(records)

    def load(rows: list[int]) -> Batch:
        pictures = torch.tensor(rows).repeat_interleave(records)
        keys = record_keys(latents, pictures, numbers.repeat(len(rows)))
        return {**latents.of_pictures(pictures, keys, words=True), "seed": keys}

    def run(batch: Batch) -> Values:
        velocity = answer(batch).half()
        if not velocity.isfinite().all():
            raise FailureError(f"teacher: its velocity is not finite for {batch['name'][0]} to {batch['name'][-1]}")
        return {"velocity": velocity.unflatten(0, (-1, records))}

    facts = (identity, latents.images.folder.name.rpartition("-")[0], str(records), str(VERSION))
    title, rows = "running the teacher", max(1, 64 // records)
    contents = Contents("velocities", facts, latents.keys, load, run, title, batch=rows, part=1024)
    return CachedVelocities(latents, build_cache(contents, folder, progress=progress))


def record_keys(latents: CachedLatents, pictures: Tensor, records: Tensor) -> Tensor:
    """The keys [B] int64 of records [B] of pictures [B], the same whatever other pictures there are."""
    words = torch.from_numpy(latents.keys.view(np.int64).reshape(-1, 2)[:, 0])
    return sample_keys(Stream.RECORD, words[pictures] + records)


class CachedVelocities(Samples):
    """Samples of cached latents, each with a record of the teacher.

    Beside the picture and its caption, vectors, or class: ``"record_seed"`` [B] int64, from which noise, time and
    dropping are drawn again, and ``"teacher_velocity"`` [B, C, h, w] float32. An epoch shows each group once, in a
    variant and a record drawn evenly.
    """

    def __init__(self, latents: CachedLatents, cache: PartCache) -> None:
        self.latents, self.cache = latents, cache
        self.records = cache.shapes["velocity"][0]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """A variant of each group at ``indices`` [B] in one of its records, drawn by ``keys`` [B]."""
        pictures = self.latents.groups.draw(indices, keys)
        records = keyed_integers(keys, self.records, Stream.RECORD)
        seeds = record_keys(self.latents, pictures, records)
        velocity = self.cache.gather(pictures, "velocity", records)
        return {**self.latents.of_pictures(pictures, seeds), "record_seed": seeds, "teacher_velocity": velocity}
