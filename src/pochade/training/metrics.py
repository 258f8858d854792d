"""What a run reports: averages, ``metrics.jsonl``, TensorBoard and other trackers, and the progress on the console."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pochade.errors import as_given
from pochade.files import write_text
from pochade.training.task import Batch
from pochade.training.trackers import Trackers

METRICS = "metrics.jsonl"
"""In the folder of a stage from its start on."""
T_BINS = 10


class Window:
    """Averages over the steps since the last line of the log; values stay on the device until they are read."""

    def __init__(self) -> None:
        self.steps = 0
        self.data_seconds = 0.0
        self.compute_seconds = 0.0
        self._parts = 0
        self._sums: dict[str, Tensor] = {}
        self._bins: Tensor | None = None
        self._norms: Tensor | float = 0.0

    def add_part(self, outputs: Mapping[str, Tensor]) -> None:
        """Takes in what the task gave for one micro-batch."""
        self._parts += 1
        for name, value in outputs.items():
            if name in ("t", "per_sample"):
                continue
            if value.numel() != 1:
                raise ValueError(f"task: the metric {name!r} has the shape {list(value.shape)}, must be a scalar")
            value = value.detach().float().reshape(())
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        if "t" in outputs and "per_sample" in outputs:
            self._add_bins(outputs["t"].detach(), outputs["per_sample"].detach().float())

    def _add_bins(self, t: Tensor, losses: Tensor) -> None:
        if self._bins is None:
            self._bins = torch.zeros(2, T_BINS, device=losses.device)
        index = (t * T_BINS).long().clamp_(0, T_BINS - 1)
        self._bins.index_add_(1, index, torch.stack([losses, torch.ones_like(losses)]))

    def add_norm(self, norm: Tensor) -> None:
        """Takes in the norm of a step's gradient, a scalar and the same in all processes."""
        self._norms = self._norms + norm.detach()

    def add_step(self, data_seconds: float, compute_seconds: float) -> None:
        """Counts one optimiser step."""
        self.steps += 1
        self.data_seconds += data_seconds
        self.compute_seconds += compute_seconds

    def line(self, reduce_sum: Callable[[Tensor], Tensor], world_size: int, batch_size: int) -> dict[str, Any]:
        """The averages over all processes; ``reduce_sum`` adds a tensor over them."""
        sums = reduce_sum(torch.stack(list(self._sums.values()))) / (self._parts * world_size)
        line: dict[str, Any] = dict(zip(self._sums, sums.tolist(), strict=True))
        line["gradient_norm"] = float(self._norms) / self.steps
        data, compute = self.data_seconds / self.steps, self.compute_seconds / self.steps
        line["seconds_per_step"] = data + compute
        line["seconds_data"] = data
        line["seconds_compute"] = compute
        line["images_per_second"] = batch_size / (data + compute)
        if self._bins is not None:
            losses, counts = reduce_sum(self._bins).tolist()
            line["loss_by_t"] = [loss / count if count else None for loss, count in zip(losses, counts, strict=True)]
        return line


class MetricLog:
    """``metrics.jsonl``; where TensorBoard is installed, its event files in ``tensorboard/``; and further trackers."""

    def __init__(self, folder: Path, step: int, trackers: Trackers | None = None) -> None:
        self._trackers = trackers
        path = folder / METRICS
        if path.exists():
            # Lines of steps after the checkpoint, and one cut off by a kill, would appear twice.
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
            write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in line.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()
        numbers = {k: v for k, v in finite.items() if isinstance(v, int | float) and k != "step"}
        by_t = {f"loss_by_t/{i / T_BINS:.1f}": value for i, value in enumerate(line.get("loss_by_t", []))}
        numbers |= {name: value for name, value in by_t.items() if value is not None}
        if self._trackers is not None:
            self._trackers.log(numbers, line["step"])
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, line["step"])
            self._board.flush()

    def image(self, name: str, picture: Any, step: int) -> None:
        """Shows a PIL image in TensorBoard and the like."""
        if self._trackers is not None:
            self._trackers.image(name, picture, step)
        if self._board is not None:
            import numpy as np

            self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._trackers is not None:
            self._trackers.close()
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Progress:
    """On standard error: a bar with the time left on a terminal, elsewhere a line for each of the log's."""

    def __init__(self, name: str, step: int, steps: int, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, quiet=not shown, soft_wrap=True, highlight=False)
        self._steps = steps
        self._bar: Bar | None = None
        if self._console.is_terminal and shown:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
            columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[status]}")]
            self._bar = Bar(*columns, console=self._console, refresh_per_second=2, speed_estimate_period=600)
            self._row = self._bar.add_task(name, total=steps, completed=step, status="")
            self._bar.start()

    def message(self, text: str) -> None:
        self._console.print(as_given(text), markup=False)

    def step(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._row, completed=step)

    def log(self, line: Mapping[str, Any]) -> None:
        text = f"loss {line['loss']:.4g}, gradient {line['gradient_norm']:.3g}"
        text += f", {line['seconds_per_step']:.3g} s/step"
        if self._bar is not None:
            self._bar.update(self._row, status=text)
        else:
            left = (self._steps - line["step"]) * line["seconds_per_step"]
            clock = time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} days"
            rate = f"learning rate {line['learning_rate']:.3g}"
            self.message(f"step {line['step']}/{self._steps}: {text}, {rate}, {clock} left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def suspects(batch: Batch, outputs: Mapping[str, Tensor]) -> list[str]:
    """The names of the samples whose loss is not finite, or of all where that is not known."""
    names = batch.get("name", [])
    losses = outputs.get("per_sample")
    if losses is None or bool(losses.isfinite().all()):
        return list(names)
    return [name for name, finite in zip(names, losses.isfinite().tolist(), strict=False) if not finite]
