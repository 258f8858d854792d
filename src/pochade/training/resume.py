"""What a run goes on from: its last checkpoint, if it is that of the same run."""

from pathlib import Path

from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.training.checkpoint import Checkpoint, checkpoints, find_checkpoint, load_checkpoint
from pochade.training.metrics import METRICS
from pochade.training.stage import INITIALISE_FROM, AnyStage, Identity


def check_same(folder: Path, before: Identity, now: Identity, start_field: str) -> None:
    """Raises PochadeError, which says what a new run could do, where the run in ``folder`` is resumed as another one.

    ``start_field``: see ``Settings``.
    """
    changed = before.differences(now)
    if changed:
        raise PochadeError(
            f"resume: {folder} was trained with other settings: {', '.join(changed)}; a new run "
            f"{_start_from(folder, start_field)}"
        )


def _start_from(folder: Path, start_field: str) -> str:
    """How a new run starts from what the one in ``folder`` has learned, or that it cannot: a LoRA is no model."""
    last = checkpoints(folder)[:1]
    if start_field == INITIALISE_FROM:
        start = folder if (folder / "final").is_dir() or not last else last[0]
        return f"of the same network goes on from its weights with {start_field}={start}"
    for model in (folder / "model", *(path / "model" for path in last)):
        if (model / hub.INDEX).is_file():
            return f"goes on from its model with {start_field}={model}"
    return "begins anew in another folder (--out)"


def check_is_new(folder: Path) -> None:
    """Raises PochadeError where ``folder`` holds a run."""
    if checkpoints(folder) or (folder / "final").exists() or (folder / "model").exists():
        raise PochadeError(f"folder: {folder} already holds a run; continue it with --resume or choose another folder")


def find_run(folder: Path, stage: AnyStage, identity: Identity, samples: int, notes: list[str]) -> Checkpoint | None:
    """The checkpoint in ``folder`` from which a stage goes on, None where there is none; ``notes`` get what is to be
    said.

    Raises:
        PochadeError: it is that of another run, or of a later step than the last.
        FailureError: all checkpoints are damaged.
    """
    path = find_checkpoint(folder, notes.append)
    if path is None:
        if (folder / METRICS).exists():
            notes.append(f"no checkpoint in {folder}, started from the beginning")
        return None
    saved = load_checkpoint(path)
    before = {**saved.state["stage"], "samples": saved.state["samples"]}
    known = Identity(before, saved.state.get("contents", {}))  # earlier versions kept none
    now = {**identity.settings, "samples": samples}
    check_same(folder, known, Identity(now, identity.contents), stage.task.start_field)
    if saved.step > stage.steps:
        raise PochadeError(
            f"steps: {stage.steps} given, but {path} is of step {saved.step}: allowed are {saved.step}, with which the "
            "run ends there, and more"
        )
    notes += [f"from step {saved.step} on {change}" for change in known.changes_to(identity.settings)]
    return saved
