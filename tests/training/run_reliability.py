"""Toy runs of processes that are killed, resumed and started again: ``run_reliability.py FOLDER``.

FOLDER/NAME-SIZE: runs of so many processes, killed with SIGKILL and resumed, and whole; FOLDER/shared: one of two
processes without dropout; FOLDER/killed: the same, of which the second process is killed and torchrun's agent starts
both again. One process that has imported everything stands in for many that would each import it again. Prints one JSON
line: the SHA-256 of the files of the last checkpoint of every run NAME-SIZE.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch.utils.tensorboard.writer  # noqa: F401 (here once, for all children)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from forked import fork, together
from pochade.training.loop import train
from training.toy import DrawingTask, ToyDataset, ToyTask, fingerprint, toy_stage

LAST = "checkpoint-00000014"


def dropped_out(folder: Path, world_size: int, killed_at: int | None) -> None:
    killed = killed_at if int(os.environ.get("RANK", "0")) == world_size - 1 else None
    stage = toy_stage(steps=14, save_every=2, accumulate=2)  # an epoch is five steps
    train(stage, ToyTask(killed_at=killed), ToyDataset(), folder, resume=True, console=False)


def kill_and_resume(folder: Path, world_size: int, kills: list[int]) -> None:
    """In each of these forward calls the last process dies, the others are killed with it."""
    for killed_at in kills:
        *others, last = fork(world_size, partial(dropped_out, folder, world_size, killed_at))
        last.join()
        assert last.exitcode == -signal.SIGKILL, last.exitcode
        for one in others:
            one.kill()
            one.join()
    together(world_size, partial(dropped_out, folder, world_size, None))


def drawn(folder: Path, killed: bool) -> None:
    task = DrawingTask()
    if killed and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        task.killed_at = 7  # two steps after the first checkpoint
    train(toy_stage(log_every=1), task, ToyDataset(), folder, resume=killed)


def elastic(folder: Path) -> None:
    """As ``torchrun --standalone --nproc-per-node=2 --max-restarts=1``, whose processes are forked from this one."""
    standalone = LaunchConfig(
        *(1, 1, 2), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=1, start_method="fork"
    )
    elastic_launch(standalone, drawn)(folder, True)


def main(root: Path) -> None:
    fingerprints: dict[str, dict[str, str]] = {}
    for world_size in (1, 2):
        runs = {"whole": [], "early": [7], "middle": [14], "late": [23], "twice": [16, 5]}
        for name, kills in runs.items():
            folder = root / f"{name}-{world_size}"
            kill_and_resume(folder, world_size, kills)
            fingerprints[folder.name] = fingerprint(folder / LAST)
    together(2, partial(drawn, root / "shared", False))
    elastic(root / "killed")
    print(json.dumps(fingerprints))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
