"""The training loop: one process, or any number under ``torchrun``; killed at any moment, it can be resumed.

A run's folder afterwards::

    checkpoint-00001000/   latest   metrics.jsonl   samples/step-000500.png   tensorboard/
    best/                        where held-out samples are given, what ``save_model`` wrote at their lowest loss
    final/model.safetensors      the averaged (EMA) weights, when the last step is done

Under ``torchrun`` every process holds the same weights and averages; rank 0 alone writes.
"""

import errno
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pochade.data.samples import Samples
from pochade.device import resolve_device
from pochade.errors import FailureError, PochadeError
from pochade.files import atomic_file, atomic_folder, describe_error, remove_orphans
from pochade.tensors import write_tensors
from pochade.training.checkpoint import (
    Checkpoint,
    describe_last_good,
    load_weights,
    naming_last_good,
    save_checkpoint,
)
from pochade.training.compute import CompiledBlocks, LateNumbers, is_bf16_slow, products_for, recomputing
from pochade.training.ema import EMA, module_tensors
from pochade.training.estimate import AFTER, describe, estimate
from pochade.training.held_out import HeldOut, Lowest, is_due
from pochade.training.interruption import StopRequest, TrainingInterrupted
from pochade.training.loader import Loader
from pochade.training.metrics import MetricLog, Progress, Window, suspects
from pochade.training.processes import join_processes
from pochade.training.resume import check_is_new, find_run
from pochade.training.sharding import Sharding, load_tensors, read_group, write_shards
from pochade.training.stage import Identity, Stage
from pochade.training.state import (
    load_optimizer,
    optimizer_tensors,
    parameter_names,
    random_state,
    restore_random_state,
    seed_all,
)
from pochade.training.task import Batch, Task
from pochade.training.trackers import Trackers

if TYPE_CHECKING:
    from PIL.Image import Image

SampleSheet = Callable[[], "Image | None"]
SaveModel = Callable[[Path], object]
AfterSave = Callable[[], object]

BEST = "best"
"""In the folder of a stage: the model at the lowest held-out loss."""
FIRST_SHEET = 100
"""The first sample sheet comes after so small a part of the steps."""
NAMED = 8
"""Pictures that an error names at most."""


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run ended."""

    step: int
    loss: float
    """Averaged over the last ``log_every`` steps at most."""
    folder: Path
    weights: Path
    """``final/model.safetensors``, the averaged weights; ``task.trainable()`` holds the same."""


def train(
    stage: Stage,
    task: Task,
    dataset: Samples,
    folder: Path,
    *,
    identity: Identity | None = None,
    resume: bool = False,
    sample_sheet: SampleSheet | None = None,
    save_model: SaveModel | None = None,
    held_out: Samples | None = None,
    after_save: AfterSave | None = None,
    console: bool = True,
) -> TrainResult:
    """Trains ``task.trainable()`` for ``stage.steps`` steps and leaves the averaged (EMA) weights in it.

    With ``resume`` the run goes on bit for bit from its last intact checkpoint (from the start where there
    is none); a finished run returns at once. ``identity`` is what a resumed run must have in common with it; None:
    the settings of the stage. ``sample_sheet``, and ``save_model``, which writes a folder into each checkpoint, are
    called with the averaged weights in the network, in eval mode, without gradients; what they draw from global
    generators does not disturb the run. ``held_out`` are samples that are not trained on: their loss, always with the
    same noises, stands in about fifty lines of the log, and ``best`` holds the model at the lowest. ``after_save`` is
    called after each checkpoint.

    Raises PochadeError before anything is written where the folder holds a run and ``resume`` is not given
    for, where a resumed run has other settings than before, or where weights do not fit; FailureError for a
    loss or gradient that is not finite and where something cannot be read or written; TrainingInterrupted for Ctrl-C.
    """
    folder = Path(folder)
    if not (stage.steps and stage.learning_rate):
        raise PochadeError("steps, learning_rate: 0 given, must be above 0")
    if not resume:
        check_is_new(folder)
    run = _Run(
        stage,
        task,
        dataset,
        folder,
        identity or Identity(json.loads(json.dumps(stage.settings())), {}),
        resume=resume,
        sample_sheet=sample_sheet,
        save_model=save_model,
        held_out=held_out,
        after_save=after_save,
        console=console,
    )
    try:
        recomputed = run.task.compilable() if stage.gradient_checkpointing else ()
        heeded = run.stop_request.heeded(alone=run.world_size == 1)
        with heeded, products_for(stage.precision, run.device), recomputing(recomputed):
            run.steps()
        return run.finish()
    except OSError as error:
        what = f"the disk is full ({error})" if error.errno == errno.ENOSPC else describe_error(error)
        raise FailureError(f"{folder}: {what}; {describe_last_good(folder)}") from error
    finally:
        run.close()


@dataclass(frozen=True)
class _Outcome:
    """What a step gave, to be looked at while the next one runs."""

    step: int
    """Counted from 1."""
    numbers: LateNumbers
    """Loss, norm of the gradient, and how many processes have a request to stop; of several processes the sums."""
    seen: list[tuple[Batch, Mapping[str, Tensor]]]
    """Each part's batch and what the task made of it."""


class _Run:
    def __init__(
        self,
        stage: Stage,
        task: Task,
        dataset: Samples,
        folder: Path,
        identity: Identity,
        *,
        resume: bool,
        sample_sheet: SampleSheet | None,
        save_model: SaveModel | None,
        held_out: Samples | None,
        after_save: AfterSave | None,
        console: bool,
    ) -> None:
        self.stage, self.task, self.dataset, self.folder = stage, task, dataset, folder
        self.whole = task  # what is measured, saved and sampled from, with the averaged weights
        self.identity = identity
        self.sample_sheet, self.save_model, self.after_save = sample_sheet, save_model, after_save
        device = resolve_device(stage.device)
        self.accelerator, self.device = join_processes(device, has_unused=task.has_unused)
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.rank == 0
        notes: list[str] = []
        if stage.precision == "bf16" and is_bf16_slow(self.device):
            notes.append("warning: precision bf16 given, but this CPU has no products in bf16: fp32 is faster here")
        saved = find_run(folder, stage, identity, len(dataset), notes) if resume else None
        if saved is None and stage.initialise_from is not None:
            notes.append(f"start weights from {load_weights(task.trainable(), stage.initialise_from)}")
        if saved is not None:
            notes.append(f"resumed from {saved.path}")
        self.sharding: Sharding | None = None
        if stage.fsdp and self.world_size > 1:
            self.sharding = Sharding(task, self.device, main=self.main)
            self.task = self.sharding.task
        self.network = self.task.trainable()
        self.step = saved.step if saved else 0
        self.loss = float(saved.state["loss"]) if saved else math.nan
        self.loader = Loader(
            dataset,
            seed=stage.seed,
            batch_size=stage.batch_size,
            start=self.step,
            stop=stage.steps,
            accumulate=stage.accumulate,
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
        )
        self._prepare(saved)
        share = stage.batch_size // (self.world_size * stage.accumulate)
        self.held_out = HeldOut(held_out, share, self.device) if held_out is not None and self.main else None
        self.lowest = Lowest(saved.state.get("held_out") if saved else None)
        self.best: dict[str, Tensor] | None = None  # the weights of the lowest loss, until they are written
        self.stop_request = StopRequest()
        self.stop = False  # agreed on by all processes, after the same step
        if self.main:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PochadeError(f"folder: {folder} cannot be created ({error.strerror})") from error
            notes += [f"removed {name}, left by a killed run" for name in remove_orphans(folder)]
        trackers = Trackers(stage.trackers if self.main else (), folder, identity.settings)
        self.log = MetricLog(folder, self.step, trackers) if self.main else None
        self.progress = Progress(stage.name, self.step, stage.steps, console and self.main)
        if (many := stage.warn_of_passes(len(dataset))) is not None:
            notes.append(f"warning: {many}")
        trained = sum(p.numel() for p in self.parameters)
        for note in [*notes, describe(stage, len(dataset), trained, self.step, self.world_size, self.device)]:
            self.progress.message(f"{stage.name}: {note}")

    def _prepare(self, saved: Checkpoint | None) -> None:
        stage = self.stage
        self.compiled = CompiledBlocks(self.task.compilable() if stage.compile else ())
        self.compiled.start()
        if saved is not None:
            load_tensors(self.network, saved)
        self.model: nn.Module = self.task
        if self.sharding is None:
            self.model = self.accelerator.prepare(self.task.to(self.device))
        self.network.train()
        self.ema = EMA(self.network, stage.ema_decay)
        self.average = self.ema if self.sharding is None else self.sharding
        groups = (self.sharding or self.task).parameter_groups(stage.weight_decay, stage.learning_rate)
        self.peaks = [float(group.get("lr", stage.learning_rate)) for group in groups]
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            groups, lr=stage.learning_rate, betas=stage.betas, eps=stage.epsilon, fused=fused
        )
        self.names = parameter_names(self.optimizer, self.network)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        states: dict[str, Any] = {}
        if saved is not None:
            self.ema.load(read_group(saved, "ema", module_tensors(self.network)))
            with torch.no_grad():
                for name, tensor in self.task.extra_state().items():
                    tensor.copy_(saved.tensors["extra"][name])
            moments = read_group(saved, "optimizer", dict(zip(self.names, self.parameters, strict=True)))
            load_optimizer(self.optimizer, self.names, moments)
            states = saved.state["random"]
        # What a step draws for the whole batch, such as IRIS's depth, must be the same in every process.
        state = states.get(str(self.rank), states.get("0"))
        if state is not None:
            restore_random_state(state, self.device)
        else:
            seed_all(stage.seed, self.step)

    def steps(self) -> None:
        stage, window = self.stage, Window()
        batches = iter(self.loader)
        before: _Outcome | None = None
        first, timed = self.step, 0.0
        try:
            while self.step < stage.steps:
                began = time.perf_counter()
                rate = stage.learning_rate_factor(self.step)
                waited, outcome = self._one_step(batches, rate, window)
                self.step += 1
                self._judge(before)
                before = outcome
                if self._due(stage.log_every, stage.save_every, stage.sample_every):
                    self._judge(before)
                    before = None
                took = time.perf_counter() - began
                window.add_step(waited, took - waited)
                self.progress.step(self.step)
                timed += 0.0 if self.step == first + 1 else took  # sheets and checkpoints, between steps, are no part
                if self.step == first + AFTER:
                    self._estimate(timed / (AFTER - 1))
                if self._due(stage.log_every):
                    self._write_log(window, rate * stage.learning_rate)
                    window = Window()
                if self._due(stage.save_every):
                    self._save()
                early = self.step == -(-stage.steps // FIRST_SHEET)
                if stage.sample_every and (early or self._due(stage.sample_every)) and not self.stop:
                    self._sample()
                if self.stop and self.step < stage.steps:
                    raise TrainingInterrupted(f"stopped and saved at step {self.step}; --resume continues")
        finally:
            self.loader.close()

    def _due(self, *every: int) -> bool:
        return self.step == self.stage.steps or self.stop or any(n and self.step % n == 0 for n in every)

    def _one_step(self, batches: Iterator[Batch], rate: float, window: Window) -> tuple[float, _Outcome]:
        """One optimiser step, which a GPU has at the end in its queue, no more; the seconds waited for data."""
        waited, parts = 0.0, self.stage.accumulate
        self.task.begin_step(self.step / self.stage.steps)
        seen: list[tuple[Batch, Mapping[str, Tensor]]] = []
        for part in range(parts):
            began = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - began
            last = part == parts - 1
            if self.sharding is not None:
                self.sharding.sum_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
                    outputs: dict[str, Tensor] = self.model(batch)
                self.accelerator.backward(outputs["loss"] / parts)
            outputs = {name: value.detach() for name, value in outputs.items()}
            window.add_part(outputs)
            seen.append((batch, outputs))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.stage.clip, foreach=True)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        window.add_norm(norm)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.step)
        loss = torch.stack([outputs["loss"].float() for _, outputs in seen]).mean()
        stops = torch.full_like(loss, float(self.stop_request.made))
        numbers = LateNumbers(self._sum(torch.stack([loss, norm.float(), stops])))
        return waited, _Outcome(self.step + 1, numbers, seen)

    def _judge(self, outcome: _Outcome | None) -> None:
        """Raises FailureError where a step gave a number that is not finite; keeps requests to stop.

        Called for a step when the next one is under way, and before anything is written.
        """
        if self.world_size == 1:
            self.stop = self.stop_request.made
        if outcome is None:
            return
        loss, norm, stops = outcome.numbers.read()
        if not math.isfinite(loss) or not math.isfinite(norm):
            self._fail(outcome, loss / self.world_size, norm / self.world_size)
        self.stop = self.stop or stops > 0

    def _sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum") if self.world_size > 1 else values  # pyright: ignore[reportReturnType]

    def _fail(self, outcome: _Outcome, loss: float, norm: float) -> None:
        names = self._gather([name for batch, outputs in outcome.seen for name in suspects(batch, outputs)])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        on = f" on {', '.join(names[:NAMED])}{more}" if names else ""
        what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {norm}"
        raise FailureError(f"step {outcome.step}: the {what}{on}; {describe_last_good(self.folder)}")

    def _gather(self, items: list[Any]) -> list[Any]:
        """The lists of all processes, joined in the order of ranks."""
        if self.world_size == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def _write_log(self, window: Window, rate: float) -> None:
        line = window.line(self._sum, self.world_size, self.stage.batch_size)
        self.loss = line["loss"]
        due = is_due(self.step, self.stage.steps, self.stage.log_every)
        validated = self._validated() if due else {}
        if self.log is not None:
            epoch = self.step * self.stage.batch_size / len(self.dataset)
            head = {"step": self.step, "epoch": epoch, "loss": self.loss, **validated, "learning_rate": rate}
            line = head | line | {"processes": self.world_size}
            self.log.write(line)
            self.progress.log(line)

    def _collect(self, *, everywhere: bool = False) -> None:
        """Puts a divided average together, for what rank 0 alone does next."""
        if self.sharding is not None:
            self.sharding.collect(self.ema, everywhere=everywhere)

    def _validated(self) -> dict[str, float]:
        """The loss on held-out samples where it is due; the lowest one's weights are kept."""
        stage = self.stage
        self._collect()
        if self.held_out is None:
            return {}
        with self._averaged():
            loss = self.held_out.loss(self.whole)
        if self.lowest.see(self.step, loss) and self.save_model is not None:
            self.best = {name: tensor.clone() for name, tensor in self.average.tensors.items()}
        if (warning := self.lowest.warn(self.step, loss, stage.steps)) is not None:
            self.progress.message(f"{stage.name}: {warning}")
        return {"held_out_loss": loss}

    def _save_best(self) -> None:
        if self.best is None or self.save_model is None:
            return
        best = atomic_folder(self.folder / BEST, replace=True)
        with naming_last_good(self.folder), best as folder, self._averaged(self.best):
            self.save_model(folder)
        self.best = None

    def _estimate(self, seconds_per_step: float) -> None:
        if not self.main or self.step >= self.stage.steps:
            return
        size = 2 * sum(tensor.nbytes for tensor in (*self.ema.tensors.values(), *self.parameters))
        line = estimate(seconds_per_step, self.stage.steps - self.step, size, self.stage.keep, self.folder, self.device)
        self.progress.message(f"{self.stage.name}: {line}")

    def _save(self) -> None:
        states = self._gather([random_state(self.device)])
        error: list[str] = []
        self._collect()
        moments = optimizer_tensors(self.optimizer, self.names)
        tensors = {"model": module_tensors(self.network), "optimizer": moments}
        shards: Path | None = None
        if self.sharding is not None:
            shards, tensors = write_shards(self.folder, self.step, tensors), {}
        if self.main:
            tensors["ema"] = self.average.tensors
            if extra := self.task.extra_state():
                tensors["extra"] = extra
            state = {
                "stage": self.identity.settings,
                "contents": self.identity.contents,
                "samples": len(self.dataset),
                "position": self.step * self.stage.batch_size,
                "loss": self.loss,
                "random": {str(rank): state for rank, state in enumerate(states)},
                "held_out": self.lowest.state(),
            }
            try:
                self._save_best()
                save_model = None if self.save_model is None else self._write_model
                save_checkpoint(self.folder, self.step, tensors, state, self.stage.keep, save_model, shards)
                if self.after_save is not None:
                    self.after_save()
            except PochadeError as failure:
                error.append(str(failure))
        if error := self._gather(error):
            raise FailureError(error[0])

    @contextmanager
    def _averaged(self, tensors: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Within it the network has the averaged weights, or earlier ones, in eval mode; then nothing has changed."""
        state = random_state(self.device)
        modes = [(module, module.training) for module in self.whole.modules()]
        self.whole.eval()
        try:
            with self.compiled.suspended(), self.average.applied(tensors), torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training
            restore_random_state(state, self.device)

    def _write_model(self, folder: Path) -> None:
        assert self.save_model is not None
        folder.mkdir()
        with self._averaged():
            self.save_model(folder)

    def _sample(self) -> None:
        self._collect()
        if self.sample_sheet is None or not self.main:
            return
        with self._averaged():
            sheet = self.sample_sheet()
        if sheet is None or self.log is None:
            return
        with naming_last_good(self.folder), atomic_file(self.folder / f"samples/step-{self.step:06d}.png") as file:
            sheet.save(file, format="PNG")
        self.log.image("samples", sheet, self.step)

    def finish(self) -> TrainResult:
        """Leaves the averaged weights in the network and in ``final/``."""
        self._collect(everywhere=True)
        if self.sharding is None:
            self.ema.copy_to_module()
        self.whole.eval()
        weights = self.folder / "final" / "model.safetensors"
        if self.main:
            with naming_last_good(self.folder):
                write_tensors(weights, self.average.tensors)
            self.progress.message(f"{self.stage.name}: done at step {self.step}, loss {self.loss:.4g}, {weights}")
            if (lowest := self.lowest.conclude(self.step, self.folder / BEST)) is not None:
                self.progress.message(f"{self.stage.name}: {lowest}")
        self.accelerator.wait_for_everyone()
        return TrainResult(self.step, self.loss, self.folder, weights)

    def close(self) -> None:
        self.progress.close()
        if self.log is not None:
            self.log.close()
        self.compiled.stop()
