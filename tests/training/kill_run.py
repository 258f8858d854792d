"""Trains the toy in forked children, kills some with SIGKILL and resumes them: ``kill_run.py FOLDER``.

One process that has imported everything stands in for many that would each import it again; it does not
compute. Prints one JSON line: the SHA-256 of the files of the last checkpoint of every run.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import accelerate  # noqa: F401 (these three here once, for all children)
import torch._dynamo
import torch.utils.tensorboard.writer  # noqa: F401

from pochade.training.loop import train
from training.toy import ToyDataset, ToyTask, fingerprint, toy_stage

LAST = "checkpoint-00000014"


def child(folder: Path, rank: int, world_size: int, port: int, killed_at: int | None) -> None:
    if world_size > 1:  # what torchrun sets
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    killed = killed_at if rank == world_size - 1 else None
    stage = toy_stage(steps=14, save_every=2, accumulate=2)  # an epoch is five steps
    train(stage, ToyTask(killed_at=killed), ToyDataset(), folder, resume=True, console=False)
    os._exit(0)


def run(folder: Path, world_size: int, killed_at: int | None = None) -> None:
    """One launch; in forward call ``killed_at`` the last rank dies, the others are killed with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, rank, world_size, port, killed_at)
            finally:
                os._exit(1)
        children.append(pid)
    _, status = os.waitpid(children.pop(), 0)
    if killed_at is not None:
        assert os.WIFSIGNALED(status), status
        assert os.WTERMSIG(status) == signal.SIGKILL
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    else:
        assert status == 0, status
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)


def main(root: Path) -> None:
    fingerprints = {}
    for world_size in (1, 2):
        runs = {"whole": [], "early": [7], "middle": [14], "late": [23], "twice": [16, 5]}
        for name, kills in runs.items():
            folder = root / f"{name}-{world_size}"
            for killed_at in kills:
                run(folder, world_size, killed_at)
            run(folder, world_size)
            fingerprints[folder.name] = fingerprint(folder / LAST)
    print(json.dumps(fingerprints))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
