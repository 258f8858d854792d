"""WebDataset shards: plain tar files of pictures with captions or classes, each with a count and a hash."""

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pochade.data.dataset import Split
from pochade.data.progress import each
from pochade.data.report import Report
from pochade.data.sources.class_names import MOST_CLASSES, read_class_names
from pochade.data.sources.formats import (
    INDEX,
    PICTURES,
    READABLE,
    Facts,
    clean,
    decode_text,
    read_facts,
    split_folders,
    split_name,
)
from pochade.data.sources.image_files import ImageFiles, Picture, Reading, skip_all
from pochade.data.store import read_store, stamp, store_for
from pochade.errors import PochadeError
from pochade.files import is_safe_name, sha256, write_json

CONTENTS = 3
"""Changes with the form of what is remembered of a shard."""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
NO_GROUP = "without a stored group, which the first caption (or the name) stands for"

Member = tuple[str, int, int]
"""Name, offset and length of a file in a shard."""


class Contents(NamedTuple):
    """What a shard holds, as JSON: ``samples`` and ``skipped`` [name, reason, detail, samples], ``notes`` [what, name]
    and, for pairs, samples of another form."""

    samples: list[list[Any]]
    skipped: list[list[Any]]
    notes: list[list[str]]


Pairing = Callable[[Path, list[Member]], Contents]


def open_shards(path: Path, split: Split, *, classes: bool | None = None, reading: Reading | None = None) -> ImageFiles:
    """The pictures of WebDataset shards, by random access into the uncompressed tar files.

    Members of a sample share their name up to the first dot, or beyond it: ``IMG_2024.05.01.png`` goes with
    ``IMG_2024.05.01.txt``. Captions are a line each of ``key.txt``, or in ``key.json``, which may say the "group",
    "split" and "licence" too; ``key.cls`` is the number of a class from 0, which ``classes.txt`` (a name a line) or
    ``classes.json`` (a list) beside the shards names. No other member is ever opened, and nothing is unpacked. A split
    that is not stored is that of a subfolder called train, held_out, test or validation, or else goes by the group.

    Where there is an ``index.json``, counts, sizes and hashes are compared with it once: a shard that is cut short
    gives what is left of it, one whose hash differs gives nothing, and the samples lost count as skipped.

    Args:
        path: a folder of .tar files, also in subfolders, or a pattern: ``data/*.tar``, ``data/{000000..000012}.tar``.
        classes: whether the data set is one of classes; None: where there are no captions.

    Raises:
        PochadeError: no shards, a compressed shard, a member name that leaves the folder, no classes where they are
            wanted, names of classes that are not all different.
        EmptySplitError: no picture is of the split.
        FailureError: too many are lost or unusable; the report's file is named.
    """
    reading = reading or Reading()
    folder, shards = find_shards(path)
    names = read_class_names({shard.parent for shard in shards})
    contents = read_contents(path, _pair, "shards.json", reading.progress)
    store = store_for(folder)
    total = sum(len(c.samples) + sum(skip[3] for skip in c.skipped) for c in contents.values())
    if not total:
        raise PochadeError(f"shards: {path} holds no captioned pictures, and none with a class")
    report = Report(str(path), store / "report.json", total=total, max_skipped=reading.max_skipped)
    splits = split_folders(PurePosixPath(name).parts[0] if "/" in name else "" for name in contents)
    found: list[Picture] = []
    for name, content in contents.items():
        skip_all(report, (tuple(entry) for entry in content.skipped))
        for what, member in content.notes:
            report.note(what, member)
        for member, captions, offset, length, label, group, own, licence in content.samples:
            side = own or splits.get(name.partition("/")[0], "")
            picture = f"{name}/{member}"
            found.append(Picture(picture, folder / name, tuple(captions), label, group, side, licence, offset, length))
            if not group:
                report.note(NO_GROUP, picture)
    return ImageFiles(found, names, report, store, split=split, classes=classes, reading=reading)


def find_shards(path: Path) -> tuple[Path, list[Path]]:
    """The folder that the names of shards are relative to, and the tar files of a folder or a pattern, in order.

    Raises:
        PochadeError: there are none.
    """
    if path.is_dir():
        found = [p for p in path.rglob("*.tar") if "/." not in f"/{p.relative_to(path).as_posix()}" and p.is_file()]
        folder, shards = path, sorted(found)
    elif brace := re.search(r"\{(\d+)\.\.(\d+)\}", str(path)):
        first, last = brace.groups()
        numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        shards = [Path(str(path).replace(brace[0], number)) for number in numbers]
        folder = path.parent
        absent = [p.name for p in shards if not p.is_file()]
        if absent:
            raise PochadeError(f"shards: {path}: {absent[0]} and {len(absent) - 1} more are missing")
    else:
        folder, shards = path.parent, sorted(p for p in path.parent.glob(path.name) if p.is_file())
    if not shards:
        raise PochadeError(f"shards: {path}: no .tar file there")
    return folder, shards


def read_contents(path: Path, pair: Pairing, remembered: str, progress: bool) -> dict[str, Contents]:
    """What each shard of a folder or a pattern holds, by its name in the folder, as ``pair`` finds it from the members.

    Of a folder, shards that an ``index.json`` names and that are not there are lost. ``remembered`` is the name of the
    file that saves reading unchanged shards again. Errors are those of `open_shards`.
    """
    folder, shards = find_shards(path)
    store = store_for(folder)
    expected = {beside: _read_index(beside / INDEX) for beside in {shard.parent for shard in shards}}
    known = read_store(store / remembered)
    seen: dict[str, Any] = {}

    def examine(shard: Path) -> dict[str, Any]:
        entry = expected[shard.parent].get(shard.name)
        at = [CONTENTS, *stamp(shard), entry["sha256"] if entry else None]
        old = known.get(shard.relative_to(folder).as_posix(), {})
        return old if old.get("stamp") == at else {"stamp": at, **_contents(shard, entry, pair)._asdict()}

    for shard, content in each(examine, shards, f"reading {folder}", progress):
        seen[shard.relative_to(folder).as_posix()] = content
    if seen != known:
        write_json(store / remembered, seen)
    contents = {n: Contents(found["samples"], found["skipped"], found["notes"]) for n, found in seen.items()}
    for beside, entries in expected.items() if path.is_dir() else ():
        for name, entry in entries.items():
            place = (beside / name).relative_to(folder).as_posix()
            if place not in contents and not (beside / name).exists():
                lost = entry["samples"]
                contents[place] = Contents([], [[place, "missing shard", f"{lost} samples", lost]], [])
    return contents


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
        if "shards" not in value and "__kind__" in value:  # the index of webdataset's wids has other hashes
            return {}
        shards = value["shards"]
        return {
            s["file"]: {"samples": int(s["samples"]), "bytes": int(s["bytes"]), "sha256": s["sha256"]} for s in shards
        }
    except (ValueError, KeyError, TypeError) as error:
        raise PochadeError(f"{path}: not an index of shards ({type(error).__name__}: {error})") from error


def _contents(path: Path, expected: dict[str, Any] | None, pair: Pairing) -> Contents:
    """Samples as ``pair`` finds them, and losses."""
    size = path.stat().st_size
    if expected and size >= expected["bytes"] and sha256(path) != expected["sha256"]:
        lost = expected["samples"]
        detail = f"its SHA-256 is not that of {INDEX}; {lost} samples lost"
        return Contents([], [[path.name, "damaged shard", detail, lost]], [])
    members, complete = _members(path)
    found = pair(path, members)
    if complete and not (expected and size < expected["bytes"]):
        return found
    skipped = found.skipped
    if expected:
        lost = max(1, expected["samples"] - len(found.samples))
        # The sample at the cut is one of the lost, not one without a caption.
        skipped, detail = [], f"lost {lost} of {expected['samples']} samples"
    else:
        lost, detail = 1, f"{len(found.samples)} samples left, the number lost is unknown"
        skipped = skipped[:-1]
    return found._replace(skipped=[*skipped, [path.name, "truncated shard", detail, lost]])


def _members(path: Path) -> tuple[list[Member], bool]:
    """(name, offset, length) of the regular members, and whether the archive is whole."""
    members: list[Member] = []
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
                    continue
                if member.offset_data + member.size > size:
                    return members, False
                members.append((member.name, member.offset_data, member.size))
            # A whole archive ends in a block of zeros; one cut between two members looks whole otherwise.
            return members, tar.offset + tarfile.BLOCKSIZE <= size
    except tarfile.TarError:
        return members, False


def _pair(path: Path, members: list[Member]) -> Contents:
    """Pictures, [member, captions, offset, length, class, group, split, licence]."""
    pictures: dict[str, Member] = {}
    beside: dict[str, dict[str, Member]] = {suffix: {} for suffix in (".txt", ".cls", ".json")}
    found = Contents([], [], [])
    for name, offset, length in members:
        stem, suffix = split_name(name)
        if suffix in READABLE and stem not in pictures:
            pictures[stem] = (name, offset, length)
        elif suffix in READABLE:
            found.skipped.append([f"{path.name}/{name}", "second picture of a sample", pictures[stem][0], 1])
        elif suffix in PICTURES:
            found.skipped.append([f"{path.name}/{name}", "unsupported format", suffix, 1])
        elif suffix in beside:
            beside[suffix][stem] = (name, offset, length)
        else:
            found.notes.append([f"other members ({suffix or 'no suffix'})", f"{path.name}/{name}"])
    owned = {suffix: _owners(pictures, stems) for suffix, stems in beside.items()}
    with path.open("rb") as file:

        def read(suffix: str, stem: str) -> bytes | None:
            key = owned[suffix].get(stem)
            if key is None:
                return None
            _, at, count = beside[suffix].pop(key)
            file.seek(at)
            return file.read(count)

        for stem, (name, offset, length) in pictures.items():
            label, detail, facts = None, "", Facts((), "", "", None)
            data = {suffix: read(suffix, stem) for suffix in beside}
            kind = ""
            try:
                for kind, value in data.items():
                    match kind, value:
                        case ".txt", bytes():
                            text, note = decode_text(value)
                            facts = facts._replace(captions=clean(text.splitlines()))
                            found.notes.extend([[note, f"{path.name}/{name}"]] if note else [])
                        case ".json", bytes():
                            told = read_facts(json.loads(value.decode("utf-8-sig")))
                            facts = told._replace(captions=facts.captions or told.captions)
                        case ".cls", bytes():
                            label = _label(value)
                        case _:
                            pass
            except (ValueError, TypeError) as error:
                detail = f"{stem}{kind}: {type(error).__name__}: {error}"
            if facts.captions or label is not None:
                found.notes.extend([["a member that cannot be read: " + kind, f"{path.name}/{name}"]] if detail else [])
                found.samples.append([name, list(facts.captions), offset, length, label, *facts[1:]])
            else:
                lacking = "no class" if owned[".cls"] and not owned[".txt"] and not owned[".json"] else "no caption"
                found.skipped.append([f"{path.name}/{name}", lacking, detail, 1])
    for suffix, left in beside.items():
        found.notes.extend([f"{suffix} members without a picture", f"{path.name}/{m[0]}"] for m in left.values())
    return found


def _owners(pictures: Mapping[str, Member], stems: Iterable[str]) -> dict[str, str]:
    """For pictures by their stems, which of the other ``stems`` is theirs: the same, or the longest that is theirs up
    to a dot; each goes with one picture."""
    free = set(stems)
    owned = {stem: stem for stem in pictures if stem in free}
    free -= owned.keys()
    for stem in pictures:
        shorter = stem
        while stem not in owned and "." in shorter.rpartition("/")[2]:
            shorter = shorter.rpartition(".")[0]
            if shorter in free:
                owned[stem] = shorter
                free.remove(shorter)
    return owned


def _label(data: bytes) -> int:
    label = int(data.decode("ascii"))
    if not 0 <= label < MOST_CLASSES:
        raise ValueError(f"class {label}, 0 to {MOST_CLASSES - 1} expected")
    return label
