"""Checkpoints on disk: complete, checked, written so that a kill or a full disk leaves the one before intact.

A run's folder holds ``checkpoint-00001000/`` and so on, and ``latest``, a text file with the name of the
newest. A checkpoint is one safetensors file for each group of tensors, ``state.json``, ``manifest.json``
with the SHA-256 of each and, where the network is part of a model to sample from, the folder ``model`` of
that model with the averaged weights. Nothing in it is a pickle.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pochade.errors import FailureError, PochadeError
from pochade.files import atomic_folder, remove_folder, sha256, write_json, write_text
from pochade.pipelines.hub import stage_folders
from pochade.tensors import read_tensors, tensor_entries, write_tensors
from pochade.training.ema import module_tensors

SHARDS = "shards"
"""In a checkpoint: the folder of groups that are divided among processes."""
NAMED = 8
"""Tensors that an error names at most, of each fault."""
_WEIGHT_FILES = ("ema.safetensors", "model.safetensors", "diffusion_pytorch_model.safetensors")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: groups of tensors by name, and the JSON state."""

    path: Path
    step: int
    tensors: dict[str, Tensors]
    state: dict[str, Any]
    shards: Path | None = None
    """Where further groups lie, divided among the processes that wrote them (``pochade.training.sharding``)."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first, whether intact or not."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    save_model: Callable[[Path], object] | None = None,
    shards: Path | None = None,
) -> Path:
    """Writes a checkpoint, points ``latest`` to it and deletes all but the newest ``keep``.

    ``save_model`` writes the folder ``model``; None: there is none. ``shards`` is a folder of groups that are divided,
    which becomes a part of it.

    Raises FailureError where it cannot be written (a full disk); what was there before stays as it was.
    """
    target = folder / f"checkpoint-{step:08d}"
    try:
        with atomic_folder(target, replace=True) as new:
            for group, named in tensors.items():
                write_tensors(new / f"{group}.safetensors", named)
            if shards is not None:
                shards.rename(new / SHARDS)
            write_json(new / "state.json", {"step": step, **state})
            if save_model is not None:
                save_model(new / "model")
            written = sorted(path for path in new.rglob("*") if path.is_file())
            write_json(new / "manifest.json", {path.relative_to(new).as_posix(): sha256(path) for path in written})
        write_text(folder / "latest", target.name + "\n")
    except FailureError as error:
        raise FailureError(f"{error}; {describe_last_good(folder)}") from error
    for old in [p for p in checkpoints(folder) if _step_of(p) < step][keep - 1 :]:
        remove_folder(old)
    return target


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if "state.json" not in manifest:
            return "manifest.json is incomplete"
        for name, digest in manifest.items():
            if sha256(path / name) != digest:
                return f"{name} differs from its SHA-256"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


def find_checkpoint(folder: Path, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """The checkpoint to go on from: ``latest`` if intact, else the newest intact one, None without any.

    Each damaged one is reported through ``say``. Raises FailureError if there are checkpoints and all are
    damaged.
    """
    ordered = checkpoints(folder)
    pointer = folder / "latest"
    name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    ordered.sort(key=lambda path: path.name != name)  # stable: the others stay newest first
    if name and ordered and ordered[0].name != name:
        say(f"latest names {name!r}, which is not there")
    for path in ordered:
        fault = damage(path)
        if fault is None:
            return path
        say(f"{path.name} is damaged: {fault}")
    if ordered:
        raise FailureError(f"{folder}: all {len(ordered)} checkpoints are damaged")
    return None


def describe_last_good(folder: Path) -> str:
    """A clause for error messages."""
    try:
        path = find_checkpoint(folder)
    except FailureError:
        path = None
    return f"the last good checkpoint is {path}" if path else "there is no earlier checkpoint"


@contextmanager
def naming_last_good(folder: Path) -> Generator[None]:
    """Within it the error of what could not be written says from which checkpoint the run in ``folder`` can go on."""
    try:
        yield
    except FailureError as error:
        error.args = (f"{error}; {describe_last_good(folder)}",)
        raise


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint that ``find_checkpoint`` found intact."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    tensors = {file.stem: read_tensors(file) for file in sorted(path.glob("*.safetensors"))}
    shards = path / SHARDS
    return Checkpoint(path, int(state["step"]), tensors, state, shards if shards.is_dir() else None)


def load_weights(module: nn.Module, path: str | Path) -> Path:
    """Fills a module from a safetensors file, a checkpoint, a finished run or a saved model.

    Of a checkpoint the averaged weights are taken. Returns the file. Other floating types are converted.
    Raises PochadeError as ``check_weights``.
    """
    tensors = module_tensors(module)
    file = check_weights({name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    with torch.no_grad():
        for name, value in read_tensors(file).items():
            tensors[name].copy_(value)
    return file


def check_weights(wanted: Mapping[str, tuple[int, ...]], path: str | Path, *, but: str | None = None) -> Path:
    """The file of which ``load_weights`` fills tensors of those names and shapes; of it, none is read.

    Those whose names begin with ``but`` are left aside.
    Raises PochadeError where tensors are missing, extra or of another shape, and for a file of another kind.
    """
    file = _weight_file(Path(path))
    shapes = {name: entry.shape for name, entry in tensor_entries(file).items()}
    given = {name: shape for name, shape in shapes.items() if but is None or not name.startswith(but)}
    check_tensors(f"initialise_from: {file}", given, wanted)
    return file


def first_names(names: Sequence[str]) -> str:
    """The first ``NAMED``, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def check_tensors(source: str, given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises PochadeError naming tensors that are missing, extra or of another shape, the first ``NAMED`` of each."""
    faults = {
        "missing": [n for n in wanted if n not in given],
        "extra": sorted(n for n in given if n not in wanted),
        "wrongly shaped": [
            f"{n} {list(given[n])} for {list(wanted[n])}" for n in wanted if n in given and given[n] != wanted[n]
        ],
    }
    if any(faults.values()):
        text = "; ".join(f"{kind}: {first_names(names)}" for kind, names in faults.items() if names)
        raise PochadeError(f"{source}: its tensors do not fit the network: {text}")


def _weight_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise PochadeError(f"initialise_from: {path} given, only safetensors files are loaded")
        return path
    for folder in _places(path) if path.is_dir() else ():
        for name in _WEIGHT_FILES:
            if (folder / name).is_file():
                return folder / name
    raise PochadeError(
        f"initialise_from: {path} is neither a safetensors file nor a folder with one of {', '.join(_WEIGHT_FILES)}"
    )


def _places(folder: Path) -> Iterator[Path]:
    """Where weights may lie in a folder, the best first: in itself; of a stage, at its end or in its newest checkpoint;
    of a run, in its newest stage."""
    yield from (folder, folder / "final", *sorted(folder.glob("checkpoint-*"), reverse=True))
    for stage in reversed(stage_folders(folder)):
        yield from _places(stage)
