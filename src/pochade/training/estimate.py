"""What a run is, and what it will take, from its first steps."""

import shutil
import sys
import time
from pathlib import Path

import torch

from pochade.training.stage import AnyStage

AFTER = 3
"""Steps after which an estimate is given; the first of them is slower."""


def describe(stage: AnyStage, samples: int, trained: int, step: int, world: int, device: torch.device) -> str:
    """What is trained, on what and by how many processes; ``trained`` parameters, from ``step`` on."""
    share = stage.batch_size // (world * stage.accumulate)
    passes = stage.passes(samples)
    return (
        f"{world} process{'es' if world > 1 else ''} on {device.type}, threads of each: {torch.get_num_threads()}; "
        f"batch {stage.batch_size} = {world} x {stage.accumulate} x {share}; {samples} sample{'s' * (samples != 1)}; "
        f"{trained:,} parameters trained; "
        f"steps {step} to {stage.steps}, {passes:,.{0 if passes >= 10 else 1}f} passes over the data"
    )


def span(seconds: float) -> str:
    """A span of time in words."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had, on a GPU there. 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return 0
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def estimate(seconds_per_step: float, left: int, checkpoint: int, keep: int, folder: Path, device: torch.device) -> str:
    """What the rest of a run takes.

    Args:
        left: steps.
        checkpoint: bytes of a checkpoint, of which ``keep`` are kept below ``folder``.
    """
    seconds = seconds_per_step * left
    end = time.strftime("%H:%M" if seconds < 43200 else "%a %d %b, %H:%M", time.localtime(time.time() + seconds))
    memory = peak_memory(device)
    used = f"; {memory / 1e6:,.0f} MB of memory so far" if memory else ""
    free = shutil.disk_usage(folder).free
    disk = f"; {keep} checkpoints of {checkpoint / 1e6:,.1f} MB, {free / 1e9:,.1f} GB free on the disk"
    line = f"{seconds_per_step:.2g} s a step, {span(seconds)} to go without sample sheets: until {end}{used}{disk}"
    # While one is written, one more is there.
    return f"warning: the disk is too small: {line}" if free < checkpoint * (keep + 1) else line
