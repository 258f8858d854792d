"""Writes checkpoints in forked children and kills each in the middle of one: ``kill_writer.py FOLDER COUNT``.

The moments are calls of functions, Python's and C's, evenly spread over those of one checkpoint, whatever time they
take. After every kill the run's latest checkpoint must load, be whole, and be no older than the last one that the child
reported as written. Prints one JSON line with what happened.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pochade.files import remove_orphans
from pochade.training.checkpoint import (
    checkpoints,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def write(folder: Path, step: int) -> None:
    tensors = {group: {"a": torch.full((20_000,), float(step))} for group in ("model", "ema", "optimizer")}
    save_checkpoint(folder, step, tensors, {"marker": step}, keep=2)


def at_each_call(work: Callable[[], None]) -> None:
    """Calls ``work`` whenever a function is called, from now on."""

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            work()

    sys.setprofile(profile)


def calls_of_a_checkpoint(folder: Path, step: int) -> int:
    count = 0

    def work() -> None:
        nonlocal count
        count += 1

    at_each_call(work)
    write(folder, step)
    sys.setprofile(None)
    return count


def write_until_killed(folder: Path, step: int, report: int, moment: int) -> None:
    write(folder, step + 1)
    os.write(report, (step + 1).to_bytes(8, "little"))

    def work() -> None:
        nonlocal moment
        moment -= 1
        if moment == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    at_each_call(work)
    write(folder, step + 2)
    os._exit(1)


def main(folder: Path, count: int) -> None:
    orphans, complaints = 0, []
    for step in (1, 2, 3):
        write(folder, step)
    calls, step = min(calls_of_a_checkpoint(folder, step) for step in range(4, 9)), 8  # one takes a few more or less
    for kill in range(count):
        reading, report = os.pipe()
        child = os.fork()
        if child == 0:
            write_until_killed(folder, step, report, 1 + kill * calls // count)
        os.close(report)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), status
        written = int.from_bytes(os.read(reading, 8), "little")
        os.close(reading)
        assert written == step + 1
        found = find_checkpoint(folder, complaints.append)
        assert found is not None
        saved = load_checkpoint(found)
        step = saved.step
        assert step >= written, (step, written)
        assert saved.state["marker"] == step
        assert all((tensors["a"] == step).all() for tensors in saved.tensors.values())
        orphans += len(remove_orphans(folder))
        left = {path.name for path in folder.iterdir()} - {path.name for path in checkpoints(folder)}
        assert left == {"latest"}, left
    print(json.dumps({"step": step, "orphans": orphans, "complaints": complaints}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
