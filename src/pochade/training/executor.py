"""Running stages: every one is checked before the first starts, each is built, trained, and hands on its model."""

import gc
import hashlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from pochade.allocator import keep_freed_memory, release_memory
from pochade.arguments import check_flag, path_text, shown
from pochade.data.cache.claims import holder, take
from pochade.data.dataset import Dataset
from pochade.data.samples import PictureSamples, groups_of
from pochade.data.sources import check_outside
from pochade.device import own_device, resolve_device
from pochade.errors import FailureError, PochadeError, as_given, name_copy, nearest
from pochade.files import atomic_folder, cache_folder, check_tensor_folder, write_json
from pochade.pipelines import embedding_files, hub, lora_files
from pochade.storage import Mirror, check_writable, url_of
from pochade.training.checkpoint import checkpoints, naming_last_good
from pochade.training.compute import check_compiler
from pochade.training.loop import train
from pochade.training.overrides import naming_fields
from pochade.training.processes import process_state
from pochade.training.record import DataStage, identity_of, read_record, record_of
from pochade.training.resume import check_is_new, check_same
from pochade.training.stage import INITIALISE_FROM, PREVIOUS, AnyStage, Identity, Stage, steps_for, with_rate
from pochade.training.stages import kind_of
from pochade.training.stages.components import Components
from pochade.training.stages.kind import Data, Inputs, Result, Role, Work
from pochade.training.stages.models import is_model
from pochade.training.trackers import check_trackers

if TYPE_CHECKING:
    from PIL import Image

CLAIM = "running"
"""In the folder of a stage: the process that trains it."""


def run(
    stages: Sequence[AnyStage],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    only: str | None = None,
    components: Components | None = None,
) -> Path:
    """Train ``stages`` in order below ``out``; each leaves ``<number>-<name>/model``. Returns the last one's.

    ``out`` may be a URL (``pochade.storage``): then the run lies in the user's cache, is fetched from there where
    there is one, and is sent after each checkpoint and each stage.

    With ``resume`` finished stages are passed over, and an interrupted one goes on; so does a finished one that is to
    have more steps, unless a later one has begun on its model. Data and models are known by their content, wherever
    they lie. With ``only`` the stage of that name is trained alone, on what those before it have left in ``out``; their
    data need not be there.

    Raises:
        PochadeError: an argument is of another type; a stage's data or settings are unusable (all stages are checked
            before the first starts), or are others than those of the run that is resumed; a finished stage is to have
            fewer steps; one before ``only`` is not finished; or another process is training in ``out``.
        FailureError, TrainingInterrupted: see ``pochade.training.loop.train``.
    """
    if not isinstance(stages, list | tuple) or not all(isinstance(stage, Stage) for stage in stages) or not stages:
        raise PochadeError(f"stages: {shown(stages)} given, allowed is a list of stages, such as stages_of('lrf')")
    check_flag("resume", resume)
    url = url_of("out", path_text("out", out))
    mirror = None if url is None else mirror_of(url)
    if mirror is not None:
        with main_first(local=True) as main:
            if main:
                check_writable("out", mirror.url)
                mirror.pull()
    out = Path(out) if mirror is None else mirror.folder
    saved = None if mirror is None else mirror.push
    components = components or Components()
    stages, finished = _checked(stages, out, resume, only, components, say=_print)
    for stage in stages[finished:]:
        if (short := stage.warn_of_warmup()) is not None:
            _print(f"{stage.name}: warning: {short}")
    if resume and not hub.stage_folders(out):
        _print(f"{out} holds no run yet, a new one begins")
    results: list[Result] = []
    for number, stage in enumerate(stages, 1):
        result = _result(stage, number, out)
        steps = _finished_steps(result)
        if steps is not None and (number <= finished or (resume and (not steps or steps == stage.steps))):
            after = f" after {steps} steps" if steps else ""
            _print(f"{stage.name}: finished before{after}, used as it is in {result.model}")
        else:
            inputs = _inputs(stages[: number - 1], results, stage, out, components)
            with freed_afterwards():
                take_or_run(stage, inputs, result.model, resume=resume or number <= finished, saved=saved)
            if mirror is not None:
                _exchange(mirror)
        results.append(result)
    return results[-1].model


def check_run(stages: Sequence[AnyStage], out: Path, *, resume: bool = False) -> None:
    """Raises PochadeError where ``run`` would, before it trains anything; ``out`` is no URL."""
    _checked(stages, out, resume, None, Components(), say=lambda _: None)


def _checked(
    stages: Sequence[AnyStage],
    out: Path,
    resume: bool,
    only: str | None,
    components: Components,
    say: Callable[[str], object],
) -> tuple[list[AnyStage], int]:
    """The stages up to ``only``, settled, and how many of them are finished because they come before it."""
    check_tensor_folder("out", out)
    finished = 0 if only is None else _finished_before(stages, only, out)
    stages = stages if only is None else stages[: finished + 1]
    check_outside(out, (source for stage in stages for source in stage.data.sources))
    folders = [_result(stage, number, out).model.parent for number, stage in enumerate(stages, 1)][finished:]
    for folder in folders:
        _check_free(folder)
    with main_first():
        data = check(stages, components, start=finished)
    for folder in [] if resume else folders:
        check_is_new(folder)
    ready = [settled(stage, data.get(stage.name, {}), say) for stage in stages]
    if resume:
        for number, stage in enumerate(ready[finished:], finished + 1):
            _check_resumed(ready, number, out, data[stage.name])
    return ready, finished


def settled(stage: AnyStage, data: Data, say: Callable[[str], object]) -> AnyStage:
    """The stage with the steps that follow from its data, and the rate that follows from its settings, where it names
    none: both are reported to ``say``."""
    if not stage.learning_rate:
        stage = with_rate(stage)
        say(f"{stage.name}: learning_rate {stage.learning_rate:g}, from the rank; learning_rate=... gives another")
    if stage.steps or not data:
        return stage
    samples = sum(len(groups_of(one)) if isinstance(one, Dataset) else len(one) for one in data.values())
    steps = steps_for(samples, stage.batch_size)
    say(f"{stage.name}: {steps} steps, from the number of samples, {samples}; steps=... gives others")
    return replace(stage, steps=steps)


def mirror_of(url: str) -> Mirror:
    """The folder of a run that is kept at a URL."""
    folder = cache_folder("runs") / hashlib.sha256(url.encode()).hexdigest()[:16]
    name_copy(str(folder), url)
    return Mirror(folder, url, but=(CLAIM,))


def _exchange(mirror: Mirror) -> None:
    """Sends a finished stage; machines that do not see this one's folder fetch it."""
    with main_first() as main:
        if main:
            mirror.push()
    with main_first(local=True) as first:
        if first and not _is_main():
            mirror.pull()


def take_or_run(
    stage: AnyStage,
    inputs: Inputs,
    model: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    saved: Callable[[], object] | None = None,
) -> Work | None:
    """Train a stage in the folder of ``model`` and write that; or write what it takes as it is, and return None.

    ``saved`` is called after each checkpoint.

    Raises PochadeError where another process is doing so.
    """
    keep_freed_memory(None)
    with _claimed(model.parent):
        return _take_or_run(stage, inputs, model, resume, quiet, saved)


def _take_or_run(
    stage: AnyStage, inputs: Inputs, model: Path, resume: bool, quiet: bool, saved: Callable[[], object] | None
) -> Work | None:
    kind = kind_of(stage)
    ready = kind.ready_made(stage, inputs.components)
    if ready is not None:
        _write(model, ready.save_pretrained)
        return None
    if stage.initialise_from == PREVIOUS and inputs.previous is not None:
        stage = replace(stage, initialise_from=str(inputs.previous.weights))
    try:
        work = kind.build(stage, inputs)
        if not quiet and _is_main():
            for note in work.notes():
                _print(f"{stage.name}: {note}")
        identity = identity_of(stage, work.data)
        record = record_of(cast(DataStage, stage), work, identity)

        def save(folder: Path) -> None:
            work.save(folder)
            write_json(folder / hub.RECORD, record)

        train(
            work.stage,
            work.task,
            work.samples,
            model.parent,
            identity=identity,
            resume=resume,
            sample_sheet=lambda: _preview(work),
            save_model=save if work.usable else None,
            held_out=None if quiet else work.held_out,
            after_save=saved,
            console=not quiet,
        )
    except FailureError as error:
        raise FailureError(f"{stage.name}: {error}") from error
    _write(model, save)
    return work


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Within it the folder of a stage is this process's, or that of the processes that share the run."""
    if not _is_main():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        claim = take(folder / CLAIM)
        if claim is None:
            _check_free(folder)
            raise PochadeError(f"folder: another process has just begun to train in {folder}")
        with claim:
            yield
    finally:
        for path in made:
            with suppress(OSError):  # which is not empty
                path.rmdir()


def _check_free(folder: Path) -> None:
    """Raises PochadeError where a process is training in the folder of a stage."""
    other = holder(folder / CLAIM) if _is_main() else None
    if other is not None:
        raise PochadeError(f"folder: {other} is training in {folder}; wait for its end, or choose another folder")


@contextmanager
def freed_afterwards() -> Generator[None]:
    """Frees the network, gradients and averages of a stage before the next one takes their place.

    Accelerate and the network that it prepared refer to each other, which Python alone frees at a time of its own. What
    was there before, modules above all, is not searched, which would take 0.3 s.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        release_memory()


def _write(model: Path, save: Callable[[Path], None]) -> None:
    """The folder of a model, by rank 0, whole or not at all."""
    with main_first() as main:
        if main:
            with naming_last_good(model.parent), atomic_folder(model, replace=True) as folder:
                save(folder)


def check(stages: Sequence[AnyStage], components: Components, start: int = 0) -> dict[str, Data]:
    """Finds whatever can be known to fail before the hours of the first stage; those before ``start`` are finished.

    Returns the data of each other stage, by its name.

    Raises:
        PochadeError: a stage's data or settings are unusable.
    """
    found: dict[str, Data] = {}
    for number, stage in enumerate(stages):
        kind = kind_of(stage)
        if number >= start:
            _check_start(stage, stages[:number])
            parts = int(os.environ.get("WORLD_SIZE", "1")) * stage.accumulate
            if stage.batch_size % parts:
                given = f"batch_size: {stage.batch_size} given for {stage.name}"
                raise PochadeError(f"{given}, must divide by {parts}, processes x accumulate")
            device = resolve_device(stage.device)
            if stage.compile:
                check_compiler(device)
            check_trackers(stage.trackers)
            with naming_fields(stage):
                found[stage.name] = kind.check(stage, stages[:number], components)
            _check_windows(stage, found[stage.name])
    return found


def _check_windows(stage: AnyStage, data: Data) -> None:
    for dataset in data.values():
        windows = dataset.windows if isinstance(dataset, Dataset) else None
        # Of one window alone all shards are there at any time, however many epochs a batch is of.
        if windows is not None and windows.count > 1 and windows.smallest < stage.batch_size:
            raise PochadeError(
                f"data.cache_limit: its smallest window can have {windows.smallest} pictures, a batch of {stage.name} "
                f"{stage.batch_size}: a larger limit, or a smaller batch_size, is expected"
            )


def _check_start(stage: AnyStage, earlier: Sequence[AnyStage]) -> None:
    start, field = stage.initialise_from, stage.task.start_field
    if start is not None and field != INITIALISE_FROM:
        raise PochadeError(f"initialise_from: {start!r} given, but the start is {field}: allowed is none")
    if start == PREVIOUS:
        if not earlier or type(earlier[-1].task) is not type(stage.task):
            raise PochadeError(
                f"initialise_from: 'previous' given for {stage.name}, but no stage of its kind comes before it"
            )
    elif start is not None and not is_model(start) and not Path(start).exists():
        raise PochadeError(
            f"initialise_from: {start!r} is neither a shipped model ({', '.join(hub.shipped()) or 'none'}) nor a path"
            f"{nearest(start, hub.shipped())}"
        )


@dataclass(frozen=True)
class Encoding:
    """The caches that a stage makes of its data before it trains, below the folder of a run.

    Calls at the same time, of any machines that see the folder, share the work: each part is made by one of them, and
    what one leaves undone is taken over (``pochade.data.cache.build``). ``only``: the stage; None: the first that is
    not finished.
    """

    stages: tuple[AnyStage, ...]
    out: Path
    only: str | None = None

    def stage(self) -> int:
        """How many stages come before it. Raises PochadeError where one of them is not finished, or all are."""
        if self.only is not None:
            return _finished_before(self.stages, self.only, self.out)
        unfinished = self._unfinished()
        if not unfinished:
            raise PochadeError(f"out: all stages in {self.out} are finished")
        return unfinished[0]

    def _unfinished(self) -> list[int]:
        results = (_result(stage, n, self.out) for n, stage in enumerate(self.stages, 1))
        return [number for number, result in enumerate(results) if _finished_steps(result) is None]

    def check(self) -> None:
        """Raises PochadeError where data or settings of the stage are unusable, or ``out`` is no name for tensors."""
        check_tensor_folder("out", self.out)
        unfinished = self._unfinished() if self.only is None else [self.stage()]
        start = unfinished[0] if unfinished else 0
        check(self.stages[: start + 1] if unfinished else self.stages, Components(), start=start)
        stage = self.stages[self.stage()]
        if stage.data.encodes_as_drawn():
            raise PochadeError(f"data.cached: false given for {stage.name}, allowed is true: a cache is what is made")

    def __call__(self, number: int) -> int:
        """Makes what no other one is making, and waits for the rest; returns the pictures of all, 0 where the stage
        reads them as they are."""
        del number
        before = self.stage()
        results = [_result(stage, n, self.out) for n, stage in enumerate(self.stages[:before], 1)]
        stage, components = self.stages[before], Components()
        inputs = _inputs(self.stages[:before], results, stage, self.out, components)
        samples = kind_of(stage).build(stage, inputs).samples
        return 0 if isinstance(samples, PictureSamples) else len(samples)


def _result(stage: AnyStage, number: int, out: Path) -> Result:
    folder = out / f"{number}-{stage.name}"
    return Result(folder / "model", folder / kind_of(stage).weights)


def _finished_steps(result: Result) -> int | None:
    """The steps of a stage that is finished, 0 where they are not known or there were none; None where it is not."""
    if not any(
        (result.model / file).is_file()
        for file in ("config.json", hub.INDEX, lora_files.WEIGHTS, embedding_files.WEIGHTS)
    ):
        return None
    trained = read_record(result.model)
    return 0 if trained is None else int(trained["stage"]["steps"])


def _check_resumed(stages: Sequence[AnyStage], number: int, out: Path, data: Data) -> None:
    """Raises PochadeError where a stage that is finished was trained otherwise, or can have no more steps."""
    stage = stages[number - 1]
    result = _result(stage, number, out)
    trained = read_record(result.model)
    if trained is None:
        return
    folder, steps = result.model.parent, int(trained["stage"]["steps"])
    before = Identity(trained["stage"], trained.get("contents", {}))
    check_same(folder, before, identity_of(stage, data), stage.task.start_field)
    given = f"steps: {stage.steps} given for {stage.name}, which is finished after {steps}"
    if stage.steps < steps:
        raise PochadeError(f"{given}: allowed are {steps} and more")
    if stage.steps == steps:
        changed = [change for change in before.changes_to(stage.settings()) if not change.startswith("steps")]
        if changed:
            raise PochadeError(
                f"{changed[0]} given for {stage.name}, which is finished: allowed with steps above {steps}"
            )
        return
    if not checkpoints(folder):
        raise PochadeError(f"{given} and has no checkpoint to go on from: allowed is {steps}")
    for later, one in enumerate(stages[number:], number + 1):
        place = _result(one, later, out)
        if place.model.exists() or checkpoints(place.model.parent):
            raise PochadeError(f"{given}, and {one.name} has begun on its model: allowed is {steps}")


def _finished_before(stages: Sequence[AnyStage], only: str, out: Path) -> int:
    """How many stages come before the one called ``only``. Raises PochadeError where one of them is not finished."""
    names = [stage.name for stage in stages]
    if only not in names:
        raise PochadeError(f"only: {only!r} given, allowed are {', '.join(names)}{nearest(only, names)}")
    count = names.index(only)
    for number, stage in enumerate(stages[:count], 1):
        if _finished_steps(_result(stage, number, out)) is None:
            raise PochadeError(f"only: {only!r} given, but {stage.name} comes before it and is not finished in {out}")
    return count


def _inputs(
    earlier: Sequence[AnyStage], results: Sequence[Result], stage: AnyStage, out: Path, components: Components
) -> Inputs:
    models: dict[Role, Path] = {
        kind_of(before).produces: result.model for before, result in zip(earlier, results, strict=True)
    }
    previous = results[-1] if results else None
    return Inputs(components, models, previous, out / "cache", own_device(stage.device), _is_main())


def _preview(work: Work) -> "Image.Image | None":
    try:
        return work.preview()
    except FailureError as error:  # a network that gives no picture yet is no reason to stop its training
        _print(f"{work.stage.name}: no sample sheet: {error}")
        return None


def _print(message: str) -> None:
    if _is_main():
        print(as_given(message), file=sys.stderr, flush=True)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def main_first(*, local: bool = False) -> Iterator[bool]:
    """Rank 0 goes through the block before the others, which follow when it fails, too; yields whether it is rank 0.

    With ``local``, the first rank of each machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    processes = process_state(not torch.accelerator.is_available())
    first = processes.is_local_main_process if local else processes.is_main_process
    if not first:
        processes.wait_for_everyone()
    try:
        yield first
    finally:
        if first:
            processes.wait_for_everyone()
