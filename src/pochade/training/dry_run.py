"""Trying a recipe without its data: every stage is built and trained for a few steps, by the loop that trains it.

What a user wants to know before the hours of a run: whether it fits into memory, how long a step takes, how long all.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pochade.device import device_memory, resolve_device
from pochade.errors import PochadeError
from pochade.training.costs import activation_bytes, fewest_parts, fixed_memory
from pochade.training.executor import check, freed_afterwards, take_or_run
from pochade.training.loader import draw
from pochade.training.metrics import METRICS
from pochade.training.stage import AnyStage, steps_for, with_rate
from pochade.training.stages import kind_of
from pochade.training.stages.components import StandIns
from pochade.training.stages.kind import Inputs, Result, Role, Work

STEPS = 3
"""Optimiser steps of a trial, of which the fastest counts."""
MOST_ON_CPU = 1
"""Samples at once in a trial on a processor: one of the largest networks at 512 px keeps 2.6 GB for its gradient."""
MOST_PARTS = 2
"""Accumulated parts of a trial's batch."""
PICTURES = 800
"""Whose steps are counted where a stage has as many as follow from its data."""
HOUR = 3600


@dataclass(frozen=True)
class Trial:
    """What a few steps of one stage were, and what follows for the whole of it on this machine."""

    stage: str
    device: str
    precision: str
    parameters: int
    """That are trained."""
    shape: tuple[int, ...]
    """Of a sample: channels, rows, columns of pictures or latents."""
    tried: int
    """Samples that were computed at once."""
    batch: int
    """Samples that the stage computes at once, in one of its parts."""
    seconds_per_step: float
    """Of the stage's whole batch on one process."""
    hours: float
    """Of all its steps, without the encoding of the data."""
    memory: dict[str, int]
    """Bytes of the stage's own batch by part: weights, gradients, optimiser, average, frozen, activations."""
    available: int | None
    """Bytes that the device has free; None where it does not say."""
    accumulate: int | None
    """Parts into which the batch must be divided to fit; None where not even single samples fit."""
    losses: tuple[float, ...]
    assumed: tuple[str, ...] = ()
    """What a run needs and was not at hand, and what stood in for it."""

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much memory."""
        return self.available is None or self.needed <= self.available


def dry_run(stages: Sequence[AnyStage], steps: int = STEPS) -> Iterator[Trial]:
    """Runs all stages for ``steps`` steps on synthetic data, each going on from the one before; yields as it goes.

    The recipe's own networks, caches, losses, precision, accumulation and averages, in a temporary folder. Nothing is
    fetched: a part that is not on this machine is replaced by a small one of the same shape. On a processor one
    sample is computed at a time, in float32; the figures are those of the whole batch by proportion.

    Raises:
        PochadeError: a stage cannot be made.
        FailureError: a loss or a gradient is not finite, or the memory of the device is exhausted.
    """
    if steps < 1:
        raise PochadeError(f"steps: {steps} given, allowed is at least 1")
    components = StandIns()
    without = [stage.name for stage in stages if not stage.steps]
    stages = [with_rate(stage) for stage in stages]
    stages = [stage if stage.steps else replace(stage, steps=steps_for(PICTURES, stage.batch_size)) for stage in stages]
    tried: list[AnyStage] = []
    for stage in stages:
        tried.append(_shortened(kind_of(stage).synthetic(stage, tried, components), steps))
    check(tried, components)
    components.assumed.clear()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="pochade-dry-run-") as place:
        out = Path(place)
        for number, (stage, short) in enumerate(zip(stages, tried, strict=True), 1):
            folder = out / f"{number}-{stage.name}"
            kinds = (kind_of(before) for before in tried)
            models: dict[Role, Path] = {k.produces: r.model for k, r in zip(kinds, results, strict=False)}
            device = resolve_device(short.device)
            inputs = Inputs(components, models, results[-1] if results else None, out / "cache", device, progress=False)
            with freed_afterwards():
                work = take_or_run(short, inputs, folder / "model", quiet=True)
                results.append(Result(folder / "model", folder / kind_of(stage).weights))
                if work is not None:
                    usual = [f"steps are those for {PICTURES} pictures"] if stage.name in without else []
                    assumed = (*stage.data.missing(), *usual, *components.assumed)
                    yield _trial(stage, short, work, folder, device, assumed)
                del work
            components.assumed.clear()


def _shortened(stage: AnyStage, steps: int) -> AnyStage:
    """The stage with a few steps of a batch that is bounded where nothing but a processor is there."""
    share = stage.batch_size // stage.accumulate
    parts = min(MOST_PARTS, stage.accumulate)
    if resolve_device(stage.device).type == "cpu":
        share, precision = min(share, MOST_ON_CPU), "fp32"
    else:
        precision = stage.precision
    return replace(
        stage,
        steps=steps,
        batch_size=share * parts,
        accumulate=parts,
        precision=precision,
        sample_every=0,
        log_every=1,
        save_every=steps,
        keep=1,
        trackers=(),
    )


def _trial(
    stage: AnyStage, short: AnyStage, work: Work, folder: Path, device: torch.device, assumed: tuple[str, ...]
) -> Trial:
    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    fastest = min(line["seconds_compute"] for line in lines)
    seconds = fastest * stage.batch_size / short.batch_size
    sample = short.batch_size // short.accumulate
    own = stage.batch_size // stage.accumulate
    drawn = draw(work.samples, short.seed, range(sample), short.batch_size)
    batch = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in drawn.items()}
    again = stage.gradient_checkpointing
    activations = activation_bytes(work.task, batch, short.precision, recompute=again)
    fixed, trained = fixed_memory(work.task)
    memory = {**fixed, "activations": activations * own // sample}
    available = device_memory(device)
    free = None if available is None else available.free
    image = batch["latents"] if "latents" in batch else batch["image"]
    assert isinstance(image, Tensor)
    return Trial(
        stage=stage.name,
        device=device.type,
        precision=short.precision,
        parameters=trained,
        shape=tuple(image.shape[1:]),
        tried=sample,
        batch=own,
        seconds_per_step=seconds,
        hours=seconds * stage.steps / HOUR,
        memory=memory,
        available=free,
        accumulate=fewest_parts(stage.batch_size, stage.accumulate, sum(fixed.values()), activations / sample, free),
        losses=tuple(line["loss"] for line in lines),
        assumed=assumed,
    )
