"""Shards of pictures to shards of chosen pictures: filtered, without duplicates, scored, with new captions.

Every shard is a piece of work, twice: first it is inspected, then, once it is known which pictures of all shards are
alike, what is kept of it is written. A piece leaves files of its number, each whole or not at all, so that it does not
matter where it is done, how often, or what dies on the way: each picture is written once. A piece holds one picture at
a time. What is remembered of a picture between the two lies on the disk, 800 bytes of it.
"""

import json
import tarfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pochade.arguments import check_number
from pochade.data.cache.parts import map_tensors
from pochade.data.dataset import check_size, split_of
from pochade.data.near_duplicates import THUMB, fingerprint, first_alike
from pochade.data.prepare.annotators import captioner
from pochade.data.prepare.executors import MARK, Piece, Place, check_place, each_piece
from pochade.data.prepare.target import check_apart, claimed, png
from pochade.data.prepare.writer import add_record, picture_record, shard_entry, write_index
from pochade.data.progress import progress_bar
from pochade.data.scores import COLUMN, CONTRAST, scorer
from pochade.data.sources import FolderSource, local_path
from pochade.data.sources.class_names import read_class_names
from pochade.data.sources.formats import PREPARED, split_folders
from pochade.data.sources.image_files import Picture, Reading
from pochade.data.sources.shards import pair_pictures
from pochade.data.sources.tars import Contents, Shard, Shards, find_shards, read_shard, top_folders
from pochade.errors import FailureError, PochadeError
from pochade.files import (
    atomic_file,
    check_replaceable,
    check_tensor_folder,
    mapped_file,
    remove_folder,
    remove_orphans,
    sha256,
    write_json,
)
from pochade.images.decode import BadImage, square
from pochade.tensors import write_tensors

REPORT = PREPARED[0]
SETTINGS, FACTS = "settings.json", "facts"
SIDES = ("train", "held_out")
LEFT_OUT = ("too small", "below the score")
LOST = (*LEFT_OUT, "without a caption")
COMPUTED = "score:"
"""Begins the names of scores that were computed here, which no list has for its own."""
NAMED = 100
"""Pictures left out that the report names."""
OPEN = 1024
"""Files with the small copies of pictures that are mapped at once."""


@dataclass(frozen=True, kw_only=True)
class Curation:
    """What is kept of the pictures, and what they get.

    Attributes:
        size: rows and columns of the stored pictures (PNG) in pixels.
        min_side: pixels of the shorter side, below which a picture is left out.
        min_score: of the score, below which a picture is left out; None: all stay, without a score.
        score: by which it is chosen, as ``pochade.data.scores.scorer`` takes it.
        deduplicate: of near duplicates (`pochade.data.near_duplicates`) only the first stays.
        caption: a model of transformers that describes pictures, by hub name or folder; its caption comes first, before
            those that there are. None: those stay alone.

    Raises:
        PochadeError: a value out of range.
    """

    size: int
    min_side: int = 0
    min_score: float | None = None
    score: str = CONTRAST
    deduplicate: bool = False
    caption: str | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.min_side < 0:
            raise PochadeError(f"min_side: {self.min_side} given, at least 0 expected")
        check_number("min_score", self.min_score)
        if self.score != CONTRAST and self.min_score is None:
            raise PochadeError(f"score: {self.score} given without min_score, by which pictures are chosen")

    @property
    def computed(self) -> str | None:
        """The name under which the score is stored with the pictures, beside the numbers that they have; None where
        there is none, or it is one of those."""
        named = self.min_score is not None and not self.score.startswith(COLUMN)
        return f"{COMPUTED}{self.score}".casefold() if named else None

    def load_models(self) -> None:
        """Loads what scores and what describes pictures. Raises PochadeError where there is no such model."""
        if self.min_score is not None:
            scorer(self.score)
        if self.caption is not None:
            captioner(self.caption)


def curate(
    source: FolderSource,
    out: Path,
    curation: Curation,
    *,
    on: Place = "local",
    gpus: float = 0,
    reading: Reading | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes what is kept of shards as shards ``out/train/000123.tar``, each named by that which it comes from.

    An interrupted call, repeated, goes on. Meanwhile all lies in the folder ``out`` with ``.partial`` at its end.
    Models are loaded here first, wherever they work.

    Args:
        on: "local", or "ray", a cluster whose machines see ``out`` and the source under the same paths.
        gpus: of the cluster, for each piece; 0 leaves models on processors.

    Returns:
        The report: how many pictures there were, and what became of them.

    Raises:
        PochadeError: no shards, no such model or number to score by, ``out`` is there or cannot be made, another
            process writes it, or what was begun there has other settings.
        FailureError: too many unusable pictures, nothing is kept, or something cannot be written.
    """
    check_place(on, gpus)
    reading = reading or Reading()
    check_tensor_folder("out", out)
    check_replaceable("out", out)
    out = out.resolve()  # a folder replaces no link
    check_apart(out, source.path)
    found = find_shards(local_path(source.path))
    shards, work = tuple(found.shards), out.with_name(f"{out.name}.partial")
    settings = {"source": str(source), **asdict(curation), "shards": len(shards)}
    settings |= {"background": reading.background, "max_megapixels": reading.max_megapixels}
    curation.load_models()
    with claimed(out):
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise PochadeError(f"out: {out} is there already; choose another folder")
        _check_same(work, settings)
        report = _curate(found, work, curation, on, gpus, reading, progress)
        write_json(work / REPORT, {**settings, "format": "shards", **report})
        if out.exists():
            if any(out.iterdir()):
                kept = f"what was made is kept in {work}: move the other away and repeat the command"
                raise FailureError(f"out: {out} has appeared meanwhile; {kept}")
            out.rmdir()
        work.rename(out)  # before anything goes by which a repeated call would go on
        remove_folder(out / FACTS)
        for left in (out / SETTINGS, *out.glob(f"{MARK}*")):  # marks of calls that were killed
            left.unlink()
    return json.loads((out / REPORT).read_bytes())


def _curate(
    found: Shards, work: Path, curation: Curation, on: Place, gpus: float, reading: Reading, progress: bool
) -> dict[str, Any]:
    """Writes all but the report into the folder ``work``; returns it."""
    shards = tuple(found.shards)
    tops = top_folders(shard.name for shard in shards)
    sides = split_folders(tops)
    stamps = tuple([shard.name, *shard.stamp()] for shard in shards)
    pieces = _Pieces(shards, tuple(sides.get(top, "") for top in tops), stamps, work, curation, reading)
    with progress_bar(progress) as bar:

        def each(piece: Piece, title: str) -> None:
            task = bar.add_task(title, total=len(shards))
            for _ in each_piece(piece, len(shards), on, work, gpus=gpus):
                bar.advance(task)

        each(pieces.inspect, "inspecting shards")
        report = _choose(pieces, found, reading.max_skipped)
        each(pieces.write, "writing shards")
    written = [json.loads(pieces.done(number).read_bytes()) for number in range(len(shards))]
    report["without a caption"] = sum(one["without a caption"] for one in written)
    report["samples"] = {side: _index(pieces, side, [one[side] for one in written if side in one]) for side in SIDES}
    if not any(report["samples"].values()):
        why = ", ".join(f"{report[name]} {name}" for name in LOST if report[name])
        why = why or ("all unusable" if report["pictures"] else "there are none")
        remove_folder(work)
        raise FailureError(f"source: {found.folder}: no picture is kept ({why})")
    return report


@dataclass(frozen=True)
class _Pieces:
    """The work on each shard, by its number. ``sides``: that of each by its folder, "" where the pictures say;
    ``stamps``: its name and state as the one machine that hands out the work sees it, at the start of a call."""

    shards: tuple[Shard, ...]
    sides: tuple[str, ...]
    stamps: tuple[list[Any], ...]
    work: Path
    curation: Curation
    reading: Reading

    @property
    def facts(self) -> Path:
        return self.work / FACTS

    def inspected(self, number: int) -> Path:
        """What was seen of the pictures of a shard that pass by themselves."""
        return self.facts / f"inspected-{number:06d}.safetensors"

    def chosen(self, number: int) -> Path:
        """Which of them are kept."""
        return self.facts / f"chosen-{number:06d}.safetensors"

    def done(self, number: int) -> Path:
        """What was written of them."""
        return self.facts / f"written-{number:06d}.json"

    def inspect(self, number: int) -> int:
        """Reads a shard that is not remembered as it is, and remembers of each picture that passes the filters its
        place, hash, small copy and score; returns the pictures in it."""
        curation, place = self.curation, self.inspected(number)
        if place.exists():
            about = json.loads(map_tensors(place)[1]["about"])
            if about["stamp"] == self.stamps[number]:
                return int(about["pictures"])
        contents = self._contents(number)
        skipped = [list(entry) for entry in contents.skipped]
        out = dict.fromkeys(LEFT_OUT, 0)
        score = None if curation.min_score is None else scorer(curation.score)
        rows, bits, thumbs, scores = list[int](), list[int](), list[np.ndarray](), list[float]()
        stored, notes = set[str](), dict[str, tuple[str, int]]()
        for what, name in contents.notes:
            first, count = notes.get(what, (name, 0))
            notes[what] = first, count + 1
        for row, picture in enumerate(contents.samples):
            stored.update(name for name, _ in picture.scores)
            try:
                data = picture.read()
                pixels = picture.pixels(data)
                image = picture.load(data, curation.size, self.reading)[0]
            except BadImage as error:
                skipped.append([error.name, error.reason, error.detail, 1])
                continue
            if pixels is not None and min(pixels) < curation.min_side:
                out[LEFT_OUT[0]] += 1
                continue
            value = 0.0 if score is None else score(picture.scores, lambda _, image=image: image)
            if curation.min_score is not None and value < curation.min_score:
                out[LEFT_OUT[1]] += 1
                continue
            seen = fingerprint(image)
            rows.append(row)
            bits.append(seen.bits)
            thumbs.append(seen.thumb)
            scores.append(value)
        columns = {
            "row": torch.tensor(rows, dtype=torch.int64),
            "bits": torch.from_numpy(np.array(bits, np.uint64).view(np.int64)),
            "thumb": torch.from_numpy(np.array(thumbs, np.uint8).reshape(-1, THUMB, THUMB, 3)),
            "score": torch.tensor(scores, dtype=torch.float32),
        }
        about = {
            "pictures": len(contents.samples),
            "skipped": skipped,
            "out": out,
            "notes": notes,
            "scores": sorted(stored),
            "stamp": self.stamps[number],
        }
        write_tensors(place, columns, {"about": json.dumps(about)})
        return len(contents.samples)

    def write(self, number: int) -> int:
        """Writes what is kept of a shard as one shard a side; returns the pictures kept."""
        curation, done = self.curation, self.done(number)
        shard, chosen = self.shards[number], self.chosen(number)
        kept, choice = map_tensors(chosen)[0], sha256(chosen)
        if done.exists() and self._is_written(number, choice):
            return len(kept["row"])
        if shard.stamp()[2:] != self.stamps[number][3:]:  # size and hash: machines may see other times of a file
            raise FailureError(f"{shard.path}: it has changed since it was inspected; repeat the command")
        scores = dict(zip(kept["row"].tolist(), kept["score"].tolist(), strict=True))
        describe = None if curation.caption is None else captioner(curation.caption)
        counts, bare = Counter[str](), 0
        with ExitStack() as stack:
            tars: dict[str, tarfile.TarFile] = {}
            for row, picture in enumerate(self._contents(number).samples):
                if row not in scores:
                    continue
                image = square(picture.load(picture.read(), curation.size, self.reading)[0], curation.size)
                made = "" if describe is None else describe(image)
                captions = tuple(dict.fromkeys(c for c in (made, *picture.captions) if c))
                if not captions and picture.label is None:
                    bare += 1
                    continue
                side = "train" if self._side(number, picture) == "train" else "held_out"
                if side not in tars:
                    file = stack.enter_context(atomic_file(self.shard(side, number)))
                    tars[side] = stack.enter_context(tarfile.TarFile(fileobj=file, mode="w"))
                record = picture_record(
                    f"{number:06d}-{row:06d}",
                    png(image),
                    ".png",
                    captions,
                    label=picture.label,
                    group=picture.own_group,
                    split=side,
                    licence=picture.licence,
                    scores=picture.scores,
                )
                facts = {"name": picture.name, **record.facts}
                facts |= {} if curation.computed is None else {curation.computed: round(scores[row], 4)}
                add_record(tars[side], record._replace(facts=facts))
                counts[side] += 1
        for side in SIDES:
            if side not in counts:  # of another choice
                self.shard(side, number).unlink(missing_ok=True)
        entries = {side: shard_entry(self.shard(side, number), count) for side, count in counts.items()}
        write_json(done, {**entries, "choice": choice, "without a caption": bare})
        return sum(counts.values())

    def _is_written(self, number: int, choice: str) -> bool:
        """Whether what is written of a shard is of the same choice, and lies there in its full length."""
        written = json.loads(self.done(number).read_bytes())
        files = {self.shard(side, number): written[side]["bytes"] for side in SIDES if side in written}
        whole = all(path.is_file() and path.stat().st_size == size for path, size in files.items())
        return whole and written.get("choice") == choice

    def shard(self, side: str, number: int) -> Path:
        """The file of a side of a shard."""
        return self.work / side / f"{number:06d}.tar"

    def _contents(self, number: int) -> Contents:
        return read_shard(self.shards[number], partial(pair_pictures, bare=self.curation.caption is not None))

    def _side(self, number: int, picture: Picture) -> str:
        return picture.split or self.sides[number] or split_of(picture.own_group)


def _choose(pieces: _Pieces, found: Shards, max_skipped: float) -> dict[str, Any]:
    """Decides, once all shards were inspected, which pictures are kept; returns the report so far."""
    out, reasons, named = dict.fromkeys(LEFT_OUT, 0), Counter[str](), list[list[Any]]()
    notes, stored = dict[str, dict[str, Any]](), set[str]()
    ends = np.zeros(len(pieces.shards), np.int64)

    def skip(name: str, reason: str, detail: str, samples: int) -> None:
        reasons[reason] += samples
        named.extend([[name, reason, detail]] if len(named) < NAMED else [])

    def note(what: str, first: str, count: int = 1) -> None:
        notes.setdefault(what, {"first": first, "files": 0})["files"] += count

    for entry in found.missing:
        skip(*entry)
    for entry in found.notes:
        note(*entry)
    for number in range(len(pieces.shards)):
        tensors, words = map_tensors(pieces.inspected(number))
        ends[number] = len(tensors["bits"])
        about = json.loads(words["about"])
        for name in LEFT_OUT:
            out[name] += about["out"][name]
        for entry in about["skipped"]:
            skip(*entry)
        for what, (first, count) in about["notes"].items():
            note(what, first, count)
        stored.update(about["scores"])
    unusable, ends = sum(reasons.values()), np.cumsum(ends)
    passed = int(ends[-1])
    # What cannot be decoded is among the pictures of a shard, what has no caption or is lost is not.
    total = passed + sum(out.values()) + unusable
    column = pieces.curation.score.removeprefix(COLUMN).casefold()
    if total and pieces.curation.score.startswith(COLUMN) and column not in stored:
        remove_folder(pieces.work)  # what another score goes with
        known = ", ".join(sorted(stored)) or "none"
        raise PochadeError(f"score: {pieces.curation.score} given, but no picture has that number; stored are {known}")
    if unusable > max(1 if max_skipped else 0, max_skipped * total):
        worst = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        lost = f"{unusable} of {total} pictures cannot be used ({worst}), {named[0][0]} for one"
        allowed = f"more than the fraction {max_skipped:g} (max_skipped)"
        again = f"repeated, the command inspects what has changed; the rest is known by {pieces.work}"
        raise FailureError(f"source: {lost}; that is {allowed}; {again}")
    alike, kept = _first(pieces, ends) if pieces.curation.deduplicate else None, 0
    for number, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        tensors = map_tensors(pieces.inspected(number))[0]
        mine = slice(None) if alike is None else torch.from_numpy(alike[start:end] == np.arange(start, end))
        chosen = {name: tensors[name][mine] for name in ("row", "score")}
        write_tensors(pieces.chosen(number), chosen, {"stamp": json.dumps(pieces.stamps[number])})
        kept += len(chosen["row"])
    pictures = {"pictures": total, "unusable": dict(reasons), **out, "duplicates": passed - kept}
    return {**pictures, "kept": kept, "named": named, "notes": notes}


def _first(pieces: _Pieces, ends: np.ndarray) -> np.ndarray:
    """The first picture [n] of those like each of all that were inspected; ``ends`` as of `_Copies`."""
    empty = partial(_in_a_file, pieces.facts)
    bits = empty(int(ends[-1]), np.uint64)
    for number, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        bits[start:end] = map_tensors(pieces.inspected(number))[0]["bits"].numpy().view(np.uint64)
    return first_alike(bits, _Copies(pieces, ends), empty)


def _in_a_file(folder: Path, count: int, kind: type) -> np.ndarray:
    return np.frombuffer(mapped_file(folder, count * np.dtype(kind).itemsize), kind) if count else np.empty(0, kind)


class _Copies:
    """The small copies of pictures by their places among all, from files of which few are mapped into memory at once:
    a process may map some 65,000. ``ends``: of each, the places up to its last picture."""

    def __init__(self, pieces: _Pieces, ends: np.ndarray) -> None:
        self.ends = ends
        self._thumbs = lru_cache(OPEN)(lambda part: map_tensors(pieces.inspected(part))[0]["thumb"].numpy())

    def __call__(self, places: np.ndarray) -> np.ndarray:
        found = np.zeros((len(places), THUMB, THUMB, 3), np.uint8)
        parts = np.searchsorted(self.ends, places, side="right").tolist()
        for at, (part, place) in enumerate(zip(parts, places.tolist(), strict=True)):
            thumbs = self._thumbs(part)
            found[at] = thumbs[place - int(self.ends[part]) + len(thumbs)]
        return found


def _index(pieces: _Pieces, side: str, entries: list[dict[str, Any]]) -> int:
    """Writes the index of a side, where there is anything; returns its samples."""
    if entries:
        remove_orphans(pieces.work / side)  # of workers that were killed
        names = read_class_names({shard.path.parent for shard in pieces.shards})
        write_index(pieces.work / side, entries, names or ())
    return sum(entry["samples"] for entry in entries)


def _check_same(work: Path, settings: dict[str, Any]) -> None:
    """Begins in the folder ``work``. Raises PochadeError where it holds what was begun with other settings."""
    place = work / SETTINGS
    if not work.exists():
        write_json(place, settings)
    begun = json.loads(place.read_bytes()) if place.exists() else {}
    if begun != settings:
        other = next((name for name in settings if begun.get(name) != settings[name]), "all")
        raise PochadeError(f"out: {work} was begun with {other} {begun.get(other)!r}; finish that, or delete it")
