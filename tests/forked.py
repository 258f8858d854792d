"""Processes forked from one that has imported everything and does not compute: they share work as those of torchrun."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess

import accelerate  # noqa: F401 (what each would import when it joins the others)
from torch import distributed

FORK = multiprocessing.get_context("fork")


def fork(count: int, *work: Callable[[], None]) -> list[ForkProcess]:
    """So many processes that each do all of the work, one piece after the other, as one group; one alone joins none."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def process(rank: int) -> None:
        if count > 1:
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
            os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
        for one in work:
            one()
        if distributed.is_initialized():
            distributed.destroy_process_group()

    processes = [FORK.Process(target=process, args=(rank,)) for rank in range(count)]
    for one in processes:
        one.start()
    return processes


def together(count: int, *work: Callable[[], None]) -> None:
    """``fork`` to its end; where a process failed this one ends, too."""
    processes = fork(count, *work)
    for one in processes:
        one.join()
    if any(one.exitcode for one in processes):
        sys.exit(f"{count} processes ended with {[one.exitcode for one in processes]}")
