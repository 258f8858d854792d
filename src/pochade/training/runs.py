"""What the runs below a folder are and how they stand, from their files alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pochade.data.cache.claims import holder
from pochade.errors import PochadeError
from pochade.training.checkpoint import checkpoints
from pochade.training.executor import CLAIM
from pochade.training.metrics import METRICS

_DEPTHS = ("", "*/", "*/*/")
"""A stage, a run, a folder of runs."""


@dataclass(frozen=True)
class StageRun:
    """One stage of a run."""

    folder: Path
    state: Literal["running", "finished", "stopped"]
    step: int
    """Of the last line of the log;"""
    steps: int
    """of so many, 0 where that is not known."""
    loss: float | None
    held_out_loss: float | None
    """The last one; None where none is measured."""
    lowest: float | None
    lowest_step: int
    seconds_per_step: float
    written: datetime
    """When the last line was."""
    settings: Mapping[str, Any]
    """Of the stage, with dotted names."""
    curve: Sequence[tuple[int, float]]
    """Steps and losses;"""
    held_out_curve: Sequence[tuple[int, float]]
    """the same of held-out pictures."""

    @property
    def sheets(self) -> list[Path]:
        """Its sample sheets, the oldest first."""
        return sorted((self.folder / "samples").glob("step-*.png"))

    @property
    def seconds_left(self) -> float:
        """Without sample sheets."""
        return self.seconds_per_step * max(0, self.steps - self.step)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without the curves."""
        return {
            "folder": str(self.folder),
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            "held_out_loss": self.held_out_loss,
            "lowest_held_out_loss": self.lowest,
            "lowest_step": self.lowest_step,
            "seconds_per_step": self.seconds_per_step,
            "written": self.written.isoformat(timespec="seconds"),
            "sheet": str(self.sheets[-1]) if self.sheets else None,
            "settings": dict(self.settings),
        }


def find_runs(folders: Sequence[Path]) -> list[StageRun]:
    """The stages of all runs in some folders, each a folder of runs, a run or a stage, in the order of their names.

    Raises:
        PochadeError: a folder is not there, or holds no run.
    """
    found: dict[Path, StageRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise PochadeError(f"runs: {str(folder)!r} given, which is no folder")
        logs = sorted(chain.from_iterable(folder.glob(f"{depth}{METRICS}") for depth in _DEPTHS))
        if not logs:
            raise PochadeError(f"runs: {str(folder)!r} holds no run ({METRICS} of a stage)")
        found |= {log.parent: read_run(log.parent) for log in logs}
    return list(found.values())


def read_run(folder: Path) -> StageRun:
    """The stage in a folder."""
    log = folder / METRICS
    lines = list(_lines(log))
    last: Mapping[str, Any] = lines[-1] if lines else {}
    held_out = [(line["step"], line["held_out_loss"]) for line in lines if line.get("held_out_loss") is not None]
    lowest = min(held_out, key=lambda point: point[1], default=(0, None))
    settings = _settings(folder)
    finished = (folder / "final").is_dir()
    running = holder(folder / CLAIM) is not None
    return StageRun(
        folder=folder,
        state="running" if running else "finished" if finished else "stopped",
        step=int(last.get("step", 0)),
        steps=int(settings.get("steps", 0)),
        loss=last.get("loss"),
        held_out_loss=held_out[-1][1] if held_out else None,
        lowest=lowest[1],
        lowest_step=lowest[0],
        seconds_per_step=float(last.get("seconds_per_step", 0.0)),
        written=datetime.fromtimestamp(log.stat().st_mtime, UTC).astimezone(),
        settings=settings,
        curve=[(line["step"], line["loss"]) for line in lines if line.get("loss") is not None],
        held_out_curve=held_out,
    )


def different_settings(runs: Sequence[StageRun]) -> dict[str, list[Any]]:
    """The settings in which runs differ, with the value that each has; None where it has none."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: given for name, given in values.items() if any(one != given[0] for one in given)}


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for text in log.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def _settings(folder: Path) -> dict[str, Any]:
    """Those with which a stage was trained last: of its model, else of its newest checkpoint; {} where neither is."""
    places = [folder / "model" / "training.json", *(path / "state.json" for path in checkpoints(folder))]
    for place in places:
        try:
            stage = json.loads(place.read_text(encoding="utf-8"))["stage"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return _flat(stage)
    return {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
