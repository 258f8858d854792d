"""Runs divided among processes (fsdp) and not: ``run_sharded.py FOLDER FAMILY...``.

FOLDER/FAMILY/whole, FOLDER/FAMILY/divided by two processes; and of LRF, divided, FOLDER/three by three, and those that
go on from the middle of another: FOLDER/whole-2 from one that is not divided, FOLDER/2-3 and FOLDER/3-2. All
processes are forked from this one, which does nothing but import.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from forked import together
from pochade.training.loop import train
from pochade.training.processes import join_processes
from training.sharded import FlowSamples, flow_stage, flow_task

MIDDLE = "checkpoint-00000002"


def train_all(family: str, folder: Path, *, fsdp: bool) -> None:
    task = flow_task(family)

    def save(place: Path) -> None:
        task.parts["denoiser"].save_pretrained(place)

    train(flow_stage(fsdp=fsdp), task, FlowSamples(), folder, held_out=FlowSamples(), save_model=save)


def go_on(before: Path, folder: Path) -> None:
    if int(os.environ["RANK"]) == 0:
        shutil.copytree(before / MIDDLE, folder / MIDDLE)
    join_processes(torch.device("cpu"))
    distributed.barrier()
    train(flow_stage(fsdp=True), flow_task("lrf"), FlowSamples(), folder, resume=True)


if __name__ == "__main__":
    out, families = Path(sys.argv[1]), sys.argv[2:]
    divided = out / "lrf" / "divided"
    whole = {f: partial(train_all, f, out / f / "whole", fsdp=False) for f in families}
    # Its depth is drawn for all that a process computes at once, which is other samples where others share them.
    of_two = whole.pop("iris")
    together(1, *whole.values())
    parts = [partial(train_all, family, out / family / "divided", fsdp=True) for family in families]
    together(2, of_two, *parts, partial(go_on, out / "lrf" / "whole", out / "whole-2"))
    together(3, partial(train_all, "lrf", out / "three", fsdp=True), partial(go_on, divided, out / "2-3"))
    together(2, partial(go_on, out / "three", out / "3-2"))
