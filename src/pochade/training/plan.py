"""What a recipe takes on a cluster, from counted operations and bytes and from rates that were measured."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pochade.arguments import check_number
from pochade.errors import PochadeError
from pochade.files import atomic_folder
from pochade.tensors import tensor_entries
from pochade.training.accelerators import Cluster
from pochade.training.costs import (
    OperationCounter,
    activation_bytes,
    fewest_parts,
    fixed_memory,
    shapes_of,
    training_operations,
    whole_bytes,
)
from pochade.training.executor import check
from pochade.training.loader import draw
from pochade.training.stage import PREVIOUS, AnyStage, steps_for
from pochade.training.stages import kind_of
from pochade.training.stages.components import StandIns
from pochade.training.stages.kind import Inputs, Result, Role
from pochade.training.stages.models import is_model
from pochade.training.task import Batch, Task

Limit = Literal["memory", "launches", "network", "storage", "computing"]

MATRIX = 0.80
"""Rate of a large matrix product over the published one: 791 of 989 TFLOP/s on an H100 (docs/benchmarks/gpu.json)."""
SHARE = 0.095
"""Rate of training over that of a matrix product: LRF tiny, batch 512, bf16, on an H100 (docs/benchmarks/gpu.json)."""
LAUNCHES = 0.047
"""Seconds that a step takes at least, in which a processor launches its kernels: LRF nano on an H100 (the same)."""
USABLE = 0.92
"""Share of an accelerator's memory that is there for a process."""
BETWEEN_NODES, IN_NODE = 50.0, 8
"""10^9 bytes a second for each GPU from machine to machine (400 Gbit/s), and GPUs in a machine: an assumption."""
STORAGE = 2.0
"""10^9 bytes a second that storage gives a machine: an assumption, that of one local NVMe disk."""
PICTURE = 0.9
"""Bytes a pixel of a JPEG: the published shards of ImageNet at 256 pixels."""
DAY, HOUR = 86400, 3600


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes."""

    stage: str
    steps: int
    batch: int
    """Samples of an accelerator at once."""
    accumulate: int
    """Parts, one after the other, of its share of a step; more than the recipe's where that does not fit."""
    passes: float
    """Over the pictures."""
    parameters: int
    """That are trained."""
    operations: float
    """Of a sample's forward and backward pass, and of its encoding where there is no cache."""
    seconds_per_step: float
    days: float
    """Of training, on the whole cluster."""
    encoding_days: float
    """Of filling the cache before, likewise."""
    gpu_hours: float
    """Of both, all accelerators together."""
    dollars: float | None
    memory: dict[str, int]
    """Bytes of an accelerator, by part."""
    fits: bool
    cache: int
    """Bytes of the cache."""
    checkpoints: int
    """Bytes of all checkpoints that lie on the disk at once."""
    exchanged: int
    """Bytes that each accelerator sends and receives in a step for the sum of gradients."""
    read: float
    """Bytes a second that the cluster reads."""
    limit: Limit
    """What decides the time of a step, or "memory" where not even one sample fits."""
    assumed: tuple[str, ...]

    @property
    def needed(self) -> int:
        """Bytes of an accelerator's memory in all."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Counted:
    """What was counted of a stage, which no cluster changes."""

    stage: AnyStage
    parameters: int
    operations: float
    encoding: float
    """Operations of encoding one picture for the cache."""
    drawing: float
    """Operations of encoding one sample whenever it is drawn, where there is no cache."""
    fixed: dict[str, int]
    whole: int
    """Bytes of the weights that are whole at once where they are divided."""
    activations: int
    """Bytes of a sample."""
    cached: float
    """Bytes of a picture in the cache."""
    sample: int
    """Bytes of a sample as it is read."""
    assumed: tuple[str, ...]


def plan(
    stages: Sequence[AnyStage], cluster: Cluster, pictures: int, *, price: float | None = None, share: float = SHARE
) -> Iterator[StagePlan]:
    """What each stage takes on ``cluster``; yields as it goes.

    Every stage is built with the recipe's own networks on made-up pictures. Operations, activations and bytes are those
    of its real step; nothing is trained.

    Args:
        pictures: of the data of every stage.
        price: dollars for an hour of one accelerator; None: no costs.
        share: rate of training over that of a matrix product, above 0, at most 1.

    Raises:
        PochadeError: a stage cannot be made, its batch does not divide by the GPUs, or a number is out of range.
    """
    if pictures < 1:
        raise PochadeError(f"pictures: {pictures} given, allowed are at least 1")
    if not 0 < share <= 1:
        raise PochadeError(f"share: {share:g} given, allowed is above 0, at most 1")
    check_number("price", price)
    if price is not None and price < 0:
        raise PochadeError(f"price: {price:g} given, allowed is at least 0")
    stages = [stage if stage.steps else replace(stage, steps=steps_for(pictures, stage.batch_size)) for stage in stages]
    for stage in stages:
        if stage.batch_size % (cluster.count * stage.accumulate):
            given = f"{cluster} given, but batch_size {stage.batch_size} of {stage.name}"
            raise PochadeError(f"gpus: {given} must divide by {cluster.count * stage.accumulate}, GPUs x accumulate")
    for counted in count(stages):
        yield on(cluster, counted, pictures, price, share)


def count(stages: Sequence[AnyStage]) -> Iterator[Counted]:
    """Operations and bytes of all stages, each built after the one before; raises as ``plan``."""
    components = StandIns()
    tried: list[AnyStage] = []
    for stage in stages:
        made_up = kind_of(stage).synthetic(stage, tried, components)
        tried.append(replace(made_up, device="cpu", batch_size=1, accumulate=1, compile=False))
    check([_without_absent_start(one) for one in tried], components)
    tried = [replace(one, initialise_from=None) for one in tried]  # what is counted needs no weights
    results: list[Result] = []
    steps: dict[Any, _Step] = {}
    with tempfile.TemporaryDirectory(prefix="pochade-plan-") as place:
        out = Path(place)
        for number, (stage, one) in enumerate(zip(stages, tried, strict=True), 1):
            components.assumed.clear()
            kind, folder = kind_of(one), out / f"{number}-{stage.name}"
            models: dict[Role, Path] = {
                kind_of(before).produces: result.model for before, result in zip(tried, results, strict=False)
            }
            previous = results[-1] if results else None
            inputs = Inputs(components, models, previous, out / "cache", torch.device("cpu"), progress=False)
            results.append(Result(folder / "model", folder / kind.weights))
            ready = kind.ready_made(one, components)
            if ready is not None:  # it is taken, and costs nothing
                with atomic_folder(folder / "model") as model:
                    ready.save_pretrained(model)
                continue
            before = _cached_bytes(inputs.cache)
            with OperationCounter() as encoding:
                work = kind.build(one, inputs)
            if number < len(stages):
                with atomic_folder(folder / "model") as model:
                    work.save(model)
            pictures = len(work.samples) + (0 if work.held_out is None else len(work.held_out))
            cached = _cached_bytes(inputs.cache) - before
            assumed = (*stage.data.missing(), *components.assumed)
            with OperationCounter() as drawing:
                batches = [draw(work.samples, 0, range(n), n) for n in (1, 2)]
            sample = sum(value.nbytes for value in batches[0].values() if isinstance(value, Tensor))
            step = _step(stage, work.task, batches, steps)
            yield Counted(
                stage=stage,
                parameters=step.parameters,
                operations=step.operations,
                encoding=0 if drawing.total else encoding.total / pictures,
                drawing=drawing.total / 3,
                fixed=step.fixed,
                whole=step.whole,
                activations=step.activations,
                cached=cached / pictures,
                sample=picture_bytes(kind.size(one, tried[: number - 1])) if drawing.total else sample,
                assumed=assumed,
            )


def _without_absent_start(stage: AnyStage) -> AnyStage:
    """The stage without start weights that are not on this machine, as they need not be."""
    start = stage.initialise_from
    there = start is None or start == PREVIOUS or is_model(start) or Path(start).exists()
    return stage if there else replace(stage, initialise_from=None)


@dataclass(frozen=True)
class _Step:
    """What is counted of a step, as in ``Counted``."""

    parameters: int
    operations: float
    fixed: dict[str, int]
    whole: int
    activations: int


def _step(stage: AnyStage, task: Task, batches: Sequence[Batch], known: dict[Any, _Step]) -> _Step:
    """Of batches of one and of two samples; taken from ``known`` where an earlier stage has the same step."""
    again = stage.gradient_checkpointing
    given = tuple((name, v.shape, v.dtype) for name, v in sorted(batches[0].items()) if isinstance(v, Tensor))
    shapes = tuple((name, p.shape, p.requires_grad) for name, p in task.named_parameters())
    key = repr(stage.task), shapes, given, stage.precision, again
    if key in known:
        return known[key]
    operations, costliest = training_operations(task, batches[0], recompute=again)

    def kept(batch: Batch) -> int:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(costliest)
            return activation_bytes(*shapes_of(task, batch), stage.precision, recompute=again)

    one, two = (kept(batch) for batch in batches)
    memory, trained = fixed_memory(task)
    fixed = {**memory, "copies for autocast": max(0, 2 * one - two)}
    known[key] = _Step(trained, operations, fixed, whole_bytes(task), two - one)
    return known[key]


def _cached_bytes(folder: Path) -> int:
    """Bytes of the tensors below a folder, without what the heads of small files add."""
    return sum(entry.size for file in folder.rglob("*.safetensors") for entry in tensor_entries(file).values())


def on(cluster: Cluster, found: Counted, pictures: int, price: float | None, share: float) -> StagePlan:
    """What a counted stage takes on a cluster; arguments as of ``plan``."""
    stage, gpus, accelerator = found.stage, cluster.count, cluster.accelerator
    rate = accelerator.teraflops * 1e12 * MATRIX * share
    available = int(accelerator.gigabytes * 1e9 * USABLE)
    own = stage.batch_size // gpus
    fixed = divided(found.fixed, found.whole, gpus) if stage.fsdp else found.fixed
    parts = fewest_parts(own, stage.accumulate, sum(fixed.values()), found.activations, available)
    batch = own // (parts or own)
    sent = int(2 * (gpus - 1) / gpus * 4 * found.parameters)
    link = accelerator.link if gpus <= IN_NODE else min(accelerator.link, BETWEEN_NODES)
    machines = -(-gpus // IN_NODE)
    seconds: dict[Limit, float] = {
        "computing": own * (found.operations + found.drawing) / rate,
        "launches": LAUNCHES * (parts or own),
        "network": sent / (link * 1e9),
        "storage": stage.batch_size * found.sample / (STORAGE * 1e9 * machines),
    }
    limit: Limit = max(seconds, key=lambda name: seconds[name])
    step = seconds[limit]
    days, encoding_days = step * stage.steps / DAY, pictures * found.encoding / (rate * gpus) / DAY
    hours = (days + encoding_days) * DAY / HOUR * gpus
    weights, optimiser = found.fixed["weights"], found.fixed["optimiser"]
    return StagePlan(
        stage=stage.name,
        steps=stage.steps,
        batch=batch,
        accumulate=parts or own,
        passes=stage.passes(pictures),
        parameters=found.parameters,
        operations=found.operations + found.drawing,
        seconds_per_step=step,
        days=days,
        encoding_days=encoding_days,
        gpu_hours=hours,
        dollars=None if price is None else price * hours,
        memory={**fixed, "activations": found.activations * batch},
        fits=parts is not None,
        cache=int(found.cached * pictures),
        checkpoints=(stage.keep + 1) * (2 * weights + optimiser),  # one more while it is written
        exchanged=sent,
        read=stage.batch_size * found.sample / step,
        limit=limit if parts is not None else "memory",
        assumed=found.assumed,
    )


def divided(memory: Mapping[str, int], whole: int, gpus: int) -> dict[str, int]:
    """The memory of the first of so many GPUs that divide it (``Stage.fsdp``), at the height of a step, when ``whole``
    bytes of weights, and their gradients, are not divided."""
    if gpus == 1:
        return dict(memory)
    parts = {name: -(-memory[name] // gpus) for name in ("weights", "gradients", "optimiser", "average")}
    return {**memory, **parts, "put together for a step": 2 * whole, "whole copy": memory["weights"]}


def picture_bytes(size: int) -> int:
    """Of a picture as JPEG, of so many pixels a side."""
    return int(PICTURE * size**2)


def source_bytes(stages: Sequence[AnyStage], pictures: int) -> tuple[int, int]:
    """Bytes of so many pictures as JPEG at the largest size that a stage reads, of all and of those that the disk of a
    machine holds at a time (``data.cache_limit``). Raises PochadeError for a wrong limit."""
    sizes = [kind_of(stage).size(stage, stages[:number]) for number, stage in enumerate(stages)]
    limits = [stage.data.limit for stage in stages]
    held = [
        picture_bytes(size) * pictures if limit is None else min(limit, picture_bytes(size) * pictures)
        for size, limit in zip(sizes, limits, strict=True)
    ]
    return picture_bytes(max(sizes)) * pictures, max(held)
