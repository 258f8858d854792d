"""Shards as tar files: which there are, what their index lists, and the members of each."""

import json
import re
import tarfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pochade.data.sources.class_names import CLASSES
from pochade.data.sources.formats import INDEX, PICTURES, PREPARED, split_name
from pochade.data.sources.walk import files_below
from pochade.data.store import stamp
from pochade.errors import PochadeError
from pochade.files import is_safe_name, sha256

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")

Member = tuple[str, int, int]
"""Name, offset and length of a file in a shard."""
Skipped = tuple[str, str, str, int]
"""Name, reason, detail, samples."""


class Contents(NamedTuple):
    """What a shard holds, in values that JSON knows: samples of any form, what is skipped, and notes (what, name)."""

    samples: list[Any]
    skipped: list[Skipped]
    notes: list[tuple[str, str]]


OTHER = "member that is no plain file"
HIDDEN = "hidden member"
TWICE = "member whose name comes twice"
Pairing = Callable[[Path, str, list[Member]], Contents]
"""From a shard, its name and its members to its samples."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What an index lists of a shard; ``decoded``: every picture in it was decoded before it was written."""

    samples: int
    bytes: int
    sha256: str
    decoded: bool = False


@dataclass(frozen=True)
class Shard:
    """A tar file, its name in the folder of the data set, and its entry in an index beside it."""

    path: Path
    name: str
    entry: Entry | None

    def stamp(self) -> list[Any]:
        """What changes with the file or its entry."""
        return [*stamp(self.path), None if self.entry is None else self.entry.sha256]


class Shards(NamedTuple):
    """The folder that names are relative to, the shards in order, what is lost of those that are not there, and notes
    on the files beside them (what, name)."""

    folder: Path
    shards: list[Shard]
    missing: list[Skipped]
    notes: list[tuple[str, str]]


def find_shards(path: Path) -> Shards:
    """The shards of a folder and its subfolders, or of a pattern.

    Raises:
        PochadeError: there are none, or an index is damaged.
    """
    folder, files, places, notes = _files(path)
    indexes = {place: read_index(place / INDEX) for place in {file.parent for file in files}}
    for place in places - indexes.keys():
        with suppress(PochadeError):  # what has its name where there are no shards may be anything
            indexes[place] = read_index(place / INDEX)
    shards = [Shard(file, _name(file, folder), indexes[file.parent].get(file.name)) for file in files]
    missing: list[Skipped] = []
    for place, entries in sorted(indexes.items()) if path.is_dir() else ():
        for name, entry in entries.items():
            if not (place / name).exists():
                lost = entry.samples
                missing.append((_name(place / name, folder), "missing shard", f"{lost} samples", lost))
    return Shards(folder, shards, missing, notes)


def read_shard(shard: Shard, pair: Pairing) -> Contents:
    """Samples as ``pair`` finds them, and what is lost of a shard that is cut short or has another hash.

    Raises:
        PochadeError: a compressed shard, or a member name that leaves the folder.
    """
    size, expected = shard.path.stat().st_size, shard.entry
    if expected and size >= expected.bytes and sha256(shard.path) != expected.sha256:
        detail = f"its SHA-256 is not that of {INDEX}; {expected.samples} samples lost"
        return Contents([], [(shard.name, "damaged shard", detail, expected.samples)], [])
    members, notes, complete = _members(shard.path)
    found = pair(shard.path, shard.name, members)
    found.notes.extend((what, f"{shard.name}/{name}") for what, name in notes)
    if complete and not (expected and size < expected.bytes):
        return found
    skipped = found.skipped
    if expected:
        lost = max(1, expected.samples - len(found.samples))
        # The sample at the cut is one of the lost, not one without a caption.
        skipped, detail = [], f"lost {lost} of {expected.samples} samples"
    else:
        lost, detail = 1, f"{len(found.samples)} samples left, the number lost is unknown"
        skipped = skipped[:-1]
    return found._replace(skipped=[*skipped, (shard.name, "truncated shard", detail, lost)])


def top_folders(names: Iterable[str]) -> list[str]:
    """The first folder of each name, "" for what lies in none."""
    return [name.partition("/")[0] if "/" in name else "" for name in names]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _files(path: Path) -> tuple[Path, list[Path], set[Path], list[tuple[str, str]]]:
    """The folder that names are relative to, the shards, the folders with an index, and notes; of a pattern, whose
    other shards are not meant, no folders."""
    places: set[Path] = set()
    notes: list[tuple[str, str]] = []
    if path.is_dir():
        below = files_below(path)
        folder, files = path, [path / name for name in below.names if name.endswith(".tar")]
        places = {(path / name).parent for name in below.names if PurePosixPath(name).name == INDEX}
        for name in below.names:
            if not name.endswith(".tar") and PurePosixPath(name).name not in _KNOWN and name not in PREPARED:
                what = "picture" if split_name(name)[1] in PICTURES else "file"
                notes.append((f"{what} beside shards, which alone are read", name))
        notes += below.notes()
    elif brace := re.search(r"\{(\d+)\.\.(\d+)\}", str(path)):
        first, last = brace.groups()
        numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        files = [Path(str(path).replace(brace[0], number)) for number in numbers]
        folder = path.parent
        absent = [p.name for p in files if not p.is_file()]
        if absent:
            raise PochadeError(f"shards: {path}: {absent[0]} and {len(absent) - 1} more are missing")
    else:
        folder, files = path.parent, sorted(p for p in path.parent.glob(path.name) if p.is_file())
    if not files:
        raise PochadeError(f"shards: {path}: no .tar file there")
    return folder, files, places, notes


def read_index(path: Path) -> dict[str, Entry]:
    """What the file lists of each shard; nothing where there is none. Raises PochadeError for a damaged one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
        if "shards" not in value and "__kind__" in value:  # the index of webdataset's wids has other hashes
            return {}
        decoded = value.get("decoded") is True
        return {
            row["file"]: Entry(int(row["samples"]), int(row["bytes"]), row["sha256"], decoded)
            for row in value["shards"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PochadeError(f"{path}: not an index of shards ({type(error).__name__}: {error})") from error


_KNOWN = (INDEX, *CLASSES)
"""Files beside shards that are read."""


def _members(path: Path) -> tuple[list[Member], list[tuple[str, str]], bool]:
    """(name, offset, length) of the members, notes on those that are none (what, name), and whether the archive is
    whole."""
    members: list[Member] = []
    notes: list[tuple[str, str]] = []
    names: set[str] = set()
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4).startswith(COMPRESSED):
            raise PochadeError(f"{path}: compressed; plain .tar files are expected")
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not is_safe_name(member.name):
                    raise PochadeError(f"{path}: the member name {member.name!r} leaves the folder")
                if not member.isreg() or member.issparse():
                    notes += [] if member.isdir() else [(OTHER, member.name)]
                    continue
                if member.offset_data + member.size > size:
                    return members, notes, False
                if PurePosixPath(member.name).name.startswith("."):  # as archives that macOS makes are full of
                    notes.append((HIDDEN, member.name))
                    continue
                if member.name in names:
                    notes.append((TWICE, member.name))
                    continue
                names.add(member.name)
                members.append((member.name, member.offset_data, member.size))
            # A whole archive ends in a block of zeros; one cut between two members seems whole otherwise.
            return members, notes, tar.offset + tarfile.BLOCKSIZE <= size
    except tarfile.TarError:
        return members, notes, False
