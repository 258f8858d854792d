"""Writes checkpoints in forked children and kills each at a random moment: ``kill_writer.py FOLDER COUNT``.

After every kill the run's latest checkpoint must load, be whole, and be no older than the last one that the
child reported as written. Prints one JSON line with what happened.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from pochade.files import remove_orphans
from pochade.training.checkpoint import (
    checkpoints,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def write_for_ever(folder: Path, step: int, report: int) -> None:
    while True:
        step += 1
        tensors = {group: {"a": torch.full((20_000,), float(step))} for group in ("model", "ema", "optimizer")}
        save_checkpoint(folder, step, tensors, {"marker": step}, keep=2)
        os.write(report, step.to_bytes(8, "little"))


def main(folder: Path, count: int) -> None:
    chance = random.Random(0)
    orphans, complaints, step = 0, [], 0
    for _ in range(count):
        reading, report = os.pipe()
        child = os.fork()
        if child == 0:
            write_for_ever(folder, step, report)
        os.close(report)
        first = os.read(reading, 8)  # it is writing by now
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        written = first
        while more := os.read(reading, 8):
            written = more
        os.close(reading)
        found = find_checkpoint(folder, complaints.append)
        assert found is not None
        saved = load_checkpoint(found)
        step = saved.step
        assert step >= int.from_bytes(written, "little"), (step, written)
        assert saved.state["marker"] == step
        assert all((tensors["a"] == step).all() for tensors in saved.tensors.values())
        orphans += len(remove_orphans(folder))
        left = {path.name for path in folder.iterdir()} - {path.name for path in checkpoints(folder)}
        assert left == {"latest"}, left
    print(json.dumps({"step": step, "orphans": orphans, "complaints": complaints}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
