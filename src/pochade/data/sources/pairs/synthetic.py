"""Pairs made of synthetic pictures, of every task: for dry runs, benchmarks and tests of any size."""

import json
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from PIL import ImageOps

from pochade.data.dataset import Dataset, check_size
from pochade.data.sources.pairs.degradation import random_hole, random_loss
from pochade.data.sources.pairs.pair import PAIR_TASKS, Pair, PairDataset
from pochade.errors import PochadeError

INSTRUCTIONS = {"invert the colours": ImageOps.invert, "mirror it": ImageOps.mirror, "flip it": ImageOps.flip}
VERSION = 1
"""Changes with the pairs that are made of the same pictures."""


class SyntheticPairs(PairDataset):
    """Pairs whose target is a synthetic picture, one task after the other.

    Args:
        dataset: synthetic pictures, none of which is blank.
        size: rows and columns in pixels.
        tasks: of ``PAIR_TASKS``; an edit is one of ``INSTRUCTIONS``.

    Raises:
        PochadeError: another task is named, or none.
    """

    def __init__(self, dataset: Dataset, size: int, tasks: Sequence[str] = PAIR_TASKS) -> None:
        if not tasks or set(tasks) - set(PAIR_TASKS):
            raise PochadeError(f"tasks: {', '.join(tasks)} given, allowed are {', '.join(PAIR_TASKS)}")
        check_size(size)
        self.dataset, self.size, self.tasks = dataset, size, tuple(tasks)

    def __len__(self) -> int:
        return len(self.dataset)

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        rng = np.random.default_rng(index) if rng is None else rng
        task = self.tasks[index % len(self.tasks)]
        target, item = self.dataset.image(index, self.size), self.dataset.item(index)
        words = item.captions[0] if item.captions else ""
        source, mask = target, None
        if task == "edit":
            words = list(INSTRUCTIONS)[int(rng.integers(len(INSTRUCTIONS)))]
            source = INSTRUCTIONS[words](target)
        elif task == "super_resolution":
            source = random_loss(target, rng)
        else:
            while (hidden := random_hole(target, rng)) is None:
                continue
            source, mask = hidden
        return Pair(task, source, target, mask, words, f"{item.name}-{task}", item.group, item.split)

    def identity(self, index: int) -> str:
        facts = [VERSION, self.dataset.identity(index), self.size, self.tasks, index % len(self.tasks)]
        return sha256(json.dumps(facts).encode()).hexdigest()
