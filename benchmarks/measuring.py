"""What the benchmarks share: time, operations and peak memory of a step, the processor's name, careful writing.

A benchmark that calls ``peak`` sets KINETO_LOG_LEVEL before it imports torch: the profiler says much otherwise.
"""

import math
import platform
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pochade.arguments import EVERYWHERE
from pochade.files import atomic_file
from pochade.training.costs import OperationCounter

MATRIX = 1024
"""Rows and columns of the square matrices whose product gives the rate that others are compared with."""

GUIDED_THROUGHOUT: dict[str, Any] = dict(
    zip(("default_guidance_low", "default_guidance_high"), EVERYWHERE, strict=True)
)
"""Of a pipeline whose record says its scale of guidance alone."""

SECONDS = 6.0
"""A step of a second is run about so many times, one of milliseconds as often as the caller sets."""


def rounds_for(seconds: float, most: int) -> int:
    """How often to run a step of so many seconds: twice at least, ``most`` times at most."""
    return max(2, min(most, math.ceil(SECONDS / seconds)))


def timed(step: Callable[[], Any], device: str) -> float:
    """Seconds that a step takes."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(step: Callable[[], Any], device: str) -> int:
    """Most bytes that a step holds in tensors beside those that were there before."""
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results: Any = profile.profiler.kineto_results  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most


def resident(step: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that this process holds before a step, and the most that it holds within."""

    Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the most so far, begins anew
    before = _status("VmRSS")
    step()
    return before, _status("VmHWM")


def own_memory(step: Callable[[], Any]) -> tuple[int, int]:
    """As `resident`, without what is mapped from files, which the system drops where it needs room; looked at ten
    times a second."""

    before, done = _status("RssAnon"), threading.Event()
    most = [before]

    def watch() -> None:
        while not done.wait(0.1):
            most[0] = max(most[0], _status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        step()
    finally:
        done.set()
        watcher.join()
    return before, max(most[0], _status("RssAnon"))


def counted(step: Callable[[], Any], device: str) -> tuple[int, int]:
    """Operations of a step, a multiplication and an addition being two, and its ``peak`` of bytes."""
    with OperationCounter() as counter:
        most = peak(step, device)
    return counter.total, most


def processor(device: str = "cpu") -> str:
    """The model of the processor or the GPU."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def quality(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of what ``pochade.evaluation.report.evaluate`` found: pictures, KID and retrieval of both splits."""
    row: dict[str, Any] = {}
    for split in ("train", "held_out"):
        row |= {
            f"{split} pictures": report[split]["pictures"],
            f"kid {split}": report[split]["kid_lite0"],
            f"kid {split} std": report[split]["kid_lite0 std"],
            f"R@1 {split}": report[split]["retrieval"]["generated"]["R@1"],
        }
    return row


def _status(name: str) -> int:
    """Bytes of this process by their name in its status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def write_png(path: Path, picture: Image.Image) -> None:
    """A picture as a small PNG file."""
    with atomic_file(path) as file:
        picture.save(file, format="PNG", optimize=True)
