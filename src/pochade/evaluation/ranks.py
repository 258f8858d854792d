"""The processes that share an evaluation, as ``torchrun`` starts them."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch import distributed

from pochade.training.processes import group_store

T = TypeVar("T")
LONGEST = timedelta(days=2)
"""That one process waits for another: pictures take as long as they take."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. The first one writes the report."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether piece ``number`` of the work is this process's."""
        return number % self.size == self.rank

    def gather(self, value: T) -> list[T] | None:
        """What each process gives, in their order, in the first one; None in the others."""
        if self.size == 1:
            return [value]
        found: list[T] | None = [value] * self.size if self.main else None
        distributed.gather_object(value, found)
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


def join_ranks() -> Ranks:
    """The processes of this run; one alone where ``torchrun`` did not start it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=LONGEST, **group_store())
        atexit.register(distributed.destroy_process_group)
    return Ranks(distributed.get_rank(), distributed.get_world_size())
