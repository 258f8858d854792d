"""What a model was trained on, kept beside it in ``training.json``, so that an evaluation knows what it has seen."""

from pathlib import Path
from typing import Any, cast

from pochade.pipelines.hub import read_json
from pochade.training.data import ImageData, PairData
from pochade.training.stage import Settings, Stage
from pochade.training.stages.kind import Work

FILE = "training.json"
DataStage = Stage[Settings, ImageData | PairData]


def record_of(stage: DataStage, work: Work) -> dict[str, Any]:
    """The record of a stage: its settings, the data sets with their fingerprints, and the records of its start.

    ``held_out`` is whether a part of the data was kept out of training; ``before`` holds the record of the model that
    the stage went on from, None where there is none.
    """
    data = stage.data
    return {
        "sources": [str(data.source)],
        "fingerprint": ",".join(dataset.fingerprint() for dataset in work.datasets),
        "held_out": data.held_out,
        "max_megapixels": data.max_megapixels,
        "size": cast(DataStage, work.stage).data.size,
        "stage": stage.settings(),
        "before": None if work.start is None else read_record(work.start),
    }


def read_record(model: Path) -> dict[str, Any] | None:
    """The record of a model; None where it has none."""
    path = model / FILE
    return read_json(path) if path.is_file() else None
