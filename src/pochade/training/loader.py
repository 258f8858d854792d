"""Batches as a pure function of the seed and the position in the run.

Sample p of a run (p = 0, 1, ...) is entry ``p mod L`` of the permutation of epoch ``p // L`` (or what ``Samples.order``
makes of p, where batches are of one shape each), and all that is random in it comes from its key; both are functions of
(seed, p) alone (``pochade.nn.keyed_random``). The position is one integer,
so a run resumes exactly and any number of processes sees the same samples: rank r of R takes rows r, r + R, ... of each
batch.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pochade.data.samples import Samples
from pochade.errors import PochadeError
from pochade.nn.keyed_random import sample_keys
from pochade.training.task import Batch


def draw(samples: Samples, seed: int, positions: Sequence[int], batch_size: int) -> Batch:
    """The samples at ``positions`` of the run in steps of ``batch_size``, with their keys as ``"seed"`` [B] int64."""
    where = torch.tensor(positions)
    keys = sample_keys(seed, where)
    return {**samples.batch(samples.order(seed, where, batch_size), keys), "seed": keys}


@dataclass(frozen=True)
class _Ready:
    """A batch on its way, and the event of its arrival."""

    batch: Batch
    event: torch.Event | None = None


class Loader:
    """The micro-batches of one process, in order, drawn ahead by a thread; to be iterated once.

    Iterating gives ``accumulate`` batches for each step from ``start`` to ``stop``, on ``device``. An error in the
    samples is raised where the batch is taken. ``close`` ends the thread.

    Args:
        batch_size: the samples of one optimiser step over all processes and micro-batches; it must divide by
            ``world_size * accumulate``.
        device: where tensors are moved, for CUDA by pinned memory and on a stream beside the computation; None: the
            CPU.
        ahead: batches that wait at most.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        seed: int,
        batch_size: int,
        start: int,
        stop: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        ahead: int = 2,
    ) -> None:
        if len(samples) == 0:
            raise PochadeError("dataset: it is empty")
        if batch_size % (world_size * accumulate):
            raise PochadeError(f"batch_size: {batch_size} given, must divide by {world_size} processes x {accumulate}")
        self.samples, self.seed, self.batch_size, self.accumulate = samples, seed, batch_size, accumulate
        self.rank, self.world_size = rank, world_size
        self.start, self.stop = start, stop
        self.device = device or torch.device("cpu")
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._queue: queue.Queue[_Ready | BaseException | None] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="pochade-loader", daemon=True)

    def positions(self, step: int, part: int) -> range:
        """The positions in the run of micro-batch ``part`` of ``step`` on this process."""
        first = step * self.batch_size
        return range(first, first + self.batch_size)[self.rank :: self.world_size][part :: self.accumulate]

    def _produce(self) -> None:
        try:
            for step in range(self.start, self.stop):
                self.samples.expect(self.seed, step * self.batch_size)
                for part in range(self.accumulate):
                    if self._closed.is_set():
                        return
                    self._put(self._moved(draw(self.samples, self.seed, self.positions(step, part), self.batch_size)))
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _moved(self, batch: Batch) -> _Ready:
        if self._stream is None:
            moved = {name: v.to(self.device) if isinstance(v, Tensor) else v for name, v in batch.items()}
            return _Ready(moved)
        with torch.cuda.stream(self._stream):
            moved = {name: self._copied(v) if isinstance(v, Tensor) else v for name, v in batch.items()}
            return _Ready(moved, self._stream.record_event())

    def _copied(self, tensor: Tensor) -> Tensor:
        """Begins a copy to the device; what an encoder has left there already stays."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if tensor.device.type == "cpu" else tensor

    def _put(self, item: _Ready | BaseException | None) -> None:
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
            if item.event is not None:
                stream = torch.cuda.current_stream(self.device)
                stream.wait_event(item.event)
                for value in item.batch.values():
                    if isinstance(value, Tensor):
                        value.record_stream(stream)  # its memory is kept until that stream has read it
            yield item.batch

    def close(self) -> None:
        """Ends the thread; batches drawn ahead are dropped."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self.samples.expect(self.seed, None)
