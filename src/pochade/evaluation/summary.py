"""The figures of reports as tables, each with its interval: for pages, terminals and documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPLITS = {"train": "training concepts", "composed": "composed pairs", "held_out": "held-out concepts"}
"""What tables call the splits: captions of concepts that were trained on, of styles and concepts that were each seen,
never together, and of concepts that were held out."""
ABSENT = "–"
CAPTION = "In brackets: intervals of 95 %, by drawing the pictures again with replacement."


@dataclass(frozen=True)
class Row:
    """A figure of a split: its label, where it stands, its form, and where its interval stands."""

    label: str
    keys: tuple[str, ...]
    form: str = ".2f"
    interval: tuple[str, ...] = ()


def _row(label: str, *keys: str, form: str = ".2f", interval: str = "") -> Row:
    return Row(label, keys, form, ("intervals", interval) if interval else ())


def _contrast(label: str, name: str) -> Row:
    return Row(label, ("contrast", "generated", name), interval=("contrast", "intervals", name))


def _autoencoder(label: str, name: str, form: str) -> Row:
    return Row(label, ("autoencoder", name), form, ("autoencoder", "intervals", name))


ROWS = (
    _row("retrieval R@1", "retrieval", "generated", "R@1", interval="R@1"),
    _row("retrieval R@5", "retrieval", "generated", "R@5", interval="R@5"),
    _row("R@1 by chance", "retrieval", "generated", "chance R@1"),
    _row("R@1 of real pictures", "retrieval", "real", "R@1", interval="R@1 of real pictures"),
    _row("R@5 of real pictures", "retrieval", "real", "R@5", interval="R@5 of real pictures"),
    _row("KID (Lite0)", "kid_lite0", form=".4f", interval="kid_lite0"),
    _row("its standard deviation over subsets", "kid_lite0 std", form=".4f"),
    _row("FID-style distance (Lite0)", "fd_lite0", form=".0f", interval="fd_lite0"),
    _row("KID (Inception)", "kid_inception", form=".4f", interval="kid_inception"),
    _row("FID (Inception)", "fd_inception", form=".1f", interval="fd_inception"),
    _row("CLIP score", "clip_score", form=".1f", interval="clip_score"),
    _row("copies of a training picture", "copies", "share", form=".0%", interval="copies"),
    _row("the same of real held-out pictures", "copies", "held_out", form=".0%"),
    _row("nearer to a training picture than 95 % of held-out ones", "copying", "features", "nearer", form=".0%"),
    _row("distance to the nearest training picture, median", "copying", "features", "generated", "median"),
    _row("the same of real held-out pictures", "copying", "features", "held_out", "median"),
    _contrast("standard deviation of the pixels, in [0, 1]", "std"),
    _row("the same of real pictures", "contrast", "real", "std"),
    _contrast("range of the pixels", "range"),
    _row("the same of real pictures", "contrast", "real", "range"),
    _row("captions or classes of a low contrast", "contrast", "low groups", form="d"),
    _autoencoder("autoencoder, PSNR in dB", "psnr", ".1f"),
    _autoencoder("autoencoder, SSIM", "ssim", ".3f"),
    _autoencoder("autoencoder, perceptual distance", "perceptual", ".3f"),
    _row("pictures", "pictures", form="d"),
)


def splits_of(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The splits that were measured, each with its part of the autoencoder's figures."""
    decoded = figures.get("autoencoder", {})
    present = {split: figures.get(split) for split in SPLITS}
    return {
        split: {**side, "autoencoder": decoded.get(split, {})}
        for split, side in present.items()
        if isinstance(side, Mapping)
    }


def rows_of(sides: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each figure that one of ``sides`` has: its label, and its cell of each."""
    rows = [[row.label, *(_cell(side, row) for side in sides)] for row in ROWS]
    return [row for row in rows if set(row[1:]) != {ABSENT}]


def table_of(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a report, a column for each split."""
    sides = splits_of(figures)
    return ["", *(SPLITS[split] for split in sides)], rows_of(list(sides.values()))


def tables_beside(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """For each split that all reports have, head and rows with a column for each report, by its name."""
    all_sides = {name: splits_of(figures) for name, figures in reports.items()}
    return {
        split: (["", *all_sides], rows_of([sides[split] for sides in all_sides.values()]))
        for split in SPLITS
        if all(split in sides for sides in all_sides.values())
    }


def _cell(side: Mapping[str, Any], row: Row) -> str:
    value = _value(side, row.keys)
    if value is None or isinstance(value, str):
        return ABSENT
    ends = _value(side, row.interval) if row.interval else None
    return f"{value:{row.form}}" + (f" ({ends[0]:{row.form}} to {ends[1]:{row.form}})" if ends else "")


def _value(side: Mapping[str, Any], keys: Sequence[str]) -> Any:
    found: Any = side
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
