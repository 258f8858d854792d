"""Pairs made from any captioned pictures as they are asked for: holes, and lost detail."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pochade.data.dataset import Dataset, check_size
from pochade.data.sources.pairs.degradation import random_hole, random_loss
from pochade.data.sources.pairs.pair import Pair, differ
from pochade.errors import FailureError, PochadeError

DAMAGES = ("inpaint", "super_resolution")
TRIES = 200


class PicturePairs:
    """Pairs whose target is a picture, and whose source is the same with a hole or without its detail.

    - "inpaint": boxes, strokes or a half are hidden.
    - "super_resolution": reduced by 2 or 4, half the time as a JPEG file, and enlarged again.

    The instruction is a caption of the picture. An epoch asks for each picture once; one that has nothing to hide is
    replaced by another one.

    Args:
        dataset: pictures, with captions or without.
        size: rows and columns in pixels.
        tasks: of ``DAMAGES`` those that are drawn, all equally often.

    Raises:
        PochadeError: another task is named, or none, or there are no pictures.
    """

    def __init__(self, dataset: Dataset, size: int, tasks: Sequence[str] = DAMAGES) -> None:
        if not tasks or set(tasks) - set(DAMAGES):
            raise PochadeError(f"tasks: {', '.join(tasks)} given, of any pictures can be made {', '.join(DAMAGES)}")
        if not len(dataset):
            raise PochadeError("pictures: there are none")
        check_size(size)
        self.dataset, self.size = dataset, size
        self.tasks = tuple(tasks)

    def __len__(self) -> int:
        return len(self.dataset)

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """A pair from picture ``index``, or from another one; without ``rng`` it is always the same one."""
        rng = np.random.default_rng(index) if rng is None else rng
        task = self.tasks[int(rng.integers(len(self.tasks)))]
        for _ in range(TRIES):
            target, item = self.dataset.image(index, self.size), self.dataset.item(index)
            caption = item.captions[int(rng.integers(len(item.captions)))] if item.captions else ""
            name, group = f"{item.name}-{task}", item.group
            if task == "inpaint":
                hidden = random_hole(target, rng)
                if hidden is not None:
                    return Pair(task, hidden[0], target, hidden[1], caption, name, group)
            else:
                source = random_loss(target, rng)
                if differ(source, target):
                    return Pair(task, source, target, None, caption, name, group)
            index = int(rng.integers(len(self)))
        raise FailureError(f"{task}: no picture could be made a pair of in {TRIES} tries")

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """As tensors and words, see `PairDataset`."""
        return self.pair(index, rng).sample()
