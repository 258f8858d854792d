"""Filling a cache: whichever process is free makes the next part, copies what is known already and encodes the rest."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from pochade.data.cache.claims import take
from pochade.data.cache.part_cache import INDEX, OPEN, Contents, PartCache, part_path, stamp, write_index
from pochade.data.cache.parts import DamagedPart, Part, write_part
from pochade.data.progress import progress_bar
from pochade.errors import FailureError
from pochade.files import remove_orphans

POLL = 0.1
"""Seconds between two checks of what other processes are making."""

T = TypeVar("T")


def build_cache(contents: Contents[T], folder: Path, *, progress: bool = True) -> PartCache:
    """The cache of ``contents`` below ``folder``, made or finished where it is not there.

    Any number of processes may call it at once: each makes what no other one is making, and comes back when all is
    there. What a killed process had begun is taken over. A damaged part is made again, with a message. A row whose
    key is in another cache of the same kind and identity, finished or not, is copied from there: one in ``folder``, or
    in that of a run beside this one (``folder`` is ``runs/mine/cache``, others are ``runs/*/cache``).

    Raises:
        FailureError: something could not be written.
    """
    own = folder / contents.name
    found = PartCache.find(own)
    if found is not None:
        return found
    with progress_bar(progress) as bar, ThreadPoolExecutor(1, "pochade-load") as ahead, torch.no_grad():
        return _Build(contents, folder, bar, ahead).finish()


class _Build(Generic[T]):
    def __init__(self, contents: Contents[T], folder: Path, bar: Progress, ahead: ThreadPoolExecutor) -> None:
        self.contents, self.folder = contents, folder / contents.name
        self.bar, self.task = bar, bar.add_task(contents.title, total=len(contents.keys))
        self.ahead = ahead
        self.known = _Known(contents, folder)
        self.made = Counter[int]()
        """How often this process has made each part."""

    def finish(self) -> PartCache:
        missing = self._missing()
        while True:
            made = [self._make_unless_taken(part) for part in missing]
            missing = [part for part in missing if not part_path(self.folder, part).exists()]
            self._show(missing)
            if not missing:
                try:
                    found = self._indexed()
                except DamagedPart:  # since it was checked
                    missing = self._missing()
                    continue
                if found is not None:
                    return found
            if not any(made):
                time.sleep(POLL)

    def _keys(self, part: int) -> np.ndarray:
        rows = self.contents.rows(part)
        return self.contents.keys[rows.start : rows.stop]

    def _missing(self) -> list[int]:
        """The parts that are to be made, after all that are there were read. What is damaged is deleted."""
        try:
            stamps = dict(enumerate(PartCache(self.folder).stamps))
        except DamagedPart:
            stamps = {}
        missing: list[int] = []
        for part in range(self.contents.parts):
            path = part_path(self.folder, part)
            seen = stamp(path)
            if seen is not None and seen != stamps.get(part):
                try:
                    Part(path, self._keys(part)).check()
                except DamagedPart as error:
                    if self.made[part] > 1:
                        raise FailureError(f"{path}: cannot be read after it was written ({error})") from error
                    self._discard(path, seen, error)
                    missing.append(part)
            elif seen is None:
                missing.append(part)
        return missing

    @staticmethod
    def _discard(path: Path, seen: tuple[int, int], error: DamagedPart) -> None:
        """Deletes a damaged part, unless another process does or has made it again already."""
        while stamp(path) == seen:
            claim = take(_claim_path(path))
            if claim is None:
                time.sleep(POLL)
                continue
            with claim:
                if stamp(path) == seen:
                    print(f"{path}: damaged ({error}), made again", file=sys.stderr, flush=True)
                    path.unlink()

    def _indexed(self) -> PartCache | None:
        """The finished cache; None while another process writes its index."""
        found = PartCache.find(self.folder)
        if found is not None:
            return found
        claim = take(_claim_path(self.folder / INDEX))
        if claim is None:
            return None
        with claim:
            remove_orphans(self.folder, INDEX)
            write_index(self.folder, self.contents)
        return PartCache.find(self.folder)

    def _make_unless_taken(self, part: int) -> bool:
        """Whether this process has made the part."""
        path = part_path(self.folder, part)
        claim = None if path.exists() else take(_claim_path(path))
        if claim is None:
            return False
        with claim:
            if path.exists():
                return False
            remove_orphans(self.folder, path.name)
            self._make(part)
        self.made[part] += 1
        return True

    def _make(self, part: int) -> None:
        path, numbers = part_path(self.folder, part), self.contents.rows(part)
        existing = self.known.existing(numbers)
        if existing is not None and _linked(path, existing):
            self.bar.advance(self.task, len(numbers))
            return
        rows, ragged = self.known.copies(numbers)
        self.bar.advance(self.task, sum(row is not None for row in rows))
        new = [place for place, row in enumerate(rows) if row is None]
        made: dict[int, dict[str, Tensor]] = {place: {} for place in new}
        for places, loaded in self._loaded(new, numbers.start):
            for name, values in self.contents.encode(loaded).items():
                if not isinstance(values, Tensor):
                    ragged.add(name)
                for place, value in zip(places, values.cpu() if isinstance(values, Tensor) else values, strict=True):
                    made[place][name] = value.cpu()
            self.bar.advance(self.task, len(places))
        whole = [made[place] if row is None else row for place, row in enumerate(rows)]
        write_part(path, self._keys(part), whole, ragged)

    def _loaded(self, places: list[int], start: int) -> Iterator[tuple[list[int], T]]:
        """Batches of places with what is loaded for them, the next one being loaded already."""
        size = self.contents.batch
        batches = [places[begin : begin + size] for begin in range(0, len(places), size)]
        calls = (self.ahead.submit(self.contents.load, [start + place for place in batch]) for batch in batches)
        coming = next(calls, None)
        for batch in batches:
            assert coming is not None
            loaded, coming = coming.result(), next(calls, None)
            yield batch, loaded

    def _show(self, missing: Sequence[int]) -> None:
        left = sum(len(self.contents.rows(part)) for part in missing)
        self.bar.update(self.task, completed=len(self.contents.keys) - left)


class _Known(Generic[T]):
    """The rows that other caches of the same kind and identity hold, the newest first."""

    def __init__(self, contents: Contents[T], folder: Path) -> None:
        self._contents, self._folder = contents, folder
        self._found: tuple[np.ndarray, np.ndarray] | None = None
        self._paths: list[Path] = []
        self._parts: dict[int, Part | None] = {}

    def copies(self, numbers: range) -> tuple[list[dict[str, Tensor] | None], set[str]]:
        """Of each row a copy, or None where it is not known; and the names of the ragged entries."""
        sources, places = self._places(numbers)
        rows: list[dict[str, Tensor] | None] = []
        ragged: set[str] = set()
        for source, place in zip(sources, places, strict=True):
            part = None if source < 0 else self._part(source)
            rows.append(None if part is None else part.row(place))
            ragged |= set() if part is None else part.lengths.keys()
        return rows, ragged

    def existing(self, numbers: range) -> Path | None:
        """A file that holds just these rows in this order; None where there is none."""
        sources, places = self._places(numbers)
        part = self._part(sources[0]) if sources[0] >= 0 and len({*sources}) == 1 else None
        same = part is not None and len(part) == len(numbers) and places == list(range(len(numbers)))
        return self._paths[sources[0]] if same else None

    def _places(self, numbers: range) -> tuple[list[int], list[int]]:
        """Of each row the number of a file that holds it, or -1, and its place there."""
        if self._found is None:
            self._found = self._check()
        sources, places = (found[numbers.start : numbers.stop].tolist() for found in self._found)
        return sources, places

    def _check(self) -> tuple[np.ndarray, np.ndarray]:
        """For each row the number of a file that holds it, or -1, and its place there."""
        keys = self._contents.keys
        sources, places = np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int32)
        others = self._others()
        order = np.argsort(keys) if others else np.zeros(0, np.int64)
        for other in others:
            for path, held in _held(other):
                at = np.searchsorted(keys, held, sorter=order)
                # A key may be that of several rows: of each, all of its places among the sorted.
                ends = np.searchsorted(keys, held, side="right", sorter=order)
                many = ends - at
                rows = order[np.repeat(at, many) + _counts(many)]
                place = np.repeat(np.arange(len(held)), many)
                fresh = sources[rows] < 0
                sources[rows[fresh]], places[rows[fresh]] = len(self._paths), place[fresh]
                self._paths.append(path)
        return sources, places

    def _others(self) -> list[Path]:
        """The other caches of the same kind and identity, those of this run before those of the runs beside it."""
        own = self._folder.absolute()
        found: list[tuple[bool, int, Path]] = []
        for beside in own.parent.parent.glob(f"*/{own.name}/{self._contents.family}-*"):
            if beside != own / self._contents.name:
                with suppress(OSError):  # which its owner has just removed
                    found.append((beside.parent == own, beside.stat().st_mtime_ns, beside))
        return [path for _, _, path in sorted(found, reverse=True)]

    def _part(self, number: int) -> Part | None:
        """A file that was read and is whole; None where it is not, or gone."""
        if number not in self._parts:
            try:
                part = Part(self._paths[number])
                part.check()
            except DamagedPart:
                part = None
            if len(self._parts) >= OPEN:
                self._parts.pop(next(iter(self._parts)))
            self._parts[number] = part
        return self._parts[number]


def _held(folder: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """The files of a cache, finished or not, with the keys of their rows."""
    try:
        cache = PartCache(folder)
    except DamagedPart:
        for path in sorted(folder.glob("part-*.safetensors")):
            with suppress(DamagedPart):
                yield path, Part(path).keys
        return
    for part in range(len(cache.stamps)):
        yield part_path(folder, part), cache.keys[part * cache.part : (part + 1) * cache.part]


def _linked(path: Path, existing: Path) -> bool:
    """Gives a file a second name, so that what did not change takes no more disk; False where that cannot be."""
    try:
        path.hardlink_to(existing)
    except OSError:
        return False
    return True


def _counts(many: np.ndarray) -> np.ndarray:
    """[2, 0, 3] -> [0, 1, 0, 1, 2]."""
    ends = many.cumsum()
    return np.arange(many.sum()) - np.repeat(ends - many, many)


def _claim_path(path: Path) -> Path:
    return path.with_suffix(".claim")
