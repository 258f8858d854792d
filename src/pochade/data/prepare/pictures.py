"""From a source to a data set on disk: shards or a plain folder, a report, and a sheet of examples."""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from PIL import Image

from pochade.data.dataset import Dataset, check_size, is_held_out, split_of
from pochade.data.progress import progress_bar
from pochade.data.report import MAX_SKIPPED, Report
from pochade.data.sources import CIFAR10Source, FolderSource, OpenClipArtSource, OpenMojiSource
from pochade.data.sources.hub import Rows, open_rows
from pochade.data.sources.image_files import Reading
from pochade.data.sources.shards import Record, ShardWriter
from pochade.errors import FailureError, PochadeError, nearest
from pochade.files import atomic_file, atomic_folder, write_json
from pochade.images.decode import MAX_MEGAPIXELS, BadImage, load_image, square
from pochade.images.sheets import sheet

SOURCES = ("openmoji", "openclipart", "folder", "cifar10", "datasets")
SPLITS = ("both", "train", "held_out", "all")
FORMATS = ("shards", "folder")
REPORT, PREVIEW = "report.json", "preview.png"
PREVIEW_CELLS = 64
FIRST_ROWS = 1000
"""Until so many rows are read, the share of the skipped is taken of this number."""


def prepare(
    source: str,
    out: Path | str,
    *,
    size: int,
    path: Path | str | None = None,
    split: str = "both",
    format: str = "shards",
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    samples_per_shard: int = 1000,
    background: str = "white",
    max_megapixels: float = MAX_MEGAPIXELS,
    max_skipped: float = MAX_SKIPPED,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes ``out/train`` and ``out/held_out``, ``report.json`` and ``preview.png``; returns the report.

    All is written beside ``out`` first and takes its name at the end: after an error or Ctrl-C ``out`` is
    as it was.

    Args:
        source: "openmoji"; with a ``path`` "openclipart" (its SVG files), "folder" (pictures or shards, see
            `open_folder`), "cifar10", or "datasets" (a name on the Hugging Face hub, or a folder or file that the
            library ``datasets`` reads; see `pochade.data.sources.hub`).
        size: rows and columns of the stored pictures (PNG) in pixels.
        split: "both", or one of "train", "held_out", "all", which is then the only subfolder.
        format: "shards" (WebDataset), or "folder": ``name.png`` beside ``name.txt``, without classes.
        config, columns: which configuration of a data set of ``datasets``, and which of its columns are "image",
            "caption" and "label".
        limit: at most so many pictures of a split, spread evenly over it; of ``datasets`` the first of it.
        overwrite: replace what an earlier call wrote; a folder with anything else in it is never touched.

    Raises:
        PochadeError: wrong use, before anything is written.
        FailureError: too many unusable pictures (the report is named), or the disk is full.
    """
    out = Path(out)
    _check_arguments(source, out, size=size, path=path, split=split, format=format, limit=limit, overwrite=overwrite)
    if source != "datasets" and (config or columns):
        raise PochadeError(f"{'config' if config else 'columns'}: given, but goes with the source datasets only")
    splits = ("train", "held_out") if split == "both" else (split,)
    reading = {"background": background, "max_megapixels": max_megapixels, "progress": progress}
    reading["max_skipped"] = max_skipped
    rows = open_rows(str(path), config, columns or {}) if source == "datasets" else None
    parts = {s: _open(source, path, s, reading) for s in splits} if rows is None else {}
    if format == "folder" and not (rows.captioned if rows else not any(part.classes for part in parts.values())):
        raise PochadeError(f"format: folder given, but {path} has classes and no captions: allowed is shards")
    with atomic_folder(out, replace=True) as partial:
        counts = dict.fromkeys(splits, 0)
        examples: list[tuple[Image.Image, str]] = []

        def writer(name: str, classes: Sequence[str]) -> "ShardWriter | _FolderWriter":
            folder = partial / name
            return ShardWriter(folder, samples_per_shard, classes) if format == "shards" else _FolderWriter(folder)

        for name, part in parts.items():
            chosen = spread(len(part), limit)
            with writer(name, part.class_names) as target:
                for record in _records(part, chosen, size, name, progress, examples):
                    target.add(record)
            counts[name] = len(chosen)
        read = None
        for part in parts.values():
            read = part.report and part.report.to_dict()
        if rows is not None:
            report_file = out.with_name(f"{out.name}-skipped.json")
            told = Report(rows.name, report_file, total=FIRST_ROWS, max_skipped=max_skipped)
            with ExitStack() as open_writers:
                targets = {name: open_writers.enter_context(writer(name, rows.classes)) for name in splits}
                for name, record in _read_rows(rows, told, counts, limit, size, reading, examples):
                    targets[name].add(record)
            read = told.to_dict()
        report = {
            "source": source,
            "path": None if path is None else str(path),
            "size": size,
            "format": format,
            "samples": counts,
            "reading": read,
        }
        write_json(partial / REPORT, report)
        with atomic_file(partial / PREVIEW) as file:
            sheet([i for i, _ in examples], [c for _, c in examples]).save(file, "PNG")
    return report


def _check_arguments(
    source: str,
    out: Path,
    *,
    size: int,
    path: Path | str | None,
    split: str,
    format: str,
    limit: int | None,
    overwrite: bool,
) -> None:
    choices = (("source", source, SOURCES), ("split", split, SPLITS), ("format", format, FORMATS))
    for what, given, allowed in choices:
        if given not in allowed:
            known = f"allowed are {', '.join(allowed)}{nearest(given, allowed)}"
            raise PochadeError(f"{what}: {given!r} given, {known}")
    check_size(size)
    if limit is not None and limit < 1:
        raise PochadeError(f"limit: {limit} given, at least 1 expected")
    if (path is None) != (source == "openmoji"):
        raise PochadeError(f"path: {source} {'needs one' if path is None else 'takes none'}, {path} given")
    check_out(out, path if path is not None and Path(path).exists() else None, overwrite)


def check_out(out: Path, path: Path | str | None, overwrite: bool) -> None:
    """Raises PochadeError where ``out`` may not be written: a file, filled, or one with the source ``path``."""
    if out.exists() and not out.is_dir():
        raise PochadeError(f"out: {out} is a file")
    inside = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if inside and not overwrite:
        raise PochadeError(f"out: {out} is not empty; choose another folder, or overwrite")
    if inside and (REPORT not in inside or inside - {"train", "held_out", "all", REPORT, PREVIEW}):
        raise PochadeError(f"out: {out} holds more than an earlier data set and will not be overwritten")
    if path is not None:
        here, there = out.resolve(), Path(path).resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise PochadeError(f"out: {out} and the source {path} lie within each other")


def _open(source: str, path: Path | str | None, split: str, reading: dict[str, Any]) -> Dataset:
    place = Path(path or "")
    sources = {"cifar10": CIFAR10Source(place), "openclipart": OpenClipArtSource(place), "folder": FolderSource(place)}
    options = {key: value for key, value in reading.items() if key != "progress"}
    opened = sources.get(source, OpenMojiSource())
    return opened.open(split, progress=reading["progress"], reading=Reading(**options))  # pyright: ignore


def spread(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` of the numbers below ``count``, at even distances."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _records(
    part: Dataset, chosen: list[int], size: int, title: str, progress: bool, examples: list[tuple[Image.Image, str]]
) -> Iterator[Record]:
    keys: set[str] = set()
    shown = set(spread(len(chosen), PREVIEW_CELLS))
    with progress_bar(progress) as bar:
        for number, index in enumerate(bar.track(chosen, description=f"writing {title}")):
            image, item = part.image(index, size), part.stored(index)
            if number in shown and len(examples) < PREVIEW_CELLS:
                examples.append((image, _words(item.captions, item.label, part.class_names)))
            key = _key(item.name, keys)
            yield Record(png(image), ".png", item.captions, key, item.label, item.group, item.split, item.licence)


def _read_rows(
    rows: Rows,
    report: Report,
    counts: dict[str, int],
    limit: int | None,
    size: int,
    reading: dict[str, Any],
    examples: list[tuple[Image.Image, str]],
) -> Iterator[tuple[str, Record]]:
    """The rows, each with the split of ``counts`` that it belongs to, until each split has ``limit``; counts them."""
    with progress_bar(reading["progress"]) as bar:
        task = bar.add_task(f"reading {rows.name}", total=None)
        for number, row in enumerate(rows):
            bar.advance(task)
            held_out = is_held_out(row.captions[0].casefold() if row.captions else row.name)
            split = "all" if "all" in counts else "held_out" if held_out else "train"
            if limit is not None and all(count >= limit for count in counts.values()):
                break
            report.total = max(FIRST_ROWS, number + 1)
            if split not in counts or (limit is not None and counts[split] >= limit):
                continue
            try:
                image, conversions = load_image(
                    row.read(),
                    size=size,
                    max_megapixels=reading["max_megapixels"],
                    background=reading["background"],
                    name=row.name,
                )
            except BadImage as error:
                report.skip_image(error)
                report.check()
                continue
            if not row.captions and row.label is None:
                report.skip(row.name, "no caption" if rows.captioned else "no class")
                report.check()
                continue
            report.use(conversions)
            counts[split] += 1
            image = square(image, size)
            if len(examples) < PREVIEW_CELLS:
                examples.append((image, _words(row.captions, row.label, rows.classes)))
            group = row.captions[0].casefold() if row.captions else row.name
            yield split, Record(png(image), ".png", row.captions, f"{number:09d}", row.label, group, split_of(group))
    report.total = report.used + report.skipped_count
    report.check()
    if not report.used:
        raise FailureError(f"path: {rows.name} holds no usable row")


def _words(captions: Sequence[str], label: int | None, classes: Sequence[str]) -> str:
    if captions:
        return captions[0]
    assert label is not None
    return classes[label] if classes else str(label)


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


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


class _FolderWriter:
    """Writes a picture and its captions at a time, as ``ShardWriter`` does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        return self

    def add(self, record: Record) -> None:
        name = f"{record.key}{record.suffix}"
        (self.folder / name).write_bytes(record.image)
        facts = {"text": list(record.captions), "group": record.group, "split": record.split, "licence": record.licence}
        row = {"file_name": name, **{key: value for key, value in facts.items() if value}}
        self._lines.append(json.dumps(row, ensure_ascii=False) + "\n")

    def __exit__(self, *_: object) -> None:
        (self.folder / "metadata.jsonl").write_text("".join(self._lines), encoding="utf-8")
