"""Pairs on disk: a folder with ``pairs.jsonl``, or WebDataset shards; every pair is checked once."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pochade.data.dataset import check_size, check_split, is_held_out
from pochade.data.progress import each
from pochade.data.report import MAX_SKIPPED, Report
from pochade.data.sources.formats import READABLE, clean
from pochade.data.sources.image_files import Picture, skip_all
from pochade.data.sources.pairs.pair import PAIR_TASKS, Found, Pair
from pochade.data.sources.shards import Contents, Member, find_shards, read_contents
from pochade.data.store import read_store, stamp, store_for
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.files import is_safe_name, write_json
from pochade.images.decode import MAX_MEGAPIXELS, BadImage

SUBSTITUTES = 10
log = logging.getLogger(__name__)
LIST = "pairs.jsonl"
EXPECTED = (
    f"expected {LIST} with a line "
    '{"source": "a.png", "target": "b.png", "instruction": "make it green"} for each pair, or shards (.tar) of '
    "key.source.png, key.target.png and key.json"
)
CHECKED_SIZE = 32
"""Pixels: a JPEG is read to its end, which finds truncation, in a fraction of the time."""

Skipped = tuple[str, str, str, int]
"""Name, reason, detail, samples."""


class StoredPairs:
    """The pairs of a folder or of shards; `PairDataset`.

    A folder holds ``pairs.jsonl``, a line ``{"source", "target", "mask", "instruction", "task", "group"}`` for each
    pair, with paths of PNG, JPEG or WebP files relative to the folder. Shards hold ``key.source.png``,
    ``key.target.png``, ``key.mask.png`` (or .jpg, .jpeg, .webp), and the rest in ``key.json``.

    "mask" is optional but for "inpaint": white where to repaint. "instruction" (a string, or a list of alternatives)
    is optional but for "edit". "task" is "edit" where it is left out. Pairs of one "group" stand on one side of the
    split; where it is left out, pairs of one source do. The source of an inpainting shows grey where the mask is 1,
    whatever its file shows.

    At first use every pair is decoded once; what cannot be used is named in ``report``.

    Args:
        path: the folder, or a pattern of shards.
        size: rows and columns of the samples in pixels (centre crop).
        split: "train", "held_out" (about a tenth, by a hash of the group) or "all".
        background: shown where a picture is transparent.
        max_megapixels: larger pictures are refused before they are decoded.
        max_skipped: the share of pairs that may be unusable before the whole is refused.
        progress: show a bar during the first check, where the error stream is a terminal.

    Raises:
        PochadeError: no such folder, no pairs, a listed name that leaves the folder.
        FailureError: more than ``max_skipped`` unusable; the report's file is named.
    """

    items: list[Found]
    report: Report

    def __init__(
        self,
        path: Path | str,
        size: int,
        *,
        split: str = "all",
        background: str | tuple[int, int, int] = "white",
        max_megapixels: float = MAX_MEGAPIXELS,
        max_skipped: float = MAX_SKIPPED,
        progress: bool = True,
    ) -> None:
        check_size(size)
        check_split(split)
        self.size = size
        self.options: dict[str, Any] = {"background": background, "max_megapixels": max_megapixels}
        folder, found, skipped = find_pairs(path, progress)
        store = store_for(folder)
        total = len(found) + sum(entry[3] for entry in skipped)
        self.report = Report(str(path), store / "report.json", total=total, max_skipped=max_skipped)
        skip_all(self.report, skipped)
        self.report.check()
        bad = self._check(found, store / "pairs.json", progress)
        usable = [pair for pair in found if pair.name not in bad]
        if not usable:
            raise FailureError(f"{path}: no usable pair; see {self.report.path}")
        self.items = [p for p in usable if split == "all" or is_held_out(p.group) == (split == "held_out")]
        if not self.items:
            raise EmptySplitError(split, str(path), len(usable))

    def _check(self, found: Sequence[Found], store: Path, progress: bool) -> set[str]:
        """Loads every pair that ``store`` does not know unchanged, enters all into the report; the unusable ones."""
        old = read_store(store)
        limit = self.options["max_megapixels"]
        known = old.get("pairs", {}) if old.get("max_megapixels") == limit else {}

        def examine(pair: Found) -> dict[str, Any]:
            try:
                at = [pair.task, *(_stamp(part) for part in (pair.source, pair.target, pair.mask))]
                outcome = known.get(pair.name)
                if outcome is not None and outcome.get("stamp") == at:
                    return outcome
                _, conversions = pair.load(CHECKED_SIZE, "", max_megapixels=limit)
            except BadImage as error:
                return {"bad": [error.reason, f"{error.name}: {error.detail}"]}
            except OSError as error:
                return {"bad": ["unreadable", str(error)]}
            return {"stamp": at, "converted": list(conversions)}

        outcomes: dict[str, Any] = {}
        bad: set[str] = set()
        for pair, outcome in each(examine, found, f"checking {self.report.source}", progress):
            outcomes[pair.name] = outcome
            if "bad" in outcome:
                bad.add(pair.name)
                self.report.skip(pair.name, *outcome["bad"])
            else:
                self.report.use(outcome["converted"])
        if outcomes != known:
            write_json(store, {"max_megapixels": limit, "pairs": outcomes})
        self.report.check()
        self.report.write()
        return bad

    def __len__(self) -> int:
        return len(self.items)

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """Pair ``index``, with the first of its instructions or, with ``rng``, any. Raises `BadImage`."""
        found = self.items[index]
        words = found.instructions or ("",)
        instruction = words[0 if rng is None else int(rng.integers(len(words)))]
        return found.load(self.size, instruction, **self.options)[0]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """As tensors and words, see `PairDataset`.

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


def find_pairs(path: Path | str, progress: bool = True) -> tuple[Path, list[Found], list[Skipped]]:
    """Where the pairs lie, those of a folder or of shards, undecoded, and what is skipped. Errors: `StoredPairs`."""
    folder = Path(path)
    if folder.is_dir() and not any(folder.glob("*.tar")):
        found, skipped = _from_list(folder)
    elif folder.suffix == ".tar" or folder.is_dir():
        folder, found, skipped = _from_shards(path, progress)
    else:
        raise PochadeError(f"folder: {path} is neither a folder nor a pattern of .tar files")
    if not found and not skipped:
        raise PochadeError(f"folder: {path} holds no pairs: {EXPECTED}")
    return folder, found, skipped


def read_row(row: Any) -> tuple[str, tuple[str, ...], str]:
    """Task, instructions and group ("" where none is named) of a line or a .json; ValueError for a bad one."""
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
    return task, instructions, group


def _from_list(folder: Path) -> tuple[list[Found], list[Skipped]]:
    found: list[Found] = []
    skipped: list[Skipped] = []
    if not (folder / LIST).is_file():
        raise PochadeError(f"folder: {folder} holds no pairs: {EXPECTED}")
    with (folder / LIST).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{LIST} line {number}"
            try:
                row: Any = json.loads(line.decode("utf-8-sig"))
                task, instructions, group = read_row(row)
                names = {role: row[role] for role in ("source", "target")}
                if row.get("mask") is not None:
                    names["mask"] = row["mask"]
                if not all(isinstance(name, str) for name in names.values()):
                    raise TypeError("source, target and mask are names of files")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                skipped.append((where, "unreadable line", f"{type(error).__name__}: {error}", 1))
                continue
            for role, name in names.items():
                if not is_safe_name(name):
                    raise PochadeError(f"{folder / LIST} line {number}: {role} {name!r} leaves the folder")
            missing = [name for name in names.values() if not (folder / name).is_file()]
            parts = {role: Picture(name, folder / name) for role, name in names.items()}
            if missing:
                skipped.append((where, "missing file", missing[0], 1))
            elif task == "inpaint" and "mask" not in parts:
                skipped.append((where, "no mask", "", 1))
            else:
                pictures = parts["source"], parts["target"], parts.get("mask")
                found.append(Found(where, task, instructions, group or names["source"], *pictures))
    return found, skipped


def _from_shards(shards: Path | str, progress: bool) -> tuple[Path, list[Found], list[Skipped]]:
    folder, paths = find_shards(Path(shards))
    contents = read_contents(folder, paths, _pair, "pair-shards.json", progress)
    found: list[Found] = []
    skipped: list[Skipped] = []
    for shard, content in contents.items():
        skipped += [tuple(entry) for entry in content.skipped]
        for key, task, instructions, group, parts in content.samples:
            source, target, mask = (
                Picture(f"{shard}/{part[0]}", folder / shard, offset=part[1], length=part[2]) if part else None
                for part in (parts["source"], parts["target"], parts.get("mask"))
            )
            assert source is not None
            assert target is not None
            name = f"{shard}/{key}"
            found.append(Found(name, task, tuple(instructions), group or name, source, target, mask))
    return folder, found, skipped


def _pair(path: Path, members: list[Member]) -> Contents:
    """Pairs, [key, task, instructions, group, {role: member}], and those that are skipped."""
    parts: dict[str, dict[str, Member]] = {}
    words: dict[str, tuple[int, int]] = {}
    for name, offset, length in members:
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        role, dot, kind = suffix.lower().partition(".")
        if role in ("source", "target", "mask") and dot + kind in READABLE:
            parts.setdefault(folder + slash + stem, {})[role] = (name, offset, length)
        elif role == "json":
            words[folder + slash + stem] = (offset, length)
    pairs: list[list[Any]] = []
    skipped: list[list[Any]] = []
    with path.open("rb") as file:
        for key, found in parts.items():
            name = f"{path.name}/{key}"
            lacking = [role for role in ("source", "target") if role not in found]
            if lacking or key not in words:
                skipped.append([name, f"no {lacking[0]}" if lacking else "no .json", "", 1])
                continue
            at, count = words[key]
            file.seek(at)
            try:
                task, instructions, group = read_row(json.loads(file.read(count).decode("utf-8-sig")))
            except (ValueError, TypeError, AttributeError) as error:
                skipped.append([name, "unreadable .json", f"{type(error).__name__}: {error}", 1])
                continue
            if task == "inpaint" and "mask" not in found:
                skipped.append([name, "no mask", "", 1])
            else:
                pairs.append([key, task, list(instructions), group, found])
    return Contents(pairs, skipped, [])


def _stamp(part: Any) -> list[Any] | None:
    return None if part is None else [part.name, *stamp(part.file), part.offset]
