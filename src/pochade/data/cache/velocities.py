"""A cache of a teacher's velocities beside one of latents, so that a student learns without its teacher being run.

A picture has several records. Record j of picture i has a generator of its own, from which the seed of its noise and
its time and the choice of its caption are drawn, so that nothing but the answer has to be stored. The cache is
written in parts, each a safetensors file renamed into place when whole: an interrupted build goes on where it stopped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pochade.data.cache.latents import CachedLatents
from pochade.data.sources.captioned import progress_bar
from pochade.errors import FailureError, PochadeError
from pochade.files import atomic_file, write_json

PART = 256
"""Pictures in one file of the cache."""
BATCH = 64
"""Records that the teacher is asked about at once."""
_KEY = 7
"""Keeps the records' generators apart from those of a run, which have two numbers as their seed."""

Answer = Callable[[dict[str, Any]], Tensor]
"""{"latents" [B, C, h, w], "seed" [B], and "caption" or "class_label" [B]} -> velocities [B, C, h, w]."""


def record_draws(item: int, record: int) -> tuple[int, np.random.Generator]:
    """The seed of a record's noise and time, and the generator that then draws its caption."""
    rng = np.random.default_rng([_KEY, item, record])
    return int(rng.integers(2**63 - 1)), rng


def _question(latents: CachedLatents, rows: list[tuple[int, int]]) -> dict[str, Any]:
    """What the teacher is asked about some (picture, record)."""
    draws = [record_draws(item, record) for item, record in rows]
    samples = [latents.in_words(item, rng) for (item, _), (_, rng) in zip(rows, draws, strict=True)]
    batch: dict[str, Any] = {
        "latents": torch.stack([sample["latents"] for sample in samples]),
        "seed": torch.tensor([seed for seed, _ in draws]),
    }
    if "caption" in samples[0]:
        return {**batch, "caption": [sample["caption"] for sample in samples]}
    return {**batch, "class_label": torch.tensor([sample["class_label"] for sample in samples])}


def build_velocities(
    latents: CachedLatents, answer: Answer, records: int, folder: Path, *, progress: bool = True
) -> "CachedVelocities":
    """Ask the teacher about ``records`` noises and times of every picture, and keep its answers in float16.

    Args:
        folder: named after all that the answers depend on; it may hold a part of them already.

    Raises:
        PochadeError: ``records`` is below 1, or a part that was there already is damaged.
        FailureError: an answer is not finite in float16.
    """
    if records < 1:
        raise PochadeError(f"records: {records} given, must be at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-latents.pictures // PART)
    with progress_bar(progress) as bar, torch.no_grad():
        task = bar.add_task("asking the teacher", total=latents.pictures * records)
        for part in range(count):
            path = folder / f"part-{part:05d}.safetensors"
            items = range(part * PART, min(latents.pictures, (part + 1) * PART))
            if path.exists():
                bar.advance(task, len(items) * records)
                continue
            rows = [(item, record) for item in items for record in range(records)]
            answers: list[Tensor] = []
            for start in range(0, len(rows), BATCH):
                asked = rows[start : start + BATCH]
                answers.append(answer(_question(latents, asked)).half().cpu())
                if not answers[-1].isfinite().all():
                    raise FailureError(
                        f"teacher: its velocity is not finite for pictures {asked[0][0]} to {asked[-1][0]}"
                    )
                bar.advance(task, len(asked))
            with atomic_file(path) as file:
                file.write(save({"velocity": torch.cat(answers).unflatten(0, (len(items), records)).contiguous()}))
    write_json(folder / "cache.json", {"pictures": latents.pictures, "records": records, "parts": count})
    return CachedVelocities(latents, folder, count)


class CachedVelocities:
    """Samples of a cache of latents, each with a record of the teacher.

    Beside the picture and its caption, vectors, or class: ``"record_seed"``, from which noise, time and dropping are
    drawn again, and ``"teacher_velocity"`` [C, h, w] float32. An epoch shows each group once, in a variant and a
    record drawn at random.
    """

    def __init__(self, latents: CachedLatents, folder: Path, parts: int) -> None:
        self._latents = latents
        self._velocities = [_read(folder / f"part-{number:05d}.safetensors") for number in range(parts)]

    def __len__(self) -> int:
        return len(self._latents)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of group ``index`` in one of its records, both drawn evenly."""
        item = self._latents.variant(index, rng)
        velocities = self._velocities[item // PART][item % PART]
        record = int(rng.integers(len(velocities)))
        seed, choice = record_draws(item, record)
        told = self._latents.picture(item, choice)
        return {**told, "record_seed": seed, "teacher_velocity": velocities[record].float()}


def _read(path: Path) -> Tensor:
    """[pictures, records, C, h, w] float16."""
    try:
        return load_file(path)["velocity"]
    except (SafetensorError, OSError, KeyError) as error:
        raise PochadeError(f"{path}: damaged ({error}); delete this file and it is made again") from error
