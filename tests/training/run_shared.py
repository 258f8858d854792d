"""A run without dropout, for torchrun: ``run_shared.py FOLDER``."""

import sys
from pathlib import Path

from pochade.training.loop import train
from training.toy import DrawingTask, ToyDataset, toy_stage

if __name__ == "__main__":
    train(toy_stage(log_every=1), DrawingTask(), ToyDataset(), Path(sys.argv[1]))
