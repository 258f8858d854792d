"""What a model was trained on, as ``training.json`` beside it says, and which pictures of some data it has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pochade.data.dataset import Dataset
from pochade.data.sources import open_source
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError
from pochade.images.decode import MAX_MEGAPIXELS
from pochade.pipelines.hub import RECORD, read_json

CHANGES = ("best", "shifts", "trigger", "template", "keep_tags", "word_dropout")
"""Settings of ``ImageData`` that make other data of a source."""


@dataclass(frozen=True)
class TrainingData:
    """Data that a model, or one that it was trained from, has seen."""

    source: str
    """The text form of the source."""
    fingerprint: str
    """``Dataset.fingerprint`` of what was trained on; empty where that is not the data as they are read."""
    held_out: bool
    """Whether the held-out split was left out of the training."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger pictures were not read."""
    streamed: bool = False
    """Whether it was read by windows, as it fits on no disk."""

    def open(self, *, progress: bool = True) -> Dataset:
        """What was trained on, however much cannot be read. Raises as `open_source`, and where it was streamed."""
        if self.streamed:
            raise PochadeError(f"{self.source}: streamed, not to be read as a whole")
        reading = Reading(max_megapixels=self.max_megapixels, max_skipped=1)
        return open_source(self.source, "train" if self.held_out else "all", progress=progress, reading=reading)


def read_training_data(model: Path) -> tuple[TrainingData, ...]:
    """All data that the model in a folder has seen, its own, that of the models before it and that of its autoencoder;
    none without a record.

    Raises:
        PochadeError: the record is damaged.
    """
    path = model / RECORD
    records: list[dict[str, Any] | None] = [read_json(path)] if path.is_file() else []
    found: list[TrainingData] = []
    for record in records:  # which grows
        if record is None:
            continue
        try:
            fingerprint, held_out = str(record["fingerprint"]), bool(record["held_out"])
            limit = float(record.get("max_megapixels", MAX_MEGAPIXELS))
            settings = record.get("stage", {}).get("data", {})
            if any(settings.get(name) not in (None, 1.0) for name in CHANGES):
                fingerprint = ""
            streamed = settings.get("cache_limit") is not None
            for source in record["sources"]:
                found.append(TrainingData(str(source), fingerprint, held_out, limit, streamed))
                fingerprint = ""
        except (KeyError, TypeError, ValueError) as error:
            raise PochadeError(f"{path}: not a record of a training ({type(error).__name__}: {error})") from error
        records += [record.get("before"), record.get("autoencoder")]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Seen:
    """Which of some data a model has seen in training."""

    groups: frozenset[str]
    """Groups of the data that were trained on."""
    unknown: tuple[str, ...] = ()
    """Sources that were trained on and cannot be compared with the data: they are not here."""
    changed: tuple[str, ...] = ()
    """Sources that hold others than the pictures and captions that were trained on."""

    def warnings(self) -> list[str]:
        """What makes held-out pictures doubtful, a sentence each."""
        doubt = "pictures that count as held out may have been trained on"
        gone = [f"the model was trained on {source}, which is not here: {doubt}" for source in self.unknown]
        changed = [f"{source} was changed after the model was trained on it: {doubt}" for source in self.changed]
        return [*gone, *changed]


def seen_groups(data: Dataset, training: Sequence[TrainingData], *, progress: bool = True) -> Seen:
    """The groups of ``data`` (all of it) that a model was trained on: a group of the same name is the same concept.

    A source that cannot be opened any more is compared by its fingerprint.
    """
    own = frozenset(data.groups())
    groups: set[str] = set()
    unknown: list[str] = []
    changed: list[str] = []
    for one in training:
        try:
            trained = one.open(progress=progress)
        except PochadeError:
            if one.fingerprint == data.fingerprint():
                groups |= own
            else:
                unknown.append(one.source)
            continue
        groups |= own & trained.groups().keys()
        if one.fingerprint and one.fingerprint != trained.fingerprint():
            changed.append(one.source)
    return Seen(frozenset(groups), tuple(dict.fromkeys(unknown)), tuple(dict.fromkeys(changed)))
