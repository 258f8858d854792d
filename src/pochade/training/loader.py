"""Batches as a pure function of the seed and the position in the run.

Sample p of a run (p = 0, 1, ...) is entry ``p mod L`` of the permutation of epoch ``p // L``, which is
seeded by [seed, epoch]; its augmentation is drawn from a generator seeded by [seed, p]. The position is one
integer, so a run resumes exactly and any number of processes sees the same samples: rank r of R takes rows
r, r + R, ... of each batch.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.training.task import Batch


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def draw(dataset: Dataset, seed: int, position: int) -> dict[str, Any]:
    """Sample ``position`` of the run, with ``"seed"``, the integer from which a task draws its noise."""
    length = len(dataset)
    index = int(_order(seed, position // length, length)[position % length])
    rng = np.random.default_rng([seed, position])
    noise_seed = int(rng.integers(2**63 - 1))
    return {**dataset.sample(index, rng), "seed": noise_seed}


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Tensors and arrays are stacked, bool, int and float become [B] tensors, strings a list.

    Raises PochadeError where samples do not have the same entries or an entry is of another kind.
    """
    names = samples[0].keys()
    for sample in samples:
        if sample.keys() != names:
            raise PochadeError(f"samples: all must have the same entries, given {sorted(names)} and {sorted(sample)}")
    return {name: _stack(name, [sample[name] for sample in samples]) for name in names}


def _stack(name: str, values: list[Any]) -> Tensor | list[str]:
    first = values[0]
    if isinstance(first, str):
        return values
    if isinstance(first, np.ndarray):
        values = [torch.from_numpy(v) for v in values]
        first = values[0]
    if isinstance(first, Tensor):
        shapes = sorted({tuple(v.shape) for v in values})
        if len(shapes) > 1:
            raise PochadeError(f"samples: {name!r} must have one shape in a batch, given {shapes}")
        return torch.stack(values)
    if isinstance(first, bool | int | float | np.integer | np.floating):
        kind = torch.bool if isinstance(first, bool) else torch.int64
        return torch.tensor(values, dtype=torch.float32 if isinstance(first, float | np.floating) else kind)
    raise PochadeError(f"samples: {name!r} is a {type(first).__name__}, allowed are tensors, numbers and strings")


class Loader:
    """The micro-batches of one process, in order, drawn ahead by a thread; to be iterated once.

    ``batch_size`` counts the samples of one optimiser step over all processes and micro-batches; it must
    divide by ``world_size * accumulate``. Iterating gives ``accumulate`` batches for each step from
    ``start`` to ``stop``. An error in the dataset is raised where the batch is asked for. ``close`` ends the
    thread.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        start: int,
        stop: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        ahead: int = 2,
    ) -> None:
        if len(dataset) == 0:
            raise PochadeError("dataset: it is empty")
        if batch_size % (world_size * accumulate):
            raise PochadeError(f"batch_size: {batch_size} given, must divide by {world_size} processes x {accumulate}")
        self.dataset, self.seed, self.batch_size, self.accumulate = dataset, seed, batch_size, accumulate
        self.rank, self.world_size, self.pin_memory = rank, world_size, pin_memory
        self.start, self.stop = start, stop
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="pochade-loader", daemon=True)

    def positions(self, step: int, part: int) -> range:
        """The positions in the run of micro-batch ``part`` of ``step`` on this process."""
        first = step * self.batch_size
        return range(first, first + self.batch_size)[self.rank :: self.world_size][part :: self.accumulate]

    def _produce(self) -> None:
        try:
            for step in range(self.start, self.stop):
                for part in range(self.accumulate):
                    samples: list[dict[str, Any]] = []
                    for position in self.positions(step, part):
                        if self._closed.is_set():
                            return
                        samples.append(draw(self.dataset, self.seed, position))
                    batch = collate(samples)
                    if self.pin_memory:
                        batch = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()}
                    self._put(batch)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Batch]:
        self._thread.start()
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Ends the thread; batches drawn ahead are dropped."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
