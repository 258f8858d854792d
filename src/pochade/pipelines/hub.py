"""From the name of a model to the folder that holds it: shipped with the package, local, or on the Hugging
Face hub."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from pochade.arguments import EVERYWHERE, path_text
from pochade.errors import FailureError, PochadeError, nearest
from pochade.files import sha256
from pochade.storage import fetch, url_of

DEFAULT_MODEL = "open-drawings"
"""The model that is used where none is named."""

DEFAULT_STEPS, DEFAULT_GUIDANCE = 50, 3.0
"""How a model samples that names nothing else."""
DEFAULTS: dict[str, Any] = {
    "default_steps": DEFAULT_STEPS,
    "default_guidance": DEFAULT_GUIDANCE,
    "default_guidance_low": EVERYWHERE[0],
    "default_guidance_high": EVERYWHERE[1],
    "default_size": None,
}
"""The settings of a pipeline in ``INDEX``, beside its components."""

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
"""Of the package."""
BESIDE = CHECKPOINTS.parents[2] / "checkpoints"
"""Further ones of the repository, for which the package has no room: they have names in a checkout alone."""
INDEX = "model_index.json"
RECORD = "training.json"
"""In the folder of a model that was trained here: on what, and how long."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.md", "*.model", "onnx/*.onnx"]
"""What is fetched: configurations, weights, vocabularies, the card and the graphs. Never a pickle, never code."""


class UnfinishedWarning(UserWarning):
    """A model is taken from a checkpoint of a training."""


def shipped() -> dict[str, Path]:
    """Names and folders of the checkpoints in the package, and in the repository where it runs from a checkout."""
    folders = [folder for place in (CHECKPOINTS, BESIDE) if place.is_dir() for folder in place.iterdir()]
    return {f.name: f for f in sorted(folders, key=lambda f: f.name) if (f / INDEX).is_file()}


def resolve(name_or_path: str | os.PathLike[str], **hub_options: Any) -> Path:
    """The folder of a model.

    Args:
        name_or_path: the name of a shipped checkpoint (it wins over a folder of the same name: write
            ``./name`` for the folder), a folder with a ``model_index.json``, the folder of a training run, of one of
            its stages or of a checkpoint (the newest averaged weights in it are taken), the URL of such a folder
            (``pochade.storage``), or a hub name ``owner/name``.
        hub_options: for ``huggingface_hub.snapshot_download``, such as ``revision``, ``token``,
            ``cache_dir`` or ``local_files_only``; used for hub names only.

    Raises:
        PochadeError: there is no such model (the nearest names are given), or the folder is no model.
        FailureError: the hub cannot be reached, or refuses.

    Warns:
        UnfinishedWarning: the weights are of a checkpoint; it says of which.
    """
    name = path_text("model", name_or_path, "a name or a path")
    known = shipped()
    if name in known:
        return known[name]
    url = url_of("model", name)
    if url is not None:
        # Of a training the other files are not wanted: those by which the newest model is found come first.
        fetched = fetch(url, lambda file: PurePosixPath(file).suffix == ".json")
        found = newest(fetched)
        if found is None:
            raise PochadeError(f"model: {url} holds no {INDEX}, so it is neither {_NEITHER}")
        place = "/".join((url, *found.relative_to(fetched).parts))
        return fetch(place, lambda file: any(fnmatch(file, pattern) for pattern in _HUB_FILES))
    folder = Path(name).expanduser()
    if folder.is_dir():
        found = newest(folder)
        if found is None and is_bundle(name):
            raise PochadeError(
                f"model: {name!r} is a bundle of pochade export, which pochade generate and pochade run take, and "
                "pochade.runtime.Bundle in Python"
            )
        if found is None:
            _check_no_adapter(name, folder)
            raise PochadeError(f"model: {name!r} holds no {INDEX}, so it is neither {_NEITHER}")
        return found
    if folder.exists():
        raise PochadeError(f"model: {name!r} is a file, allowed is the folder of a model")
    if HUB_NAME.fullmatch(name):
        return _download(name, hub_options)
    deleted = next((path for path in (folder, *folder.parents) if path.name.startswith(_CHECKPOINT)), None)
    if deleted is not None and deleted.parent.is_dir():
        raise PochadeError(
            f"model: {name!r} is not there: a training keeps its newest checkpoints alone, allowed is "
            f"{str(deleted.parent)!r}"
        )
    names = ", ".join(known) or "none"
    raise PochadeError(
        f"model: {name!r} is neither a shipped model ({names}), nor a folder, nor a hub name OWNER/NAME"
        f"{nearest(name, known)}"
    )


_NEITHER = "the folder of a model nor of a training that has saved one"
_CHECKPOINT = "checkpoint-"


def newest(folder: Path, file: str = INDEX) -> Path | None:
    """What a folder holds that has ``file`` in it, a model where that is ``INDEX``: itself, or the newest that a
    checkpoint, a stage or a run has saved; None where there is none.

    Warns:
        UnfinishedWarning: it is of a checkpoint.
    """
    found = next(below(folder, file), None)
    if found is not None and found != folder and found.parent.name.startswith(_CHECKPOINT):
        warnings.warn(
            f"model: {found} is taken, of step {_step(found)} of a training",
            UnfinishedWarning,
            stacklevel=1,  # one place, however it is reached: a command says it once
        )
    return found


def _check_no_adapter(name: str, folder: Path) -> None:
    """Raises PochadeError where a folder, or the training in it, has a LoRA or learned words, which are no model."""
    from pochade.pipelines import embedding_files, lora_files
    from pochade.pipelines.tensor_files import read_head

    for file, what, option in (
        (lora_files.WEIGHTS, "a LoRA", "--lora"),
        (embedding_files.WEIGHTS, "learned words", "--embedding"),
    ):
        found = next(below(folder, file), None)
        if found is not None:
            base = read_head(found / file)[1].get(lora_files.BASE)
            model, given = quote(base) if base else "MODEL", quote(name)
            whole = f", or what pochade merge {model} --lora {given} -o FOLDER makes"
            raise PochadeError(
                f"model: {name!r} holds {what}{f' of {base!r}' if base else ''}: allowed is {model}, where it is taken "
                f"with {option} {given}{whole * (option == '--lora')}"
            )


def is_bundle(name: str) -> bool:
    """Whether a name of ``resolve`` is that of a folder which ``pochade export`` wrote, and of no model."""
    folder = Path(name).expanduser()
    if name in shipped() or not folder.is_dir() or next(below(folder, INDEX), None) is not None:
        return False
    from pochade.runtime.manifest import MANIFEST

    return (folder / MANIFEST).is_file()


def current(folder: Path) -> Path:
    """A folder as ``resolve`` gave it; where a training has deleted that checkpoint since, its newest model.

    Between the two a command imports its libraries, which takes seconds.
    """
    checkpoint = folder.parent
    if folder.is_dir() or not checkpoint.name.startswith(_CHECKPOINT):
        return folder
    return resolve(checkpoint.parent)


def below(folder: Path, file: str) -> Iterator[Path]:
    """The models in a folder, or what else has ``file`` in it, the best first: itself, or those of a checkpoint, a
    stage or a run, the newest first."""
    if (folder / file).is_file():
        yield folder
        return
    models = [folder / "model", *(path / "model" for path in folder.glob(f"{_CHECKPOINT}*"))]
    yield from sorted((path for path in models if (path / file).is_file()), key=_step, reverse=True)
    for stage in reversed(stage_folders(folder)):
        yield from below(stage, file)


def stage_folders(run: Path) -> list[Path]:
    """The folders of the stages that a run holds, in their order."""
    stages = [path for path in run.glob("[0-9]*-*") if path.name.partition("-")[0].isdecimal()]
    return sorted(stages, key=lambda path: int(path.name.partition("-")[0]))


def _step(model: Path) -> int:
    """The step of training at which a model below a run was saved."""
    number = model.parent.name.removeprefix(_CHECKPOINT)
    if model.parent.name.startswith(_CHECKPOINT) and number.isdecimal():
        return int(number)
    record = model / RECORD
    return int(read_json(record).get("stage", {}).get("steps", 0)) if record.is_file() else 0


def _download(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES, **options))
    except RepositoryNotFoundError as error:
        raise PochadeError(f"model: {name!r} is no folder here and no public model on the hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FailureError(
            f"model: {name!r} is no folder here, and could not be fetched from the hub: {reason[0]}"
        ) from error
    if not (folder / INDEX).is_file():
        raise PochadeError(f"model: {name!r} on the hub holds no {INDEX}")
    return folder


RENAMED = {"reference_dim": "image_prompt_dim", "reference_encoder": "image_prompt_encoder"}
"""Keys of a component's configuration as earlier versions wrote them -> as they are called now."""
RENAMED_WEIGHTS = {"reference.": "image_prompt."}
"""Beginnings of the names of weights, likewise."""


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A component's configuration, whichever version wrote it, with the keys of today."""
    return {RENAMED.get(key, key): value for key, value in config.items()}


def renamed_weight(name: str) -> str:
    """The name of a weight, whichever version wrote it, as it is today."""
    old = next((old for old in RENAMED_WEIGHTS if name.startswith(old)), "")
    return RENAMED_WEIGHTS.get(old, "") + name.removeprefix(old)


_DOWNSAMPLING = {"TinyAutoencoder": 8}
"""Of autoencoders whose configuration does not name it."""


def denoiser_config(folder: Path) -> dict[str, Any]:
    """The configuration of the denoiser of a model, whichever version wrote it."""
    return renamed(read_json(folder / "denoiser" / "config.json"))


def downsampling(folder: Path) -> int | None:
    """Pixels a side of one latent cell of a model, as the configuration of its autoencoder says it; None where it does
    not."""
    config = read_json(folder / "autoencoder" / "config.json")
    settings = config.get("settings") or {}  # of an autoencoder of diffusers: each stage but the last halves the sides
    stages = settings.get("encoder_block_out_channels") or settings.get("block_out_channels")
    if stages:
        return 2 ** (len(stages) - 1)
    known = _DOWNSAMPLING.get(config.get("_class_name", ""))
    return config.get("downsampling", known)


def tasks_of(folder: Path) -> list[str]:
    """The tasks of ``pochade.types.TASKS`` that the denoiser of a model names in its configuration."""
    return list(denoiser_config(folder).get("tasks") or ())


def trained_for(task: str) -> list[str]:
    """The shipped models whose denoiser names a task of ``pochade.types.TASKS`` in its configuration."""
    return [name for name, folder in shipped().items() if task in tasks_of(folder)]


def check_instruction(tasks: Iterable[str]) -> None:
    """Raises PochadeError, which names models that can, where one trained for ``tasks`` follows no instruction."""
    if "edit" not in tasks:
        able = trained_for("edit") or ["models that pochade train edit makes"]
        raise PochadeError(f"instruction: given, but this model follows none, allowed are {', '.join(able)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises PochadeError where it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PochadeError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise PochadeError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise PochadeError(f"{path}: a {type(value).__name__} given, a JSON object is needed")
    return value


def defaults(folder: Path) -> dict[str, Any]:
    """``DEFAULTS`` as the model in ``folder`` names them, else the usual ones."""
    index = read_json(folder / INDEX)
    return {name: index.get(name, usual) for name, usual in DEFAULTS.items()}


def component_classes(folder: Path) -> dict[str, tuple[str, str] | None]:
    """Component -> (module, class) as ``model_index.json`` names them; None for one that the model does
    without."""
    classes: dict[str, tuple[str, str] | None] = {}
    for name, value in read_json(folder / INDEX).items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise PochadeError(f"{folder / INDEX}: {name!r}: {value!r} given, a module and a class are needed")
        classes[name] = None if value[0] is None else (str(value[0]), str(value[1]))
    return classes


def model_sha256(folder: Path) -> str:
    """SHA-256 over the configurations and weights of a model: what a picture depends on besides its request.

    The digest is taken of one line ``<SHA-256 of the file>  <relative path>`` for each JSON and safetensors
    file, in the order of the paths, so that ``sha256sum`` gives the same.
    """
    parts = {name for name, value in component_classes(folder).items() if value is not None}
    files = [p for p in folder.rglob("*") if p.suffix in {".json", ".safetensors"} and p.is_file()]
    relative = {p: p.relative_to(folder) for p in files}
    return files_sha256(folder, [p for p, r in relative.items() if r.parts[0] in parts or r.as_posix() == INDEX])


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """The digest of ``model_sha256`` over some files below ``folder``."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        total.update(os.fsencode(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n"))
    return total.hexdigest()
