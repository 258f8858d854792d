"""Threads that run the compiled loops of a CPU."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ZEROS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}
_WORTH_A_THREAD = 100_000  # nanoseconds of work; waking a thread takes about 50,000


class _Threads:
    """Threads that share the units of a kernel, as many as torch uses.

    Not Numba's own: those stop the program when two Python threads call at once, or after a fork.
    """

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.size = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.pool = None

    def run(
        self,
        kernel: Callable[..., None],
        tensors: Sequence[Tensor],
        others: tuple[Any, ...],
        units: int,
        nanoseconds: float,
    ) -> None:
        """Calls ``kernel`` over ranges that cover ``units``, with the addresses of the numbers of tensors without gaps,
        a zero of their type, and ``others``; ``nanoseconds`` is a guess of the work.
        """
        zero = _ZEROS[tensors[0].dtype]

        def work(first: int, last: int) -> None:
            kernel(tuple(tensor.data_ptr() for tensor in tensors), zero, *others, first, last)

        threads = min(torch.get_num_threads(), units, 1 + int(nanoseconds / _WORTH_A_THREAD))
        if threads < 2:
            work(0, units)
            return
        if self.pool is None or self.size < threads - 1:
            self.pool, self.size = ThreadPoolExecutor(threads - 1, "pochade-scan"), threads - 1
        edges = [units * share // threads for share in range(threads + 1)]
        running = [self.pool.submit(work, *edges[j : j + 2]) for j in range(1, threads)]
        work(*edges[:2])
        for one in running:
            one.result()


threads = _Threads()
