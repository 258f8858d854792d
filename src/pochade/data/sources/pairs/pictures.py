"""Pairs made from any captioned pictures as they are drawn: holes, and lost detail."""

import json
from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from pochade.data.dataset import Dataset, check_size
from pochade.data.report import Report
from pochade.data.sources.pairs.degradation import random_hole, random_loss
from pochade.data.sources.pairs.pair import Pair, PairDataset, differ
from pochade.errors import FailureError, PochadeError

DEGRADATIONS = ("inpaint", "super_resolution")
TRIES, OWN_TRIES = 200, 20
"""Draws until a pair is made, first of the picture itself, then of any."""
VERSION = 1
"""Changes with the pairs that are made of the same pictures."""


class PicturePairs(PairDataset):
    """Pairs whose target is a picture, and whose source is the same with a hole or without its detail.

    - "inpaint": boxes, strokes or a half are hidden.
    - "super_resolution": reduced by 2 or 4, half the time as a JPEG file, and enlarged again.

    The instruction is a caption of the picture. An epoch reads each picture once; one that is blank is
    replaced by another one.

    Args:
        dataset: pictures, with captions or without.
        size: rows and columns in pixels.
        tasks: of ``DEGRADATIONS`` those that are drawn, all equally often.

    Raises:
        PochadeError: another task is named, or none, or there are no pictures.
    """

    def __init__(self, dataset: Dataset, size: int, tasks: Sequence[str] = DEGRADATIONS) -> None:
        if not tasks or set(tasks) - set(DEGRADATIONS):
            raise PochadeError(
                f"tasks: {', '.join(tasks)} given, of any pictures can be made {', '.join(DEGRADATIONS)}"
            )
        if not len(dataset):
            raise PochadeError("pictures: there are none")
        check_size(size)
        self.dataset, self.size = dataset, size
        self.tasks = tuple(tasks)

    @property
    def report(self) -> Report | None:
        return self.dataset.report

    def __len__(self) -> int:
        return len(self.dataset)

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """A pair from picture ``index``, or from another one; without ``rng`` it is always the same one."""
        rng = np.random.default_rng(index) if rng is None else rng
        task = self.tasks[int(rng.integers(len(self.tasks)))]
        for attempt in range(TRIES):
            if attempt >= OWN_TRIES:
                index = int(rng.integers(len(self)))
            target, item = self.dataset.image(index, self.size), self.dataset.item(index)
            caption = item.captions[int(rng.integers(len(item.captions)))] if item.captions else ""
            name = f"{item.name}-{task}"
            if task == "inpaint":
                hidden = random_hole(target, rng)
                if hidden is not None:
                    return Pair(task, hidden[0], target, hidden[1], caption, name, item.group, item.split)
            else:
                source = random_loss(target, rng)
                if differ(source, target):
                    return Pair(task, source, target, None, caption, name, item.group, item.split)
        raise FailureError(f"{task}: no picture could be made a pair of in {TRIES} tries")

    def identity(self, index: int) -> str:
        """Of the picture, its captions, and how pairs are made; what stands for a picture that is blank counts not."""
        item = self.dataset.item(index)
        facts = [VERSION, self.size, self.tasks, self.dataset.identity(index), item.captions, item.group]
        return sha256(json.dumps(facts).encode()).hexdigest()
