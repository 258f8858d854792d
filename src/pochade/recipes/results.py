"""What stages leave behind, and how it gets there."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pochade.files import atomic_folder
from pochade.training.stage import Stage


@dataclass(frozen=True)
class Result:
    """What a stage leaves: the folder of its model, and the weights that the next stage may start from."""

    model: Path
    weights: Path


def say(message: str) -> None:
    """A line on the error stream."""
    print(message, file=sys.stderr, flush=True)


def passed_over(stage: Stage, result: Result) -> Result:
    """The result of a stage that was finished before, said aloud."""
    say(f"{stage.name}: finished before, used as it is in {result.model}")
    return result


def after(stage: Stage, previous: Result | None) -> Stage:
    """The stage with "previous" replaced by the weights of the stage before."""
    if stage.initialise_from != "previous" or previous is None:
        return stage
    return replace(stage, initialise_from=str(previous.weights))


def write_folder(folder: Path, save: Callable[[Path], Any]) -> None:
    """``save`` into a temporary folder beside ``folder``, then put it in its place."""
    with atomic_folder(folder, replace=True) as temporary:
        save(temporary)


@contextmanager
def main_first() -> Iterator[bool]:
    """Rank 0 goes through the block before the others; yields whether this is rank 0."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from accelerate import PartialState

    processes = PartialState(cpu=not torch.accelerator.is_available())
    with processes.main_process_first():
        yield processes.is_main_process
