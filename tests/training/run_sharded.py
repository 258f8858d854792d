"""Runs by two processes, divided among them (fsdp) and not, for torchrun: ``run_sharded.py FOLDER FAMILY...``.

FOLDER/FAMILY/whole and FOLDER/FAMILY/divided; and FOLDER/mixed, which goes on divided from LRF's that is not.
"""

import os
import shutil
import sys
from pathlib import Path

import torch

from pochade.training.loop import train
from training.sharded import FlowSamples, flow_stage, flow_task

if __name__ == "__main__":
    out = Path(sys.argv[1])
    for family in sys.argv[2:]:
        for name, fsdp in (("whole", False), ("divided", True)):
            task = flow_task(family)
            saved = {"save_model": lambda folder, task=task: task.parts["denoiser"].save_pretrained(folder)}
            train(flow_stage(fsdp=fsdp), task, FlowSamples(), out / family / name, held_out=FlowSamples(), **saved)
    if int(os.environ["RANK"]) == 0:
        shutil.copytree(out / "lrf" / "whole" / "checkpoint-00000002", out / "mixed" / "checkpoint-00000002")
    torch.distributed.barrier()
    train(flow_stage(fsdp=True), flow_task("lrf"), FlowSamples(), out / "mixed", resume=True)
