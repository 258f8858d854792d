"""From a source of pictures to a data set on disk: shards or a plain folder, a report, and a sheet of examples."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from pochade.data.dataset import Dataset, Split, split_of
from pochade.data.prepare.target import Sample, Target, png, spread
from pochade.data.prepare.writer import picture_record
from pochade.data.report import Report
from pochade.data.sources import Source
from pochade.data.sources.hub import HubSource, Rows
from pochade.data.sources.image_files import Reading
from pochade.errors import EmptySplitError, FailureError
from pochade.images.decode import BadImage, load_image, square

SHOWN, COLUMNS = 64, 8
FIRST_ROWS = 1000
"""Until so many rows are read, the share of the skipped is taken of this number."""


def prepare(
    source: Source | HubSource, target: Target, *, reading: Reading | None = None, progress: bool = True
) -> dict[str, Any]:
    """Writes the pictures of a source; returns the report.

    Each picture keeps its captions, class, group, split and licence. A ``limit`` takes pictures that are spread evenly
    over the split; of rows of the hub, which are read as a stream, the first ones.

    Raises:
        PochadeError: wrong use, before anything is written.
        EmptySplitError: there are no pictures of a split.
        FailureError: too many unusable pictures (the report is named), or the disk is full.
    """
    reading = reading or Reading()
    for path in source.paths():
        target.check_apart(path)
    facts: dict[str, Any] = {"source": str(source)}
    if isinstance(source, HubSource):
        rows = source.open()
        report = Report(rows.name, target.skipped, total=FIRST_ROWS, max_skipped=reading.max_skipped)
        samples, classes, total = _from_rows(rows, report, target, reading), rows.classes, None
    else:
        parts: dict[Split, Dataset] = {
            part: source.open(part, progress=progress, reading=reading) for part in target.parts
        }
        first = next(iter(parts.values()))
        report, classes = first.report, first.class_names
        samples = _from_datasets(parts, target)
        total = sum(len(spread(len(dataset), target.limit)) for dataset in parts.values())

    def all_facts() -> dict[str, Any]:
        return {**facts, "reading": None if report is None else report.to_dict()}

    return target.write(
        samples, all_facts, class_names=classes, shown=SHOWN, columns=COLUMNS, total=total, progress=progress
    )


def _from_datasets(parts: dict[Split, Dataset], target: Target) -> Iterator[Sample]:
    for part, dataset in parts.items():
        taken: set[str] = set()
        for index in spread(len(dataset), target.limit):
            image, item = dataset.image(index, target.size), dataset.stored(index)
            record = picture_record(
                _key(item.name, taken),
                png(image),
                ".png",
                item.captions,
                label=item.label,
                group=item.group,
                split=item.split,
                licence=item.licence,
            )
            yield Sample(part, record, [image], [_words(item.captions, item.label, dataset.class_names)])


def _from_rows(rows: Rows, report: Report, target: Target, reading: Reading) -> Iterator[Sample]:
    """The rows, until each part has as many as the limit allows; what is skipped goes into the report."""
    counts = dict.fromkeys(target.parts, 0)
    for number, row in enumerate(rows):
        if target.limit is not None and min(counts.values()) >= target.limit:
            break
        group = row.captions[0].casefold() if row.captions else row.name
        split = split_of(group)
        part = target.part_of(split)
        report.total = max(FIRST_ROWS, number + 1)
        if part is None or (target.limit is not None and counts[part] >= target.limit):
            continue
        try:
            image, conversions = _load(row.name, row.read(), target.size, reading)
        except BadImage as error:
            report.skip_image(error)
            report.check()
            continue
        if not row.captions and row.label is None:
            report.skip(row.name, "no caption" if rows.captioned else "no class")
            report.check()
            continue
        report.use(conversions)
        counts[part] += 1
        record = picture_record(
            f"{number:09d}", png(image), ".png", row.captions, label=row.label, group=group, split=split
        )
        yield Sample(part, record, [image], [_words(row.captions, row.label, rows.classes)])
    report.total = report.used + report.skipped_count
    report.check()
    if not report.used:
        raise FailureError(f"path: {rows.name} holds no usable row")
    for part, count in counts.items():
        if not count:
            raise EmptySplitError(part, rows.name, report.used)


def _load(name: str, data: bytes, size: int, reading: Reading) -> tuple[Image.Image, tuple[str, ...]]:
    limit, colour = reading.max_megapixels, reading.colour(name)
    image, conversions = load_image(data, size=size, max_megapixels=limit, background=colour, name=name)
    return square(image, size), conversions


def _words(captions: Sequence[str], label: int | None, classes: Sequence[str]) -> str:
    if captions or label is None:
        return captions[0]
    return classes[label] if classes else str(label)


def _key(name: str, taken: set[str]) -> str:
    """A flat file name without a dot, near to ``name`` and not ``taken`` yet (letter case aside)."""
    stem = re.sub(r"\.(png|jpe?g|webp)$", "", name, flags=re.IGNORECASE)
    base = re.sub(r"[^\w-]+", "_", stem) or "picture"
    key, number = base, 1
    while key.casefold() in taken:
        number += 1
        key = f"{base}-{number}"
    taken.add(key.casefold())
    return key
