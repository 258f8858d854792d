"""Lists of the pictures in a folder and their captions, in the usual forms."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pochade.data.sources.formats import CAPTION_KEYS, PICTURES, Facts, decode_text, known_key, lowered, read_facts
from pochade.errors import PochadeError, missing_extra

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LISTS = tuple(f"metadata{suffix}" for suffix in SUFFIXES)
"""What the list of a folder may be called, in letters of any case."""
FILE_KEYS = ("file_name", "filename", "file", "image", "path")
"""What a list may call the file of a picture, the first that there is."""
EXPECTED = f"expected are {FILE_KEYS[0]}, and {', '.join(CAPTION_KEYS)} or label"


class Entry(NamedTuple):
    """What a list says of a picture.

    ``where`` is its place in the list, ``key`` what the list calls its captions, or "" where it has none.
    """

    where: str
    file_name: str
    facts: Facts
    class_name: str
    key: str


class BadEntry(NamedTuple):
    """An entry that cannot be used, and why."""

    where: str
    reason: str


def is_list(name: str, folder: Path) -> bool:
    """Whether the file ``name`` in ``folder`` is a list; a .json may be something else, which is looked up."""
    base = PurePosixPath(name).name.casefold()
    return base in LISTS and (not base.endswith(".json") or _json_rows(folder / name) is not None)


def read_list(path: Path) -> list[Entry | BadEntry]:
    """The entries of a list in their order.

    Lines of JSON, an array of objects or an object by the names of files (.jsonl, .json), a table with a first line of
    names, separated by commas, semicolons or tabs (.csv), or Parquet, of which only the columns that are needed are
    read. Keys are those of ``FILE_KEYS``, ``CAPTION_KEYS`` and "label", in letters of any case, beside "group", "split"
    and "licence"; every other number is a score of the picture.

    Raises:
        PochadeError: it cannot be read, it is empty, no entry names a file with a caption or a label, or one has an
            unknown split.
    """
    try:
        rows = list(_rows(path))
    except (OSError, ValueError, TypeError) as error:
        raise PochadeError(f"{path}: cannot be read as a list ({error})") from error
    if not rows:
        raise PochadeError(f"{path}: an empty list")
    entries = [_entry(path, where, row) for where, row in rows]
    if all(isinstance(entry, BadEntry) for entry in entries):
        keys = dict.fromkeys(key for _, row in rows if isinstance(row, Mapping) for key in row)
        first = entries[0]
        reason = first.reason if isinstance(first, BadEntry) and not keys else f"its keys are {', '.join(keys)}"
        raise PochadeError(f"{path}: no entry can be used: {reason}; {EXPECTED}")
    return entries


def _entry(path: Path, where: str, row: Any) -> Entry | BadEntry:
    try:
        if isinstance(row, Exception):
            raise row
        facts = read_facts(row, f"{path} {where}")
        values = lowered(row)
        file_key, key = known_key(values, FILE_KEYS), known_key(values, CAPTION_KEYS)
        label = values.get("label")
        if file_key is None:
            raise KeyError(FILE_KEYS[0])
        if not isinstance(values[file_key], str) or not values[file_key]:
            raise TypeError(f"{file_key} is no name")
        if not values.keys() & {*CAPTION_KEYS, "label"}:
            raise KeyError(CAPTION_KEYS[0])
    except PochadeError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        return BadEntry(where, f"{type(error).__name__}: {error}")
    class_name = "" if label is None else " ".join(str(label).split())
    return Entry(where, values[file_key], facts, class_name, key or "")


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry with its place: an object, or the error that reading it gave."""
    match path.suffix.casefold():
        case ".jsonl" | ".json":
            yield from _json_rows(path) or ()
        case ".csv":
            text, _ = decode_text(path.read_bytes())
            head = text.partition("\n")[0]
            table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
            for row in table:
                more = row.pop(None, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
                wrong = ValueError(f"{more[0]!r} is beyond its columns: put quotes around it") if more else None
                yield f"line {table.line_num}", wrong or row
        case _:
            yield from _parquet(path)


def _json_rows(path: Path) -> list[tuple[str, Any]] | None:
    """Each entry of a file of JSON with its place; None for an object in a .json that lists no pictures.

    Raises PochadeError where it cannot be read.
    """
    of_lines = path.suffix.casefold() == ".jsonl"
    data = b""
    try:
        data = path.read_bytes()
        value: Any = json.loads(data)
    except (OSError, ValueError) as error:
        rows = list(_json_lines(data))
        if isinstance(error, ValueError) and (of_lines or (rows and all(isinstance(row, Mapping) for _, row in rows))):
            return rows
        raise PochadeError(f"{path}: cannot be read as a list ({error})") from error
    if isinstance(value, dict) and value and all(PurePosixPath(name).suffix.lower() in PICTURES for name in value):
        value = [
            {FILE_KEYS[0]: name, **(of if isinstance(of, dict) else {CAPTION_KEYS[0]: of})}
            for name, of in value.items()
        ]
    elif of_lines and not isinstance(value, list):
        value = [value]
    return [(f"entry {number}", row) for number, row in enumerate(value, 1)] if isinstance(value, list) else None


def _json_lines(data: bytes) -> Iterator[tuple[str, Any]]:
    """A line each: what it holds, or the error that reading it gave."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                yield f"line {number}", error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException, types
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise missing_extra("pyarrow", "hub") from error
    wanted = {*FILE_KEYS, *CAPTION_KEYS, "label", "group", "split", "licence", "license"}
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            names: Sequence[str] = schema.names
            columns = [
                name
                for name, kind in zip(names, schema.types, strict=True)
                if name.casefold() in wanted or types.is_integer(kind) or types.is_floating(kind)
            ]
            if not columns:
                yield "row 1", dict.fromkeys(names)
            number = 0
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except ArrowException as error:
        raise ValueError(str(error)) from error
