"""From a source of pictures to a data set on disk: shards or a plain folder, a report, and a sheet of examples."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from pochade.data.dataset import Dataset, Split, split_of
from pochade.data.prepare.target import Sample, Target, check_apart, evenly_spaced, png
from pochade.data.prepare.writer import picture_record
from pochade.data.progress import ahead
from pochade.data.report import Report
from pochade.data.sources import Source
from pochade.data.sources.formats import READABLE, split_name
from pochade.data.sources.hub import HubSource, Row, Rows
from pochade.data.sources.image_files import Reading
from pochade.errors import EmptySplitError, FailureError
from pochade.images.decode import BadImage, load_image, square

SHOWN, COLUMNS = 64, 8
FIRST_ROWS = 1000
"""Until so many rows are read, the fraction of the skipped is taken of this number."""


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
        check_apart(target.out, path)
    facts: dict[str, Any] = {"source": str(source)}
    if isinstance(source, HubSource):
        rows = source.open()
        report = Report(rows.name, target.skipped, total=FIRST_ROWS, max_skipped=reading.max_skipped)
        samples = _from_rows(rows, report, target, reading, source.least_score)
        classes, total = rows.classes, None
    else:
        parts: dict[Split, Dataset] = {
            part: source.open(part, progress=progress, reading=reading) for part in target.parts
        }
        first = next(iter(parts.values()))
        report, classes = first.report, first.class_names
        samples = _from_datasets(parts, target)
        total = sum(len(evenly_spaced(len(dataset), target.limit)) for dataset in parts.values())
        if source.composes and target.split == "both":
            facts["composed"] = len(source.open("composed", progress=False, reading=reading))

    def all_facts() -> dict[str, Any]:
        return {**facts, "reading": None if report is None else report.to_dict()}

    return target.write(
        samples, all_facts, class_names=classes, shown=SHOWN, columns=COLUMNS, total=total, progress=progress
    )


def _from_datasets(parts: dict[Split, Dataset], target: Target) -> Iterator[Sample]:
    for part, dataset in parts.items():
        taken = set[int]()

        def drawn(index: int, dataset: Dataset = dataset) -> tuple[Image.Image, bytes]:
            image = dataset.image(index, target.size)
            return image, png(image)

        for index, (image, data) in ahead(drawn, evenly_spaced(len(dataset), target.limit)):
            item = dataset.stored(index)
            record = picture_record(
                _key(item.name, index, taken),
                data,
                ".png",
                item.captions,
                label=item.label,
                group=item.group,
                split=item.split,
                licence=item.licence,
                scores=item.scores,
            )
            yield Sample(part, record, [image], [_words(item.captions, item.label, dataset.class_names)])


def _from_rows(
    rows: Rows, report: Report, target: Target, reading: Reading, least_score: float | None
) -> Iterator[Sample]:
    """The rows, until each part has as many as the limit allows; what is skipped goes into the report."""
    counts = dict.fromkeys(target.parts, 0)

    def full(part: Split) -> bool:
        return target.limit is not None and counts[part] >= target.limit

    def candidates(note: Callable[[str, str], object]) -> Iterator[tuple[int, Row, str, str, Split]]:
        for number, row in enumerate(rows):
            if all(map(full, counts)):
                return
            if least_score is not None and not (row.score is not None and row.score >= least_score):
                note("low score", row.name)
                continue
            group = row.captions[0].casefold() if row.captions else row.name
            part = target.part_of(split := row.split or split_of(group))
            if part is not None and not full(part):
                yield number, row, group, split, part

    def load(candidate: tuple[int, Row, str, str, Split]) -> tuple[Image.Image, bytes, tuple[str, ...]] | BadImage:
        row = candidate[1]
        try:
            if not row.captions and row.label is None:
                raise BadImage(row.name, "no caption" if rows.captioned else "no class")
            limit, colour = reading.max_megapixels, reading.colour(row.name)
            image, conversions = load_image(
                row.read(), size=target.size, max_megapixels=limit, background=colour, name=row.name
            )
        except BadImage as error:
            return error
        image = square(image, target.size)
        return image, png(image), conversions

    if rows.addressed:
        _check_parts((part for *_, part in candidates(lambda *_: None)), target, rows.name)
    for (number, row, group, split, part), found in ahead(load, candidates(report.note)):
        report.total = max(FIRST_ROWS, number + 1)
        if full(part):  # of what was read in advance
            continue
        if isinstance(found, BadImage):
            report.skip_image(found)
            report.check()
            continue
        image, data, conversions = found
        report.use(conversions)
        counts[part] += 1
        record = picture_record(
            f"{number:09d}",
            data,
            ".png",
            row.captions,
            label=row.label,
            group=group,
            split=split,
            scores=() if row.score is None else (("score", row.score),),
        )
        yield Sample(part, record, [image], [_words(row.captions, row.label, rows.classes)])
    report.total = report.used + report.skipped_count
    report.check()
    if not report.used:
        raise FailureError(f"path: {rows.name} holds no usable row")
    for part, count in counts.items():
        if not count:
            raise EmptySplitError(part, rows.name, report.used)


def _check_parts(found: Iterable[Split], target: Target, name: str) -> None:
    """Raises EmptySplitError where no row is of a part that is written, before a picture is fetched. Reads no further
    than to the first row of each."""
    rows = dict.fromkeys(target.parts, 0)
    for part in found:
        rows[part] += 1
        if all(rows.values()):
            return
    if any(rows.values()):
        raise EmptySplitError(min(rows, key=lambda part: rows[part]), name, sum(rows.values()))


def _words(captions: Sequence[str], label: int | None, classes: Sequence[str]) -> str:
    if captions or label is None:
        return captions[0]
    return classes[label] if classes else str(label)


def _key(name: str, index: int, taken: set[int]) -> str:
    """A flat file name without a dot, near to ``name``; where that is ``taken``, by its hash (letter case aside), with
    ``~`` and the picture's index, which no other one ends in."""
    stem, suffix = split_name(name)
    stem = stem if suffix in READABLE else name
    base = re.sub(r"[^\w-]+", "_", stem) or "picture"
    alike = hash(base.casefold())
    if alike in taken:
        return f"{base}~{index}"
    taken.add(alike)
    return base
