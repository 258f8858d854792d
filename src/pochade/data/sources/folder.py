"""A folder of pictures: with lists of captions, with a caption file beside each, or with a subfolder for each class."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from sys import intern
from typing import NamedTuple

from pochade.data.dataset import Split
from pochade.data.report import FILE_NAMES, SHOWN, Report, readable
from pochade.data.sources.class_names import CLASSES, MOST_CLASSES, read_class_names
from pochade.data.sources.formats import (
    CAPTION_SUFFIXES,
    LIST,
    PICTURES,
    PREPARED,
    READABLE,
    clean,
    decode_text,
    side_of,
    split_folders,
    split_name,
)
from pochade.data.sources.image_files import CheckedPictures, ImageFiles, Picture, Reading, skip_all
from pochade.data.sources.lists import BadEntry, is_list, read_list
from pochade.data.sources.walk import files_below
from pochade.data.store import store_for
from pochade.errors import PochadeError
from pochade.files import is_safe_name

EXPECTED = (
    f"expected name.txt beside each picture (a caption a line), or {LIST} with a line "
    '{"file_name": "name.jpg", "text": "a caption"} for each (or the same as .json, .csv or .parquet), or a subfolder '
    "for each class; for an autoencoder, pictures:FOLDER takes all of them by the names of their files"
)
OTHER, LONELY = "file that is no picture, caption or list", "caption file without a picture"
NUMBERED = "folder whose name is a caption and whose number of repetitions is not"
SPELLED = "found by a name in another spelling"
_REPEATED = re.compile(r"\d+_(?=\D)")
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
    of_pictures: list[str] = field(default_factory=list)
    """Caption files that are those of a picture, also of one that is not read, or that lies elsewhere."""


@dataclass
class _Tree:
    """The files below a folder by what they are for, as names in the folder with slashes."""

    pictures: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    """Caption files, by the name of the picture without its suffix, or with it."""


def open_folder(
    path: Path,
    split: Split,
    *,
    classes: bool | None = None,
    by_name: bool = False,
    reading: Reading | None = None,
) -> ImageFiles:
    """The captioned pictures of a folder and its subfolders.

    Captions are the lines of ``name.txt`` beside ``name.jpg`` (or of ``name.jpg.txt``, ``name.caption``). Or a list
    names pictures below its own folder: ``metadata.jsonl``, lines ``{"file_name": ..., "text": a string or a list}``
    with, optionally, "group", "split", "licence" and "label", the name of a class; or the same in ``metadata.json``,
    ``.csv`` or ``.parquet`` (``pochade.data.sources.lists``). Pictures in the folder of a list that it does not name
    are no part of the data. A name in other letter case, or without its suffix, counts where it can mean one file only.

    Where there is neither a list nor a caption file of any picture and all lie directly in one of several subfolders,
    these are classes in the order of their names. A split that is not stored is that of a top subfolder called train,
    held_out, test or validation, where there are two sides of them; else it goes by the group. Every file is used,
    skipped with a reason, or noted.

    Args:
        classes: whether the data set is one of classes; None: where there are no captions.
        by_name: whether a picture without a caption has the name of its file, in the folder, in its place, and is a
            group of its own. Subfolders are then no classes.

    Raises:
        PochadeError: no such folder, no pictures, neither captions nor classes, a listed name that leaves the folder,
            an unknown split in a list.
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
    captioned = bool(tree.lists) or bool(found.of_pictures)
    unnamed = classes and not any(candidate.class_name for candidate in found.candidates)
    if not by_name and (unnamed or not captioned):
        _name_by_folder(found, sides, classes)
    names = _class_names(path, tree, found)
    numbers = {str(number): number for number in range(len(names))} | {name: n for n, name in enumerate(names)}
    pictures: list[Picture] = []
    for candidate, class_name, lacking in found.candidates:
        picture = _named(candidate) if by_name else candidate
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
    del tree, found  # a million pictures take gigabytes as objects
    records = CheckedPictures(pictures, report, store, reading)
    return ImageFiles(records, names or None, report, split=split, classes=classes, reading=reading)


def _named(picture: Picture) -> Picture:
    """A picture that has a caption: if it has none, the name of its file."""
    if picture.captions:
        return picture
    return replace(picture, captions=(readable(split_name(picture.name)[0]),), group=picture.name, origin=FILE_NAMES)


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
    if not count:
        return "no pictures"
    if repeated:
        return f"{count} pictures but no captions ({repeated[0]!r} is a caption for captions:FOLDER only)"
    unread = [name for what, name in found.notes if what in (OTHER, LONELY)]
    more = f" (not used: {', '.join(unread[:SHOWN])}{' ...' * (len(unread) > SHOWN)})" if unread else ""
    return f"{count} pictures but no captions{more}"


def _read_tree(folder: Path, found: _Found) -> _Tree:
    """All files by what they are for; those for nothing are noted."""
    tree = _Tree()
    files = files_below(folder)
    passed_over = PREPARED if PREPARED[0] in files.names else ()
    found.skipped += [(name, "unreadable folder", reason, 1) for name, reason in files.unreadable]
    found.notes += files._replace(unreadable=[]).notes()
    for name in files.names:
        (stem, suffix), base = split_name(name), name.rpartition("/")[2]
        if name in passed_over:
            continue
        if base in CLASSES:
            continue  # read where there are lists
        if is_list(name, folder):
            tree.lists.append(name)
        elif suffix in PICTURES:
            tree.pictures.append(name)
        elif suffix in CAPTION_SUFFIXES:
            # Of two files for one picture, .txt counts.
            second = tree.captions.get(stem)
            if second is None or suffix == CAPTION_SUFFIXES[0]:
                tree.captions[stem] = name
            else:
                second = name
            found.notes += [("second caption file of a picture", second)] if second else []
        else:
            found.notes.append((OTHER, name))
    return tree


class _Spelled:
    """Finds names by how they are spelled: as they are, in other letter case, or without the suffix, where one fits."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._other: dict[str, set[str]] = {}
        for name in self._exact:
            for key in (name.casefold(), split_name(name)[0].casefold()):
                self._other.setdefault(key, set()).add(name)

    def find(self, name: str) -> str | None:
        if name in self._exact:
            return name
        fitting = self._other.get(name.casefold(), ())
        return next(iter(fitting)) if len(fitting) == 1 else None


def _read_lists(folder: Path, tree: _Tree, found: _Found) -> set[str]:
    """Enters the facts of the lists; the pictures that they name."""
    seen: set[str] = set()
    spelled = _Spelled(tree.pictures)
    for listed in tree.lists:
        inside, base = PurePosixPath(listed).parent, PurePosixPath(listed).name
        for entry in read_list(folder / listed):
            where = f"{listed} {entry.where}"
            if isinstance(entry, BadEntry):
                found.skipped.append((where, "unreadable entry", entry.reason, 1))
                continue
            file_name = entry.file_name.replace("\\", "/")
            if not is_safe_name(file_name):
                raise PochadeError(f"{folder / listed} {entry.where}: {entry.file_name!r} leaves the folder")
            given = (inside / file_name).as_posix()
            name = spelled.find(given) or given
            if name in seen:
                found.skipped.append((where, "listed twice", name, 1))
                continue
            seen.add(name)
            if not (folder / name).is_file():
                found.skipped.append((name, "missing file", where, 1))
                continue
            if split_name(name)[1] not in READABLE:
                found.skipped.append((name, "unsupported format", split_name(name)[1], 1))
                continue
            found.notes += [(SPELLED, name)] if name != given else []
            facts = entry.facts
            origin = intern(f"{base} ({entry.key})") if facts.captions else ""
            known = facts.captions, None, facts.group, facts.split, facts.licence
            picture = Picture(name, folder / name, *known, origin=origin, scores=facts.scores)
            found.candidates.append(_Candidate(picture, entry.class_name, ("empty caption", where)))
    return seen


def _read_captions(folder: Path, tree: _Tree, listed: set[str], found: _Found) -> None:
    """Enters the pictures that no list names, with the captions beside them."""
    governed = {PurePosixPath(name).parent for name in tree.lists}
    spelled = _Spelled(tree.captions.values())
    used: set[str] = set()
    for name in tree.pictures:
        stem, suffix = split_name(name)
        beside = tree.captions.get(stem) or tree.captions.get(name)
        if beside is None:
            beside = next((other for key in (stem, name) if (other := spelled.find(key)) and other not in used), None)
            found.notes += [(SPELLED, beside)] if beside else []
        if beside is not None:
            used.add(beside)
        if name in listed:
            continue
        if governed and not governed.isdisjoint(PurePosixPath(name).parents):
            found.notes.append(("picture that the list of its folder does not name", name))
            continue
        if suffix not in READABLE:
            found.skipped.append((name, "unsupported format", suffix, 1))
            continue
        captions: tuple[str, ...] = ()
        if beside is None:
            lacking = ("no caption", f"no {PurePosixPath(stem).name}{CAPTION_SUFFIXES[0]}")
        else:
            lacking = ("empty caption", "")
            try:
                text, note = decode_text((folder / beside).read_bytes())
            except (OSError, ValueError) as error:
                lacking = ("unreadable caption", str(error))
            else:
                captions = clean(text.splitlines())
                found.notes += [(note, beside)] if note else []
        origin = intern(f"{split_name(beside)[1]} files") if beside and captions else ""
        found.candidates.append(_Candidate(Picture(name, folder / name, captions, origin=origin), "", lacking))
    bases = {PurePosixPath(split_name(name)[0]).name for name in tree.pictures}
    left = [name for name in tree.captions.values() if name not in used]
    found.notes += [(LONELY, name) for name in left]
    found.of_pictures = [*used, *(name for name in left if PurePosixPath(split_name(name)[0]).name in bases)]


def _name_by_folder(found: _Found, sides: dict[str, Split], wanted: bool | None) -> None:
    """Gives each picture the subfolder that it lies in directly as its class, where these are classes.

    Unless classes are ``wanted``, there must be several of them, no picture elsewhere, and other names than those of
    splits and of repetitions. Where they are not, but captions are (False), the latter have their numbers taken off.
    """
    names = [candidate.picture.name for candidate in found.candidates]
    below = [name.partition("/")[2] if sides else name for name in names]
    tops = [_top(name) if name.count("/") == 1 else "" for name in below]
    different = set(tops) - {""}
    repeated = bool(different) and all(_REPEATED.match(top) for top in different)
    if repeated and wanted is False:
        found.notes += [(NUMBERED, top) for top in sorted(different)]
        tops = [_REPEATED.sub("", top, count=1) for top in tops]
    elif not wanted and (repeated or "" in tops or len(different) == 1 or all(map(side_of, different))):
        return
    reason = ("no class", "not directly in a subfolder") if wanted else ("", "")
    found.candidates = [
        candidate._replace(class_name=readable(top), lacking=reason)
        for candidate, top in zip(found.candidates, tops, strict=True)
    ]


def _top(name: str) -> str:
    """The subfolder that a name starts with; "" for what lies in none."""
    return name.partition("/")[0] if "/" in name else ""
