"""The form of ``report.json``. Where a figure was not measured, a text in its place says why."""

from typing import NotRequired, TypedDict

from pochade.evaluation.bootstrap import Interval
from pochade.evaluation.contrast import Contrast
from pochade.evaluation.copying import CopyCheck, Summary
from pochade.evaluation.reconstruction import Reconstruction
from pochade.evaluation.retrieval import PrecisionFigures


class RetrievalFigures(TypedDict):
    """Retrieval precision of generated pictures, and of the real ones of the same captions."""

    generated: PrecisionFigures
    real: PrecisionFigures


CopyingFigures = TypedDict(
    "CopyingFigures", {"features": Summary, "pixels": Summary, "pictures compared by pixels": dict[str, int]}
)
"""Distances to the nearest training picture, by features and by pixels; the latter of the first pictures of each side
(see ``copying.MOST``)."""

Lite0Figures = TypedDict("Lite0Figures", {"kid_lite0": float, "kid_lite0 std": float, "fd_lite0": float})
"""KID, its standard deviation over subsets, and FID-style distance, of features of EfficientNet-Lite0."""

InceptionFigures = TypedDict(
    "InceptionFigures",
    {"kid_inception": float | str, "kid_inception std": NotRequired[float], "fd_inception": float | str},
)
"""The same of features of the Inception network: KID and FID."""

_OtherFigures = TypedDict(
    "_OtherFigures",
    {
        "pictures": int,
        "real pictures": int,
        "retrieval": RetrievalFigures,
        "contrast": Contrast,
        "copying": NotRequired[CopyingFigures],
        "copies": CopyCheck,
        "clip_score": float | str,
        "intervals": dict[str, Interval],
    },
)


class SplitFigures(Lite0Figures, InceptionFigures, _OtherFigures):
    """Of the captions of one split. ``intervals``: of 95 %, by ``bootstrap``, of the figures of the same name."""


class TrainingSource(TypedDict):
    """Data that the model was trained on; ``compared``: whether it was there to be compared with the data measured;
    ``changed``: whether it held others than those that were trained on."""

    source: str
    held_out: bool
    compared: bool
    changed: bool


TrainingFigures = TypedDict(
    "TrainingFigures", {"data": list[TrainingSource], "held-out pictures that were trained on": int}
)

Figures = TypedDict(
    "Figures",
    {
        "model": str,
        "data": str,
        "settings": dict[str, int | tuple[int, int] | list[float] | float | str | None],
        "data_fingerprint": str,
        "weights_sha256": str,
        "parameters": dict[str, int],
        "training": TrainingFigures | str,
        "train": SplitFigures,
        "composed": NotRequired[SplitFigures],
        "held_out": SplitFigures | str,
        "real held-out beside real training pictures": NotRequired[Lite0Figures],
        "autoencoder": dict[str, Reconstruction],
        "seconds": float,
        "date": str,
        "versions": dict[str, str],
    },
)
"""All of a report."""
