"""From a source of pairs to a data set of pairs on disk, with a report and a sheet of examples."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from pochade.data.dataset import check_size, check_split, is_held_out
from pochade.data.prepare import importers
from pochade.data.prepare.pictures import FIRST_ROWS, FORMATS, PREVIEW, REPORT, SPLITS, check_out, png, spread
from pochade.data.progress import progress_bar
from pochade.data.report import MAX_SKIPPED, Report
from pochade.data.sources.pairs.pair import Found, Pair
from pochade.data.sources.pairs.stored import LIST, StoredPairs, find_pairs
from pochade.data.sources.shards import ShardWriter
from pochade.errors import FailureError, PochadeError, nearest
from pochade.files import atomic_file, atomic_folder, write_bytes, write_json
from pochade.images.decode import MAX_MEGAPIXELS, BadImage
from pochade.images.sheets import sheet

SOURCES = ("openmoji", "folder", "instructpix2pix", "magicbrush")
PREVIEW_PAIRS = 24
PAIRS_PER_SHARD = 1000


def prepare_pairs(
    source: str,
    out: Path | str,
    *,
    size: int,
    path: Path | str | None = None,
    split: str = "both",
    format: str = "shards",
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    max_skipped: float = MAX_SKIPPED,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes ``out/train`` and ``out/held_out``, ``report.json`` and ``preview.png``; returns the report.

    All is written beside ``out`` first and takes its name at the end: after an error or Ctrl-C ``out`` is as it was.

    Args:
        source: "openmoji"; with a ``path`` "folder" (a folder or shards of pairs, see `StoredPairs`),
            "instructpix2pix" or "magicbrush" (a folder in their layout, or what ``datasets`` reads).
        size: rows and columns of the stored pictures (PNG) in pixels.
        split: "both", or one of "train", "held_out", "all", which is then the only subfolder.
        format: "shards" (WebDataset), or "folder": ``pairs.jsonl`` and pictures.
        weights: of the kinds of pairs from "openmoji", see `OpenMojiPairs`.
        limit: so many pairs of a split; from "openmoji", where there is no end of them, also more than it has concepts
            (left out, one for each); of the other sources at most so many, the first ones.
        overwrite: replace what an earlier call wrote; a folder with anything else in it is never touched.

    Raises:
        PochadeError: wrong use, before anything is written.
        FailureError: too many unusable pairs (the report is named), or the disk is full.
    """
    out = Path(out)
    choices = (("source", source, SOURCES), ("split", split, SPLITS), ("format", format, FORMATS))
    for what, given, allowed in choices:
        if given not in allowed:
            raise PochadeError(f"{what}: {given!r} given, allowed are {', '.join(allowed)}{nearest(given, allowed)}")
    check_size(size)
    if limit is not None and limit < 1:
        raise PochadeError(f"limit: {limit} given, at least 1 expected")
    if (path is None) != (source == "openmoji"):
        raise PochadeError(f"path: {source} {'needs one' if path is None else 'takes none'}, {path} given")
    if weights is not None and source != "openmoji":
        raise PochadeError("weights: given, but go with the source openmoji only")
    check_out(out, path if path is not None and Path(path).exists() else None, overwrite)
    splits = ("train", "held_out") if split == "both" else (split,)
    report_file = out.with_name(f"{out.name}-skipped.json")
    told = Report(str(path or source), report_file, total=FIRST_ROWS, max_skipped=max_skipped)
    options = {"max_megapixels": max_megapixels}
    if source == "openmoji":
        pairs = _from_openmoji(splits, size, weights, limit)
    else:
        candidates = _open(source, str(path), told, progress)
        pairs = _from_files(candidates, told, splits, size, limit, options)
    counts = dict.fromkeys(splits, 0)
    tasks: Counter[str] = Counter()
    examples: list[Pair] = []
    with atomic_folder(out, replace=True) as partial:
        with ExitStack() as open_files:
            writers = {s: open_files.enter_context(_Writer(partial / s, format)) for s in splits}
            bar = open_files.enter_context(progress_bar(progress))
            task = bar.add_task("writing pairs", total=None)
            for name, pair, instructions in pairs:
                writers[name].add(pair, instructions)
                bar.advance(task)
                counts[name] += 1
                tasks[pair.task] += 1
                if len(examples) < PREVIEW_PAIRS:
                    examples.append(pair)
        if not examples:
            raise FailureError(f"path: {path or source} holds no usable pair of the split {split}")
        report = {
            "source": source,
            "path": None if path is None else str(path),
            "size": size,
            "format": format,
            "samples": counts,
            "tasks": dict(sorted(tasks.items())),
            "reading": None if source == "openmoji" else told.to_dict(),
        }
        write_json(partial / REPORT, report)
        with atomic_file(partial / PREVIEW) as file:
            pair_sheet(examples).save(file, "PNG")
    return report


def read_kinds(text: str) -> dict[str, float]:
    """``inpaint,mirror=0.5`` as weights, 1 where none is given. Raises PochadeError for another form."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        kind, equals, weight = (word.strip() for word in part.partition("="))
        try:
            weights[kind] = float(weight) if equals else 1.0
        except ValueError as error:
            raise PochadeError(f"kinds: {part!r} given, allowed is KIND or KIND=WEIGHT, joined by commas") from error
    return weights


def open_pairs(path: Path | str, size: int, split: str = "all", **options: Any) -> StoredPairs:
    """The pairs in a folder: one that `prepare_pairs` wrote, shards, or ``pairs.jsonl`` with pictures.

    ``split`` is "train", "held_out" or "all"; of a prepared folder it is the part of that name, as it was split then.
    ``options`` and errors are those of `StoredPairs`.
    """
    path = Path(path)
    check_split(split)
    parts = [name for name in SPLITS if (path / name).is_dir()] if (path / REPORT).is_file() else []
    if split in parts:
        path, split = path / split, "all"
    elif parts == ["all"]:
        path = path / "all"
    elif parts:
        raise PochadeError(f"split: {split!r} given, {path} was prepared with {' and '.join(parts)}")
    return StoredPairs(path, size, split=split, **options)


def pair_sheet(pairs: list[Pair], columns: int = 3) -> Image.Image:
    """Source, mask and target of each pair beside each other, with instruction and task below."""
    images: list[Image.Image] = []
    captions: list[str] = []
    for pair in pairs:
        mask = Image.new("L", pair.target.size, 230) if pair.mask is None else pair.mask
        images += [pair.source, mask, pair.target]
        captions += [pair.instruction, pair.task.replace("_", " "), ""]
    return sheet(images, captions, columns=3 * columns, cell=112)


class _Writer:
    """Writes pairs into a new folder, as shards or as a list with pictures."""

    def __init__(self, folder: Path, format: str) -> None:
        folder.mkdir()
        self.folder = folder
        self._shards = ShardWriter(folder, PAIRS_PER_SHARD) if format == "shards" else None
        self._list = ExitStack()
        self._file: Any = None
        self._count = 0

    def __enter__(self) -> Self:
        if self._shards is None:
            self._file = self._list.enter_context(atomic_file(self.folder / LIST))
        else:
            self._list.enter_context(self._shards)
        return self

    def add(self, pair: Pair, instructions: tuple[str, ...]) -> None:
        key = f"{self._count:09d}"
        self._count += 1
        pictures = {"source": pair.source, "target": pair.target}
        if pair.mask is not None:
            pictures["mask"] = pair.mask
        told = {"instruction": list(instructions), "task": pair.task, "group": pair.group, "name": pair.name}
        files = {role: png(picture) for role, picture in pictures.items()}
        if self._shards is not None:
            members = {f".{role}.png": data for role, data in files.items()}
            self._shards.write(key, {**members, ".json": json.dumps(told, ensure_ascii=False).encode()})
            return
        for role, data in files.items():
            write_bytes(self.folder / f"{key}-{role}.png", data)
        row = {**{role: f"{key}-{role}.png" for role in files}, **told}
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def __exit__(self, *error: Any) -> None:
        self._list.__exit__(*error)


_Written = tuple[str, Pair, tuple[str, ...]]
"""Split, pair, all its instructions."""


def _from_openmoji(
    splits: tuple[str, ...], size: int, weights: Mapping[str, float] | None, limit: int | None
) -> Iterator[_Written]:
    from pochade.data.sources.pairs.openmoji import OpenMojiPairs

    # Opened before the first pair is asked for: what is wrong is said before anything is written.
    opened = {name: OpenMojiPairs(size, name, weights) for name in splits}  # pyright: ignore[reportArgumentType]

    def pairs() -> Iterator[_Written]:
        for name, data in opened.items():
            count = len(data) if limit is None else limit
            order = spread(len(data), count)
            for number in range(count):
                pair = data.pair(order[number % len(order)], np.random.default_rng([0, number]))
                yield name, pair, (pair.instruction,)

    return pairs()


def _open(source: str, path: str, report: Report, progress: bool) -> importers.Candidates:
    """What the source holds; its number goes into the report, where it is known."""
    if source == "folder":
        _, found, skipped = find_pairs(path, progress)
        report.total = len(found) + sum(entry[3] for entry in skipped)
        return iter([*skipped, *found])
    return importers.instructpix2pix(path) if source == "instructpix2pix" else importers.magicbrush(path)


def _from_files(
    candidates: importers.Candidates,
    report: Report,
    splits: tuple[str, ...],
    size: int,
    limit: int | None,
    options: dict[str, Any],
) -> Iterator[_Written]:
    """The pairs, each with its split, until each split has ``limit``; what is skipped goes into the report."""
    counts = dict.fromkeys(splits, 0)
    for number, found in enumerate(candidates):
        if limit is not None and all(count >= limit for count in counts.values()):
            break
        report.total = max(report.total, number + 1)
        if not isinstance(found, Found):
            name, reason, detail, samples = found
            report.skip(name, reason, detail, samples=samples)
            continue
        split = "all" if "all" in counts else "held_out" if is_held_out(found.group) else "train"
        if split not in counts or (limit is not None and counts[split] >= limit):
            continue
        try:
            pair, conversions = found.load(size, (found.instructions or ("",))[0], **options)
        except BadImage as error:
            report.skip(found.name, error.reason, f"{error.name}: {error.detail}")
            continue
        if pair.source.tobytes() == pair.target.tobytes():
            report.skip(found.name, "no change")
            continue
        report.use(conversions)
        counts[split] += 1
        yield split, pair, found.instructions
    report.total = report.used + report.skipped_count
    report.check()
