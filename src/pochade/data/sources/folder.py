"""A folder of pictures: with lists of captions, with a caption file beside each, or with a subfolder for each class."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pochade.data.dataset import Split
from pochade.data.report import Report, readable
from pochade.data.sources.class_names import CLASSES, MOST_CLASSES, read_class_names
from pochade.data.sources.formats import (
    CAPTION_KEYS,
    LIST,
    PICTURES,
    PREPARED,
    READABLE,
    SPLIT_NAMES,
    clean,
    decode_text,
    read_facts,
    split_folders,
    split_name,
)
from pochade.data.sources.image_files import CheckedPictures, ImageFiles, Picture, Reading, skip_all
from pochade.data.sources.walk import files_below
from pochade.data.store import store_for
from pochade.errors import PochadeError
from pochade.files import is_safe_name

LISTS = (LIST, "metadata.csv")
CAPTION_SUFFIXES = (".txt", ".caption")
EXPECTED = (
    f"expected name.txt beside each picture (a caption a line), or {LIST} with a line "
    '{"file_name": "name.jpg", "text": "a caption"} for each, or a subfolder for each class'
)
_REPEATED = re.compile(r"\d+_\D")
"""What another trainer calls its folders: how often their pictures are repeated, and what they show."""


class _Candidate(NamedTuple):
    """A picture, the name of its class, and, where it has no captions, the reason and a detail."""

    picture: Picture
    class_name: str = ""
    lacking: tuple[str, str] = ("", "")


@dataclass
class _Found:
    """What a folder holds: candidates, what is skipped (name, reason, detail, samples), and notes (what, name)."""

    candidates: list[_Candidate] = field(default_factory=list)
    skipped: list[tuple[str, str, str, int]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Tree:
    """The files below a folder by what they are for, as names in the folder with slashes."""

    pictures: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    """Caption files, by the name of the picture without its suffix, or with it."""


def open_folder(path: Path, split: Split, *, classes: bool | None = None, reading: Reading | None = None) -> ImageFiles:
    """The captioned pictures of a folder and its subfolders.

    Captions are the lines of ``name.txt`` beside ``name.jpg`` (or of ``name.jpg.txt``, ``name.caption``). Or a list
    names pictures below its own folder: ``metadata.jsonl``, lines ``{"file_name": ..., "text": a string or a list}``
    with, optionally, "group", "split", "licence" and "label", the name of a class; or the same in ``metadata.csv``.
    Pictures in the folder of a list that it does not name are no part of the data.

    Where no picture has a caption and all lie directly in one of several subfolders, these are classes in the order of
    their names. A split that is not stored is that of a top subfolder called train, held_out, test or validation, where
    there are two sides of them; else it goes by the group. Every file is used, skipped with a reason, or noted.

    Args:
        classes: whether the data set is one of classes; None: where there are no captions.

    Raises:
        PochadeError: no such folder, no pictures, neither captions nor classes, a listed name that leaves the folder.
        EmptySplitError: no picture is of the split.
        FailureError: too many are unusable; the report's file is named.
    """
    reading = reading or Reading()
    if not path.is_dir():
        raise PochadeError(f"folder: {path} is no folder")
    found = _Found()
    tree = _read_tree(path, found)
    listed = _read_lists(path, tree, found)
    _read_captions(path, tree, listed, found)
    sides = split_folders(_top(candidate.picture.name) for candidate in found.candidates)
    captioned = bool(tree.lists) or any(candidate.picture.captions for candidate in found.candidates)
    if (classes and not any(candidate.class_name for candidate in found.candidates)) or not captioned:
        _name_by_folder(found, sides, bool(classes))
    names = _class_names(path, tree, found)
    numbers = {str(number): number for number in range(len(names))} | {name: n for n, name in enumerate(names)}
    pictures: list[Picture] = []
    for picture, class_name, lacking in found.candidates:
        if class_name and class_name not in numbers:
            found.skipped.append((picture.name, "unknown class", class_name, 1))
        elif picture.captions or class_name:
            label = numbers.get(class_name)
            pictures.append(replace(picture, label=label, split=picture.split or sides.get(_top(picture.name), "")))
        else:
            found.skipped.append((picture.name, *lacking, 1))
    if not pictures:
        raise PochadeError(f"folder: {path} holds {_nothing(found)}: {EXPECTED}")
    store = store_for(path)
    total = len(pictures) + len(found.skipped)
    report = Report(str(path), store / "report.json", total=total, max_skipped=reading.max_skipped)
    skip_all(report, found.skipped)
    for what, name in found.notes:
        report.note(what, name)
    records = CheckedPictures(pictures, report, store, reading)
    return ImageFiles(records, names or None, report, split=split, classes=classes, reading=reading)


def _class_names(folder: Path, tree: _Tree, found: _Found) -> list[str]:
    """The names of the classes in their order: as beside the lists, or sorted; those that are numbers, all up to the
    largest."""
    given = read_class_names({(folder / name).parent for name in tree.lists})
    if given is not None:
        return given
    names = {candidate.class_name for candidate in found.candidates} - {""}
    if tree.lists and names and all(name.isdecimal() and int(name) < MOST_CLASSES for name in names):
        return [str(number) for number in range(max(map(int, names)) + 1)]
    return sorted(names)


def _nothing(found: _Found) -> str:
    """What there is in a folder without a usable picture."""
    count = len(found.skipped)
    tops = {_top(candidate.picture.name) for candidate in found.candidates}
    repeated = [top for top in sorted(tops) if _REPEATED.match(top)]
    if repeated:
        return f"{count} pictures but no captions ({repeated[0]!r} is a class for classes:FOLDER only)"
    return f"{count} pictures but no captions" if count else "no pictures"


def _read_tree(folder: Path, found: _Found) -> _Tree:
    """All files by what they are for; those for nothing are noted."""
    tree = _Tree()
    files = files_below(folder)
    passed_over = PREPARED if PREPARED[0] in files.names else ()
    found.skipped += [(name, "unreadable folder", reason, 1) for name, reason in files.unreadable]
    found.notes += [("hidden folder", name) for name in files.hidden_folders]
    found.notes += [("hidden file", name) for name in files.hidden]
    for name in files.names:
        (stem, suffix), base = split_name(name), name.rpartition("/")[2]
        if name in passed_over:
            continue
        if base in CLASSES:
            continue  # read where there are lists
        if base in LISTS:
            tree.lists.append(name)
        elif suffix in PICTURES:
            tree.pictures.append(name)
        elif suffix in CAPTION_SUFFIXES:
            # Of two files for one picture, .txt counts.
            if stem not in tree.captions or suffix == CAPTION_SUFFIXES[0]:
                tree.captions[stem] = name
        else:
            found.notes.append(("file that is no picture, caption or list", name))
    return tree


def _read_lists(folder: Path, tree: _Tree, found: _Found) -> set[str]:
    """Enters the facts of the lists; the pictures that they name."""
    seen: set[str] = set()
    known = set(tree.pictures)
    spelled = {name.casefold(): name for name in tree.pictures}
    for listed in tree.lists:
        inside = PurePosixPath(listed).parent
        for number, row in _rows(folder / listed):
            where = f"{listed} line {number}"
            try:
                if isinstance(row, Exception):
                    raise row
                facts = read_facts(row)
                file_name, label = row["file_name"], row.get("label")
                if not isinstance(file_name, str):
                    raise TypeError("file_name is no string")
                if not row.keys() & {*CAPTION_KEYS, "label"}:
                    raise KeyError(CAPTION_KEYS[0])
            except (ValueError, KeyError, TypeError) as error:
                found.skipped.append((where, "unreadable line", f"{type(error).__name__}: {error}", 1))
                continue
            if not is_safe_name(file_name):
                raise PochadeError(f"{folder / listed} line {number}: file_name {file_name!r} leaves the folder")
            name = (inside / file_name).as_posix()
            suffix = PurePosixPath(name).suffix.lower()
            if name in seen:
                found.skipped.append((where, "listed twice", name, 1))
                continue
            seen.add(name)
            if suffix not in READABLE:
                found.skipped.append((name, "unsupported format", suffix, 1))
            elif name not in known and not (folder / name).is_file():
                other = spelled.get(name.casefold())
                found.skipped.append((name, "missing file", f"{where}; there is {other}" if other else where, 1))
            else:
                class_name = "" if label is None else " ".join(str(label).split())
                picture = Picture(name, folder / name, facts.captions, None, facts.group, facts.split, facts.licence)
                found.candidates.append(_Candidate(picture, class_name, ("empty caption", where)))
    return seen


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a list with their numbers, each an object, or the error that reading it gave."""
    if path.suffix == ".csv":
        text, _ = decode_text(path.read_bytes())
        for number, row in enumerate(csv.DictReader(text.splitlines()), 2):
            yield number, {key: value for key, value in row.items() if value}
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line.decode("utf-8-sig"))
                except ValueError as error:
                    yield number, error


def _read_captions(folder: Path, tree: _Tree, listed: set[str], found: _Found) -> None:
    """Enters the pictures that no list names, with the captions beside them."""
    governed = {PurePosixPath(name).parent for name in tree.lists}
    used: set[str] = set()
    for name in tree.pictures:
        stem, suffix = split_name(name)
        if name in listed:
            continue
        if governed and not governed.isdisjoint(PurePosixPath(name).parents):
            found.notes.append(("picture that the list of its folder does not name", name))
            continue
        if suffix not in READABLE:
            found.skipped.append((name, "unsupported format", suffix, 1))
            continue
        beside = tree.captions.get(stem, tree.captions.get(name))
        captions: tuple[str, ...] = ()
        if beside is None:
            lacking = ("no caption", f"no {PurePosixPath(stem).name}{CAPTION_SUFFIXES[0]}")
        else:
            used.add(beside)
            lacking = ("empty caption", "")
            try:
                text, note = decode_text((folder / beside).read_bytes())
            except (OSError, ValueError) as error:
                lacking = ("unreadable caption", str(error))
            else:
                captions = clean(text.splitlines())
                found.notes += [(note, beside)] if note else []
        found.candidates.append(_Candidate(Picture(name, folder / name, captions), "", lacking))
    left = (name for name in tree.captions.values() if name not in used)
    found.notes += [("caption file without a picture", name) for name in left]


def _name_by_folder(found: _Found, sides: dict[str, Split], wanted: bool) -> None:
    """Gives each picture the subfolder that it lies in directly as its class, where these are classes.

    Unless classes are ``wanted``, there must be several of them, no picture elsewhere, and other names than those of
    splits and of repetitions.
    """
    names = [candidate.picture.name for candidate in found.candidates]
    below = [name.partition("/")[2] if sides else name for name in names]
    tops = [_top(name) if name.count("/") == 1 else "" for name in below]
    different = set(tops) - {""}
    if not wanted and ("" in tops or len(different) == 1 or different <= set(SPLIT_NAMES)):
        return
    if not wanted and all(_REPEATED.match(top) for top in different):
        return
    reason = ("no class", "not directly in a subfolder") if wanted else ("", "")
    found.candidates = [
        candidate._replace(class_name=readable(top), lacking=reason)
        for candidate, top in zip(found.candidates, tops, strict=True)
    ]


def _top(name: str) -> str:
    """The subfolder that a name starts with; "" for what lies in none."""
    return name.partition("/")[0] if "/" in name else ""
