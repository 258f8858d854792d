"""What a model was trained on, kept beside it in ``training.json``: what an evaluation leaves out, and a resumed run
must be the same as."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from pochade.pipelines import hub
from pochade.pipelines.hub import RECORD, read_json
from pochade.training.data import ImageData, PairData
from pochade.training.stage import AnyStage, Identity, Settings, Stage
from pochade.training.stages.kind import Work

DataStage = Stage[Settings, ImageData | PairData]
NAMES = ("autoencoder", "teacher", "model", "base", "ready", "text_encoder", "encoder")
"""Fields of ``task`` that name models or parts of models."""


class Fingerprinted(Protocol):
    """Data that are opened."""

    def fingerprint(self) -> str:
        """Digits that change with their content."""
        ...


def identity_of(stage: AnyStage, data: Mapping[str, Fingerprinted]) -> Identity:
    """What a run of ``stage`` must have in common with the one that it resumes; ``data`` as ``Kind.check`` gives."""
    settings = json.loads(json.dumps(stage.settings()))
    named = {f"task.{name}": settings["task"].get(name) for name in NAMES}
    digests = {field: _digest(name) for field, name in named.items() if name is not None}
    return Identity(settings, {name: one.fingerprint() for name, one in data.items()} | digests)


def _digest(name: str) -> str:
    """Of the weights and configurations in a folder, or of a shipped model; a name of anything else as it is."""
    folder = hub.shipped().get(name, Path(name.removeprefix("clip:").removeprefix("gemma:")).expanduser())
    if not folder.is_dir():
        return name
    if (folder / hub.INDEX).is_file():
        return hub.model_sha256(folder)
    return hub.files_sha256(folder, [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")])


def record_of(stage: DataStage, work: Work, identity: Identity) -> dict[str, Any]:
    """The record of a stage: its settings and its data, and the records of the models that it was made from.

    ``fingerprint`` is that of the first of ``sources``, as it was trained on; empty where that is of pairs alone.
    ``held_out`` is whether a part of the data was kept out of training. ``before`` holds the record of the model that
    the stage went on from, ``autoencoder`` that of the autoencoder whose latents it works on; None where there is none.
    """
    data = stage.data
    start = work.start or _origin(stage.initialise_from)
    return {
        "sources": [str(source) for source in data.sources],
        "fingerprint": identity.contents.get("data.source", ""),
        "held_out": data.held_out,
        "max_megapixels": data.max_megapixels,
        "size": cast(DataStage, work.stage).data.size,
        "stage": dict(identity.settings),
        "contents": dict(identity.contents),
        "before": None if start is None else read_record(start),
        "autoencoder": None if work.autoencoder is None else _of_autoencoder(work.autoencoder),
    }


def read_record(model: Path) -> dict[str, Any] | None:
    """The record of a model; None where it has none."""
    path = model / RECORD
    return read_json(path) if path.is_file() else None


def _of_autoencoder(folder: Path) -> dict[str, Any] | None:
    record = read_record(folder)
    return record.get("autoencoder") if record is not None and (folder / hub.INDEX).is_file() else record


def _origin(start: str | None) -> Path | None:
    """The folder with the record of the weights that a stage starts from, wherever in a run they lie."""
    if start is None:
        return None
    path = hub.shipped().get(start, Path(start).expanduser())
    near = (*hub.below(path, RECORD), path.parent, path.parent / "model", path.parent.parent / "model")
    return next((folder for folder in near if (folder / RECORD).is_file()), None)
