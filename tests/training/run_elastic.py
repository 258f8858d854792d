"""A run whose second process is killed once, for torchrun --max-restarts=1: ``run_elastic.py FOLDER``."""

import os
import sys
from pathlib import Path

from pochade.training.loop import train
from training.toy import DrawingTask, ToyDataset, toy_stage

if __name__ == "__main__":
    task = DrawingTask()
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        task.killed_at = 7  # two steps after the first checkpoint
    train(toy_stage(log_every=1), task, ToyDataset(), Path(sys.argv[1]), resume=True)
