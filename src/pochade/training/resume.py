"""What a run goes on from: its last checkpoint, if it is that of the same run."""

from pathlib import Path

from pochade.errors import PochadeError
from pochade.training.checkpoint import Checkpoint, checkpoints, find_checkpoint, load_checkpoint
from pochade.training.stage import Identity


def check_same(folder: Path, before: Identity, now: Identity) -> None:
    """Raises PochadeError where the run in ``folder`` is resumed as another one."""
    changed = before.differences(now)
    if changed:
        raise PochadeError(
            f"resume: {folder} was trained with other settings: {', '.join(changed)}; a new run goes on "
            f"from its weights with initialise_from={folder}"
        )


def check_is_new(folder: Path) -> None:
    """Raises PochadeError where ``folder`` holds a run."""
    if checkpoints(folder) or (folder / "final").exists() or (folder / "model").exists():
        raise PochadeError(f"folder: {folder} already holds a run; continue it with --resume or choose another folder")


def find_run(folder: Path, identity: Identity, samples: int, notes: list[str]) -> Checkpoint | None:
    """The checkpoint in ``folder`` to go on from, None where there is none; what is to be said goes into ``notes``.

    Raises:
        PochadeError: it is that of another run.
        FailureError: all checkpoints are damaged.
    """
    path = find_checkpoint(folder, notes.append)
    if path is None:
        notes.append("nothing to resume, started from the beginning")
        return None
    saved = load_checkpoint(path)
    before = {**saved.state["stage"], "samples": saved.state["samples"]}
    known = Identity(before, saved.state.get("contents", {}))  # earlier versions kept none
    now = {**identity.settings, "samples": samples}
    check_same(folder, known, Identity(now, identity.contents))
    notes += [f"from step {saved.step} on {change}" for change in known.changes_to(identity.settings)]
    return saved
