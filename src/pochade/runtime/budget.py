"""A time in place of steps and depth: those of the best measured quality whose pictures take no longer here.

A picture takes a part that is the same for all numbers of steps, and as much again for each step. Both are timed on the
machine at first use, at every depth, and kept.
"""

import hashlib
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import check_beside, is_number, shown
from ..errors import FailureError, PochadeError
from ..files import cache_folder, write_json
from .manifest import Manifest, Quality

TIMINGS = "timings.json"
"""The file of a bundle in which its times lie, if the folder can be written; else in the user's cache folder."""
RESERVE = 1.1
"""A picture is expected to take this much more than the median of those that were timed."""
TIMED_STEPS = (1, 3)
REPEATS = 5
PATIENCE = 2.0
"""Seconds of a call from which on it is timed once."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of the parts of a picture, by depth; the depth of a family without iterations is "".

    Attributes:
        fixed: of all but the steps: text encoder, decoder, noise.
        step: of each step.
    """

    fixed: Mapping[str, float]
    step: Mapping[str, float]

    def expected(self, steps: int, depth: int | None) -> float:
        """Milliseconds of a picture, ``RESERVE`` included."""
        key = _key(depth)
        return round(RESERVE * (self.fixed[key] + steps * self.step[key]), 6)


@dataclass(frozen=True)
class Choice:
    """What a budget pays for.

    Attributes:
        quality: steps, depth, and the figures that were measured for them.
        expected_ms: of a picture.
    """

    quality: Quality
    expected_ms: float

    def __str__(self) -> str:
        chosen = self.quality
        steps = f"{chosen.steps} step{'s' if chosen.steps > 1 else ''}"
        depth = "" if chosen.depth is None else f", depth {chosen.depth}"
        return f"{steps}{depth} (KID {chosen.kid:.3f}, R@1 {chosen.r1:.2f})"

    def report(self, taken_ms: float) -> str:
        """One line: what was chosen, and what it took."""
        return f"budget: {self}, {self.expected_ms:.0f} ms expected, {taken_ms:.0f} ms taken"


def parse_budget(text: str) -> float:
    """Milliseconds of ``300ms``, ``1.5s`` or ``300``. Raises PochadeError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", text.strip())
    if match is None or not float(match[1]):
        raise PochadeError(f"budget: {text!r} given, allowed are times such as 300ms or 1.5s")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def check_budget(budget_ms: Any, **beside: object) -> None:
    """Raises PochadeError for a budget that is none, or one that is given with what it decides."""
    if not is_number(budget_ms) or budget_ms <= 0:
        raise PochadeError(f"budget_ms: {shown(budget_ms)} given, allowed are milliseconds above 0")
    check_beside("a budget", **beside)


def usable(manifest: Manifest) -> list[Quality]:
    """The rows of the table of quality that a bundle can go by: those of its depths."""
    return [row for row in manifest.quality if row.depth is None or str(row.depth) in manifest.depths]


def without_table(manifest: Manifest) -> str:
    """Why none of the rows are ``usable``, and what to do."""
    if not manifest.quality:
        return (
            "the bundle has no table of quality: pochade evaluate MODEL DATA --grid STEPS makes one, which pochade "
            "export takes from the model's folder"
        )
    measured = ",".join(
        str(depth) for depth in sorted({row.depth for row in manifest.quality if row.depth is not None})
    )
    has = ", ".join(manifest.depths) or "none"
    return (
        f"the table of quality has depths {measured.replace(',', ', ')}, the bundle {has}: pochade export --depth "
        f"{measured} writes them"
    )


def choose(table: Sequence[Quality], times: Times, budget_ms: float) -> Choice:
    """The row of the lowest KID among those whose pictures take at most ``budget_ms``; of equal ones the fastest.

    Raises:
        PochadeError: none fits; it names the smallest budget that has one.
    """
    costs = {row: times.expected(row.steps, row.depth) for row in table}
    within = [row for row, cost in costs.items() if cost <= budget_ms]
    if not within:
        row = min(costs, key=lambda row: costs[row])
        least = Choice(row, costs[row])
        raise PochadeError(
            f"budget: {budget_ms:.0f} ms given, the smallest possible here is {math.ceil(costs[row])} ms, for {least}"
        )
    best = min(within, key=lambda row: (row.kid, costs[row]))
    return Choice(best, costs[best])


def measure(sample: Callable[[int, int | None], object], depths: Iterable[int | None]) -> Times:
    """Times of a model, whose pictures ``sample(steps, depth)`` makes."""
    fixed: dict[str, float] = {}
    step: dict[str, float] = {}
    few, many = TIMED_STEPS
    for depth in depths:
        repeats = REPEATS if _milliseconds(sample, few, depth) < 1000 * PATIENCE else 1
        taken: dict[int, list[float]] = {few: [], many: []}
        for _ in range(repeats):
            for steps, found in taken.items():
                found.append(_milliseconds(sample, steps, depth))
        short, long = (statistics.median(found) for found in taken.values())
        each = max(0.0, (long - short) / (many - few))
        step[_key(depth)], fixed[_key(depth)] = each, max(0.0, short - few * each)
    return Times(fixed, step)


def times_here(places: Sequence[Path], key: str, table: Sequence[Quality], time_it: Callable[[], Times]) -> Times:
    """The times in the first of ``places`` that has those of this machine and of every depth, else new ones.

    New ones are written to the first place that can be written.

    Args:
        places: files.
        key: what they depend on besides the machine.
        table: whose depths are needed.
        time_it: makes new ones.
    """
    key = f"{platform.node()}, {os.cpu_count()} cores, {key}"
    needed = {_key(row.depth) for row in table}
    for place in places:
        found = _read(place).get(key)
        if isinstance(found, dict) and needed <= found.get("step", {}).keys():
            return Times(found["fixed"], found["step"])
    times = time_it()
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, {**_read(place), key: {"fixed": dict(times.fixed), "step": dict(times.step)}})
            break
        except (FailureError, OSError):
            continue
    return times


def cached(name: str) -> Path:
    """The file in the user's cache folder that has the times of what ``name`` identifies."""
    return cache_folder("timings") / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _key(depth: int | None) -> str:
    return "" if depth is None else str(depth)


def _milliseconds(sample: Callable[[int, int | None], object], steps: int, depth: int | None) -> float:
    start = time.perf_counter()
    sample(steps, depth)
    return 1000 * (time.perf_counter() - start)


def _read(place: Path) -> dict[str, Any]:
    """The content of a file of times; nothing where there is none that can be read."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
