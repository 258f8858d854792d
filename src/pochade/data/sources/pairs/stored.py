"""Pairs on disk: folders with ``pairs.jsonl``, or WebDataset shards; every pair is checked once."""

import json
import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pochade.data.dataset import Split, check_size, check_split, split_of
from pochade.data.progress import each
from pochade.data.report import Report
from pochade.data.sources.formats import (
    PICTURES,
    PREPARED,
    READABLE,
    READERS,
    clean,
    split_folders,
    split_name,
    stored_split,
)
from pochade.data.sources.image_files import CHECKED_SIDE, Picture, Reading, skip_all
from pochade.data.sources.pairs.pair import PAIR_TASKS, Found, Pair, PairDataset, Readable
from pochade.data.sources.tars import Contents, Member, Shard, Skipped, find_shards, read_shard, top_folders
from pochade.data.sources.walk import files_below
from pochade.data.store import read_store, stamp, store_for
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.files import is_safe_name, write_json
from pochade.images.decode import BadImage

log = logging.getLogger(__name__)
SUBSTITUTES = 10
LIST = "pairs.jsonl"
CHECK = 2
CONTENTS = 3
"""Change with the form of what is remembered of a check, and of a shard."""
EXPECTED = (
    f"expected {LIST} with a line "
    '{"source": "a.png", "target": "b.png", "instruction": "make it green"} for each pair, or shards (.tar) of '
    "key.source.png, key.target.png and key.json"
)
ROLES = ("source", "target", "mask")


class StoredPairs(PairDataset):
    """The pairs of a folder or of shards.

    A folder or its subfolders hold ``pairs.jsonl``, a line ``{"source", "target", "mask", "instruction", "task",
    "group", "split"}`` for each pair, with paths of PNG, JPEG or WebP files relative to the list's folder. Shards hold
    ``key.source.png``, ``key.target.png``, ``key.mask.png`` (or .jpg, .jpeg, .webp), and the rest in ``key.json``.

    "mask" is optional but for "inpaint": white where to repaint. "instruction" (a string, or a list of alternatives)
    is optional but for "edit". "task" is "edit" where it is left out. Pairs of one "group" stand on one side of the
    split; where it is left out, pairs of one source do. A "split" that is left out is that of a top subfolder called
    train, held_out, test or validation, where there are two sides of them; else it goes by the group. The source of an
    inpainting shows grey where the mask is 1, whatever its file shows.

    At first use every pair is decoded once; what cannot be used is named in ``report``.

    Args:
        path: the folder, or a pattern of shards.
        size: rows and columns of the samples in pixels (centre crop).
        split: "train", "held_out" or "all".
        tasks: only pairs of these.

    Raises:
        PochadeError: no such folder, no pairs, a listed name that leaves the folder, an unknown split.
        EmptySplitError: no pair is of the split.
        FailureError: too many are unusable; the report's file is named.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        split: Split = "all",
        *,
        tasks: Sequence[str] = PAIR_TASKS,
        reading: Reading | None = None,
    ) -> None:
        check_size(size)
        check_split(split)
        self.size, self.reading = size, reading or Reading()
        found = find_pairs(path, self.reading.progress)
        store = store_for(found.folder)
        total = len(found.pairs) + sum(entry[3] for entry in found.skipped)
        max_skipped = self.reading.max_skipped
        self._report = Report(str(path), store / "report.json", total=total, max_skipped=max_skipped)
        skip_all(self.report, found.skipped)
        for what, name in found.notes:
            self.report.note(what, name)
        usable = self._check(found.pairs, store / "pairs.json")
        self.report.check()
        self.report.write()
        if not usable:
            raise FailureError(f"{path}: no usable pair; see {self.report.path}")
        wanted = [(pair, digest) for pair, digest in usable if pair.task in tasks]
        if not wanted:
            raise PochadeError(f"tasks: {', '.join(tasks)} given, but {path} has pairs for {usable[0][0].task}")
        sides = [pair.split or split_of(pair.group) for pair, _ in wanted]
        chosen = [one for one, side in zip(wanted, sides, strict=True) if split in ("all", side)]
        if not chosen:
            raise EmptySplitError(split, str(path), len(wanted))
        self.items = [pair for pair, _ in chosen]
        self._digests = [digest for _, digest in chosen]
        self.tasks = tuple(task for task in PAIR_TASKS if any(pair.task == task for pair in self.items))

    def _check(self, found: Sequence[Found], store: Path) -> list[tuple[Found, str]]:
        """Loads every pair that ``store`` does not know unchanged; the usable ones with the hash of their pictures."""
        old = read_store(store)
        limit = self.reading.max_megapixels
        about = {"form": CHECK, "max_megapixels": limit, "readers": [*READERS]}
        same = all(old.get(name) == value for name, value in about.items())
        known: dict[str, Any] = old.get("pairs", {}) if same else {}

        def examine(pair: Found) -> dict[str, Any]:
            try:
                parts = (pair.source, pair.target, pair.mask)
                at = [pair.task, *(_stamp(part) for part in parts)]
                outcome = known.get(pair.name)
                if isinstance(outcome, dict) and outcome.get("stamp") == at:
                    return outcome
                _, conversions = pair.load(CHECKED_SIDE, "", self.reading)
                digests = [None if part is None else sha256(part.read()).hexdigest() for part in parts]
            except BadImage as error:
                return {"bad": [error.reason, f"{error.name}: {error.detail}"]}
            except OSError as error:
                return {"bad": ["unreadable", str(error)]}
            return {"stamp": at, "converted": list(conversions), "sha256": digests}

        outcomes: dict[str, Any] = {}
        usable: list[tuple[Found, str]] = []
        for pair, outcome in each(examine, found, f"checking {self.report.source}", self.reading.progress):
            outcomes[pair.name] = outcome
            if "bad" in outcome:
                self.report.skip(pair.name, *outcome["bad"])
            else:
                self.report.use(outcome["converted"])
                facts = [outcome["sha256"], pair.task, pair.instructions, pair.group, pair.split]
                usable.append((pair, sha256(json.dumps(facts).encode()).hexdigest()))
        if outcomes != known:
            write_json(store, {**about, "pairs": outcomes})
        return usable

    @property
    def report(self) -> Report:
        return self._report

    def __len__(self) -> int:
        return len(self.items)

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """Pair ``index``, with the first of its instructions or, with ``rng``, any. Raises `BadImage`."""
        found = self.items[index]
        words = found.instructions or ("",)
        instruction = words[0 if rng is None else int(rng.integers(len(words)))]
        return found.load(self.size, instruction, self.reading)[0]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """As `PairDataset.sample`.

        A pair that has become unreadable since it was checked is logged by name and another one is drawn in its
        place; `FailureError` after ten in a row.
        """
        for _ in range(SUBSTITUTES):
            try:
                return self.pair(index, rng).sample()
            except BadImage as error:
                log.warning("skipped: %s", error)
                index = int(rng.integers(len(self.items)))
        raise FailureError(f"{self.report.source}: {SUBSTITUTES} unreadable pairs in a row")

    def identity(self, index: int) -> str:
        return sha256(f"{self._digests[index]} at {self.size}".encode()).hexdigest()


class FoundPairs(NamedTuple):
    """The folder that the pairs lie in, the pairs, undecoded, what is skipped, and notes (what, name)."""

    folder: Path
    pairs: list[Found]
    skipped: list[Skipped]
    notes: list[tuple[str, str]]


def find_pairs(path: Path, progress: bool = True) -> FoundPairs:
    """The pairs of a folder or of shards. Errors are those of `StoredPairs`."""
    if path.is_dir() and not any(path.rglob("*.tar")):
        found = _from_lists(path)
    elif path.suffix == ".tar" or path.is_dir():
        found = _from_shards(path, progress)
    else:
        raise PochadeError(f"folder: {path} is neither a folder nor a pattern of .tar files")
    if not found.pairs and not found.skipped:
        raise PochadeError(f"folder: {path} holds no pairs: {EXPECTED}")
    return found


def read_row(row: Any, where: str) -> tuple[str, tuple[str, ...], str, str]:
    """Task, instructions, group and split ("" where none is named) of a line or a .json at ``where``.

    Raises ValueError or TypeError for a bad one, PochadeError as ``stored_split``.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"an object expected, {type(row).__name__} found")
    task, text, group = row.get("task", "edit"), row.get("instruction") or [], row.get("group") or ""
    if task not in PAIR_TASKS:
        raise ValueError(f"task {task!r}, allowed are {', '.join(PAIR_TASKS)}")
    instructions = clean([text] if isinstance(text, str) else text)
    if task == "edit" and not instructions:
        raise ValueError("no instruction")
    if not isinstance(group, str):
        raise TypeError("group is no string")
    return task, instructions, group, stored_split(row.get("split"), where)


def _from_lists(folder: Path) -> FoundPairs:
    found = FoundPairs(folder, [], [], [])
    files = files_below(folder)
    names = files.names
    found.notes.extend(files.notes())
    lists = [name for name in names if PurePosixPath(name).name == LIST]
    if not lists:
        raise PochadeError(f"folder: {folder} holds no pairs: {EXPECTED}")
    tops = top_folders(lists)
    sides = split_folders(tops)
    used: set[str] = set()
    for listed, top in zip(lists, tops, strict=True):
        inside, side = PurePosixPath(listed).parent, sides.get(top, "")
        with (folder / listed).open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                one = _from_line(folder, inside, f"{listed} line {number}", line, side)
                if isinstance(one, Found):
                    found.pairs.append(one)
                    used |= {part.name for part in (one.source, one.target, one.mask) if part is not None}
                else:
                    found.skipped.append(one)
    for name in names:
        if name not in used and name not in PREPARED and name not in lists:
            what = "picture" if split_name(name)[1] in PICTURES else "file"
            found.notes.append((f"{what} that no list names", name))
    return found


def _from_line(folder: Path, inside: PurePosixPath, where: str, line: bytes, side: str) -> Found | Skipped:
    try:
        row: Any = json.loads(line.decode("utf-8-sig"))
        task, instructions, group, split = read_row(row, f"{folder / where}")
        names = {role: row[role] for role in ROLES if role != "mask" or row.get(role) is not None}
        if not all(isinstance(name, str) for name in names.values()):
            raise TypeError("source, target and mask are names of files")
    except PochadeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return where, "unreadable line", f"{type(error).__name__}: {error}", 1
    for role, name in names.items():
        if not is_safe_name(name):
            raise PochadeError(f"{folder}/{where}: {role} {name!r} leaves the folder")
    places = {role: (inside / name).as_posix() for role, name in names.items()}
    missing = [name for name in places.values() if not (folder / name).is_file()]
    if missing:
        return where, "missing file", missing[0], 1
    if task == "inpaint" and "mask" not in places:
        return where, "no mask", "", 1
    parts = {role: Picture(name, folder / name) for role, name in places.items()}
    pictures = parts["source"], parts["target"], parts.get("mask")
    return Found(where, task, instructions, group or places["source"], *pictures, split=split or side)


def _from_shards(path: Path, progress: bool) -> FoundPairs:
    folder, shards, missing, notes = find_shards(path)
    remembered = store_for(folder) / "pair-shards.json"
    known = read_store(remembered)
    seen: dict[str, Any] = {}

    def examine(shard: Shard) -> dict[str, Any]:
        at, old = [CONTENTS, *shard.stamp()], known.get(shard.name, {})
        return old if old.get("stamp") == at else {"stamp": at, **read_shard(shard, _pair)._asdict()}

    for shard, content in each(examine, shards, f"reading {folder}", progress):
        seen[shard.name] = content
    if seen != known:
        write_json(remembered, seen)
    sides = split_folders(top_folders(seen))
    found = FoundPairs(folder, [], list(missing), notes)
    for shard in shards:
        content = seen[shard.name]
        found.skipped.extend((name, reason, detail, samples) for name, reason, detail, samples in content["skipped"])
        found.notes.extend((what, name) for what, name in content["notes"])
        (top,) = top_folders([shard.name])
        for key, task, instructions, group, split, parts in content["samples"]:
            pictures = {
                role: Picture(f"{shard.name}/{name}", shard.path, offset=offset, length=length)
                for role, (name, offset, length) in parts.items()
            }
            name, side = f"{shard.name}/{key}", split or sides.get(top, "")
            source, target, mask = pictures["source"], pictures["target"], pictures.get("mask")
            found.pairs.append(Found(name, task, tuple(instructions), group or name, source, target, mask, split=side))
    return found


def _pair(path: Path, shard: str, members: list[Member]) -> Contents:
    """Pairs, [key, task, instructions, group, split, {role: member}]."""
    parts: dict[str, dict[str, Member]] = {}
    words: dict[str, tuple[int, int]] = {}
    found = Contents([], [], [])
    for name, offset, length in members:
        stem, suffix = split_name(name)
        key, role = split_name(stem)
        if role[1:] in ROLES and suffix in READABLE:
            parts.setdefault(key, {})[role[1:]] = (name, offset, length)
        elif suffix == ".json":
            words[stem] = (offset, length)
        else:
            found.notes.append((f"other members ({suffix or 'no suffix'})", f"{shard}/{name}"))
    with path.open("rb") as file:
        for key, pictures in parts.items():
            name = f"{shard}/{key}"
            lacking = [role for role in ("source", "target") if role not in pictures]
            if lacking or key not in words:
                words.pop(key, None)
                found.skipped.append((name, f"no {lacking[0]}" if lacking else "no .json", "", 1))
                continue
            at, count = words.pop(key)
            file.seek(at)
            try:
                row = json.loads(file.read(count).decode("utf-8-sig"))
                task, instructions, group, split = read_row(row, f"{path}: {key}.json")
            except PochadeError:
                raise
            except (ValueError, TypeError, AttributeError) as error:
                found.skipped.append((name, "unreadable .json", f"{type(error).__name__}: {error}", 1))
                continue
            if task == "inpaint" and "mask" not in pictures:
                found.skipped.append((name, "no mask", "", 1))
            else:
                found.samples.append([key, task, list(instructions), group, split, pictures])
    found.notes.extend((".json members without pictures", f"{shard}/{key}.json") for key in words)
    return found


def _stamp(part: Readable | None) -> list[Any] | None:
    return [part.name, *stamp(part.file), part.offset] if isinstance(part, Picture) else None
