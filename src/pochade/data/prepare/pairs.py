"""From a source of pairs to a data set of pairs on disk, with a report and a sheet of examples."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pochade.data.dataset import Split, split_of
from pochade.data.prepare.target import Sample, Target, check_apart, evenly_spaced, png
from pochade.data.prepare.writer import Record
from pochade.data.progress import ahead
from pochade.data.report import Report
from pochade.data.sources.image_files import Reading
from pochade.data.sources.pairs import PairSource
from pochade.data.sources.pairs.pair import Found, Pair, PairDataset, PairFiles
from pochade.data.sources.pairs.stored import LIST
from pochade.data.sources.tars import Skipped
from pochade.errors import EmptySplitError, FailureError
from pochade.images.decode import BadImage

SHOWN, COLUMNS = 24, 9
"""Pairs on the sheet, and its columns: three pictures of three pairs."""
FIRST_PAIRS = 1000
"""Until so many pairs are read, the fraction of the skipped is taken of this number."""


def prepare_pairs(
    source: PairSource | PairFiles, target: Target, *, reading: Reading | None = None, progress: bool = True
) -> dict[str, Any]:
    """Writes the pairs of a source; returns the report.

    Each pair keeps its instructions, task, group and split. Of a source that draws its pairs a ``limit`` may be more
    than there are of it, and as many are drawn; without one each is drawn once. Of files the first ones are taken.

    Raises:
        PochadeError: wrong use, before anything is written.
        EmptySplitError: there are no pairs of a split.
        FailureError: too many unusable pairs (the report is named), or the disk is full.
    """
    reading = reading or Reading()
    for path in source.paths():
        check_apart(target.out, path)
    report: Report | None = None
    total: int | None = None
    if isinstance(source, PairFiles):
        report = Report(str(source), target.skipped, total=FIRST_PAIRS, max_skipped=reading.max_skipped)
        samples = _from_files(source, source.candidates(progress), report, target, reading)
    else:
        # Opened before the first pair is drawn: errors are raised before anything is written.
        opened: dict[Split, PairDataset] = {
            part: source.open(target.size, part, progress=progress, reading=reading) for part in target.parts
        }
        samples = _drawn(opened, target)
        total = sum(len(data) if target.limit is None else target.limit for data in opened.values())

    def facts() -> dict[str, Any]:
        return {"source": str(source), "reading": None if report is None else report.to_dict()}

    return target.write(samples, facts, name=LIST, shown=SHOWN, columns=COLUMNS, total=total, progress=progress)


def _drawn(opened: dict[Split, PairDataset], target: Target) -> Iterator[Sample]:
    for part, data in opened.items():
        count = len(data) if target.limit is None else target.limit
        order = evenly_spaced(len(data), count)

        def drawn(number: int, data: PairDataset = data, order: Sequence[int] = order) -> tuple[Pair, dict[str, bytes]]:
            pair = data.pair(order[number % len(order)], np.random.default_rng([0, number]))
            return pair, _images(pair)

        for number, (pair, images) in ahead(drawn, range(count)):
            yield _sample(part, number, pair, images, (pair.instruction,))


def _from_files(
    source: PairFiles,
    candidates: Iterator[Found | Skipped],
    report: Report,
    target: Target,
    reading: Reading,
) -> Iterator[Sample]:
    """The pairs, until each part has as many as the limit allows; what is skipped goes into the report."""
    counts = dict.fromkeys(target.parts, 0)

    def full(part: Split) -> bool:
        return target.limit is not None and counts[part] >= target.limit

    def wanted() -> Iterator[tuple[int, Found | Skipped, Split | None]]:
        for number, found in enumerate(candidates):
            if all(map(full, counts)):
                return
            if not isinstance(found, Found):
                yield number, found, None
                continue
            part = target.part_of(found.split or split_of(found.group))
            if part is not None and not full(part):
                yield number, found, part

    def load(candidate: tuple[int, Found | Skipped, Split | None]) -> _Loaded | Skipped:
        found = candidate[1]
        if not isinstance(found, Found):
            return found
        try:
            pair, conversions = found.load(target.size, (found.instructions or ("",))[0], reading)
        except BadImage as error:
            return found.name, error.reason, f"{error.name}: {error.detail}", 1
        if pair.source.tobytes() == pair.target.tobytes():
            return found.name, "no change", "", 1
        return _Loaded(pair, _images(pair), found.instructions, conversions)

    for (number, _, part), loaded in ahead(load, wanted()):
        report.total = max(FIRST_PAIRS, number + 1)
        if not isinstance(loaded, _Loaded):
            name, reason, detail, samples = loaded
            report.skip(name, reason, detail, samples=samples)
            report.check()
        elif part is not None and not full(part):
            report.use(loaded.conversions)
            yield _sample(part, counts[part], loaded.pair, loaded.images, loaded.instructions)
            counts[part] += 1
    report.total = report.used + report.skipped_count
    report.check()
    if not report.used:
        raise FailureError(f"path: {source} holds no usable pair of the split {target.split}")
    for part, count in counts.items():
        if not count:
            raise EmptySplitError(part, str(source), report.used)


class _Loaded(NamedTuple):
    """A pair of files that is to be written, and the conversions that its pictures took."""

    pair: Pair
    images: dict[str, bytes]
    instructions: tuple[str, ...]
    conversions: tuple[str, ...]


def _images(pair: Pair) -> dict[str, bytes]:
    """The files of a pair by their suffixes."""
    mask = {} if pair.mask is None else {".mask.png": png(pair.mask)}
    return {".source.png": png(pair.source), ".target.png": png(pair.target), **mask}


def _sample(part: Split, number: int, pair: Pair, images: dict[str, bytes], instructions: tuple[str, ...]) -> Sample:
    facts = {"instruction": list(instructions), "task": pair.task, "group": pair.group, "split": pair.split}
    record = Record(f"{number:09d}", images, {**facts, "name": pair.name})
    shown = Image.new("L", pair.target.size, 230) if pair.mask is None else pair.mask
    words = [pair.instruction, pair.task.replace("_", " "), ""]
    return Sample(part, record, [pair.source, shown, pair.target], words, pair.task)
