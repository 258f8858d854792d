"""WebDataset shards of pictures with captions or classes, each read once and remembered in columns.

A data set of many millions is opened by mapping what is remembered into memory: nothing is kept for a picture but its
class, and the side of the split that it is on.
"""

import itertools
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pochade.data.dataset import Shape, Split
from pochade.data.progress import each
from pochade.data.report import Report
from pochade.data.sources.class_names import MOST_CLASSES, read_class_names
from pochade.data.sources.formats import (
    CAPTION_SUFFIXES,
    PICTURES,
    READABLE,
    READERS,
    Facts,
    clean,
    decode_text,
    read_facts,
    split_folders,
    split_name,
)
from pochade.data.sources.image_files import ImageFiles, Picture, Reading, Records
from pochade.data.sources.tars import Contents, Member, Shard, find_shards, read_shard, top_folders
from pochade.data.store import store_for
from pochade.errors import FailureError, PochadeError
from pochade.images.decode import BadImage
from pochade.tensors import write_tensors

FORM = 7
"""Changes with the form of what is remembered of a shard."""
NO_GROUP = "without a stored group, which the first caption (or the name) stands for"
STORED = 2
"""Added to the side of a picture (1: held out) where it is stored with the picture."""


def open_shards(path: Path, split: Split, *, classes: bool | None = None, reading: Reading | None = None) -> ImageFiles:
    """The pictures of WebDataset shards, by random access into the uncompressed tar files.

    Members of a sample share their name up to the first dot, or beyond it: ``IMG_2024.05.01.png`` goes with
    ``IMG_2024.05.01.txt``. Captions are a line each of ``key.txt`` or ``key.caption``, or in ``key.json``, which may
    give the "group", "split" and "licence" too; ``key.cls`` is the number of a class from 0, which ``classes.txt`` (a
    name a line) or ``classes.json`` (a list) beside the shards names. No other member is ever opened, and nothing is
    unpacked. A split that is not stored is that of a subfolder called train, held_out, test or validation, or else goes
    by the group.

    Where there is an ``index.json``, counts, sizes and hashes are compared with it once: a shard that is cut short
    gives what is left of it, one whose hash differs gives nothing, and the samples lost count as skipped.

    Args:
        path: a folder of .tar files, also in subfolders, or a pattern: ``data/*.tar``, ``data/{000000..000012}.tar``.
        classes: whether the data set is one of classes; None: where there are no captions.

    Raises:
        PochadeError: no shards, a compressed shard, a member name that leaves the folder, no classes where they are
            wanted, names of classes that are not all different, an unknown split.
        EmptySplitError: no picture is of the split.
        FailureError: too many are lost or unusable; the report's file is named.
    """
    reading = reading or Reading()
    folder, shards, missing, notes = find_shards(path)
    names = read_class_names({shard.path.parent for shard in shards})
    store = store_for(folder)
    parts: list[Part] = []

    def remembered(shard: Shard) -> Part:
        place = store / "shards" / f"{sha256(os.fsencode(shard.name)).hexdigest()[:16]}.safetensors"
        at = json.dumps([FORM, READERS, *shard.stamp(), reading.max_megapixels])
        return Part.read(place, at, shard) or Part.make(place, at, shard, reading)

    for _, part in each(remembered, shards, f"reading {folder}", reading.progress):
        parts.append(part)
    total = sum(part.total for part in parts) + sum(entry[3] for entry in missing)
    if not total:
        raise PochadeError(f"shards: {path} holds no captioned pictures, and none with a class")
    report = Report(str(path), store / "report.json", total=total, max_skipped=reading.max_skipped)
    for part in parts:
        part.enter(report)
    for name, reason, detail, samples in missing:
        report.skip(name, reason, detail, samples=samples)
    for what, name in notes:
        report.note(what, name)
    tops = top_folders(shard.name for shard in shards)
    sides = split_folders(tops)
    records = _ShardRecords(parts, [sides.get(top, "") for top in tops])
    return ImageFiles(records, names, report, split=split, classes=classes, reading=reading)


class Part:
    """What is remembered of a shard: its usable pictures in columns that are mapped into memory, and a report."""

    def __init__(self, shard: Shard, columns: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        self.shard, self.columns, self.about = shard, columns, about

    @classmethod
    def read(cls, place: Path, at: str, shard: Shard) -> "Part | None":
        """None where nothing is remembered, of another state of the shard, or what is damaged."""
        try:
            with safe_open(place, "pt") as file:
                words = file.metadata() or {}
                if words.get("at") != at:
                    return None
                columns = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            return cls(shard, columns, json.loads(words["about"]))
        except (SafetensorError, OSError, ValueError, KeyError):
            return None

    @classmethod
    def make(cls, place: Path, at: str, shard: Shard, reading: Reading) -> "Part":
        """Reads the shard, decodes its pictures unless that was done before they were written, and remembers it."""
        contents = read_shard(shard, pair_pictures)
        skipped, notes = list(contents.skipped), Counter[str]()
        first: dict[str, str] = {}
        for what, name in contents.notes:
            notes[what] += 1
            first.setdefault(what, name)
        converted = Counter[str]()
        captions = Counter[str]()
        usable: list[_Usable] = []
        for picture in contents.samples:
            try:
                data = picture.read()
                if shard.entry is None or not shard.entry.decoded:
                    conversions, pixels = picture.examine(data, reading)
                    converted.update(conversions)
                else:
                    pixels = picture.pixels(data)
                usable.append((picture, sha256(data).digest(), pixels))
                captions.update([picture.origin] if picture.origin else [])
            except BadImage as error:
                skipped.append((error.name, error.reason, error.detail, 1))
        about = {"skipped": skipped, "converted": converted, "captions": captions, "notes": notes, "first": first}
        columns = _columns(usable, len(shard.name) + 1)
        facts = sha256(b"".join(columns[name].tobytes() for name in ("digest", "label", "facts")))
        words = {"at": at, "about": json.dumps({**about, "sha256": facts.hexdigest()})}
        write_tensors(place, {name: torch.from_numpy(column) for name, column in columns.items()}, words)
        return cls.read(place, at, shard) or cls(shard, columns, json.loads(words["about"]))

    @classmethod
    def listed(cls, path: Path, name: str, samples: int) -> "Part":
        """The pictures of a shard that was prepared, each known to be readable; they are not read.

        Raises:
            FailureError: it does not hold so many.
        """
        shard = Shard(path, name, None)
        found = read_shard(shard, pair_pictures)
        if len(found.samples) != samples:
            raise FailureError(f"{name}: {len(found.samples)} pictures that can be used, its index says {samples}")
        usable = [(picture, b"", None) for picture in found.samples]
        return cls(shard, _columns(usable, len(name) + 1), {})

    def __len__(self) -> int:
        return len(self.columns["label"])

    @property
    def total(self) -> int:
        """Samples, usable and not."""
        return len(self) + sum(entry[3] for entry in self.about["skipped"])

    def enter(self, report: Report) -> None:
        """Puts what became of the samples into ``report``."""
        report.used += len(self)
        report.converted.update(self.about["converted"])
        report.captions.update(self.about["captions"])
        for name, reason, detail, samples in self.about["skipped"]:
            report.skip(name, reason, detail, samples=samples)
        for what, count in self.about["notes"].items():
            report.note(what, self.about["first"][what], count)

    def picture(self, row: int) -> Picture:
        """The picture of a row, with what is stored of it."""
        member, captions, group, licence = self._words("facts", row)
        offset, length, label = (int(self.columns[name][row]) for name in ("offset", "length", "label"))
        return Picture(
            f"{self.shard.name}/{member}",
            self.shard.path,
            tuple(captions),
            None if label < 0 else label,
            group,
            "",
            licence,
            offset,
            length,
            scores=tuple(map(tuple, self._words("scores", row))),
        )

    def _words(self, column: str, row: int) -> Any:
        ends = self.columns[f"{column}_end"]
        start = int(ends[row - 1]) if row else 0
        return json.loads(self.columns[column][start : int(ends[row])].tobytes())


_Usable = tuple[Picture, bytes, Shape | None]
"""A picture, the SHA-256 of its bytes, and its width and height."""


def _columns(usable: Sequence[_Usable], prefix: int) -> dict[str, np.ndarray]:
    """The columns of usable pictures [n]; ``prefix`` letters of their names are those of the shard."""
    texts = [json.dumps([p.name[prefix:], p.captions, p.group, p.licence]).encode() for p, *_ in usable]
    scores = [json.dumps(p.scores).encode() for p, *_ in usable]
    sides: list[int] = []
    for picture, *_ in usable:
        sides.append(int(picture.held_out) + (STORED if picture.split else 0))
    return {
        "facts": np.frombuffer(b"".join(texts), np.uint8).copy(),
        "facts_end": np.cumsum([len(text) for text in texts], dtype=np.int64),
        "scores": np.frombuffer(b"".join(scores), np.uint8).copy(),
        "scores_end": np.cumsum([len(text) for text in scores], dtype=np.int64),
        "offset": np.array([picture.offset for picture, *_ in usable], np.int64),
        "length": np.array([picture.length or 0 for picture, *_ in usable], np.int64),
        "label": np.array([-1 if p.label is None else p.label for p, *_ in usable], np.int32),
        "captioned": np.array([bool(picture.captions) for picture, *_ in usable], np.uint8),
        "side": np.array(sides, np.uint8),
        "pixels": np.array([pixels or (0, 0) for *_, pixels in usable], np.int32).reshape(-1, 2),
        "digest": np.frombuffer(b"".join(digest for _, digest, _ in usable), np.uint8).reshape(-1, 32).copy(),
    }


class _ShardRecords(Records):
    """The pictures of all parts, one part after the other; ``sides``: of each part, by its folder, "" for neither."""

    def __init__(self, parts: Sequence[Part], sides: Sequence[str]) -> None:
        self.parts = parts
        self._starts = [0, *itertools.accumulate(map(len, parts))]
        self.labels = self._joined("label")
        self.captioned = self._joined("captioned").astype(bool)
        held_out: list[np.ndarray] = []
        for part, folder in zip(parts, sides, strict=True):
            side = part.columns["side"]
            by_folder = np.full(len(side), folder == "held_out")
            own = (side % STORED).astype(bool)
            held_out.append(np.where(side >= STORED, own, by_folder) if folder else own)
        self.held_out = np.concatenate(held_out) if held_out else np.zeros(0, bool)

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([part.columns[name] for part in self.parts])

    def _at(self, index: int) -> tuple[Part, int]:
        number = bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]

    def picture(self, index: int) -> Picture:
        part, row = self._at(index)
        return part.picture(row)

    def dimensions(self, index: int) -> Shape | None:
        part, row = self._at(index)
        width, height = part.columns["pixels"][row].tolist()
        return (width, height) if width else None

    def digest(self, index: int) -> str:
        part, row = self._at(index)
        return part.columns["digest"][row].tobytes().hex()

    def fingerprint(self) -> str:
        digest = sha256(json.dumps([part.about["sha256"] for part in self.parts]).encode())
        digest.update(np.packbits(self.held_out).tobytes())
        return digest.hexdigest()


def pair_pictures(path: Path, shard: str, members: list[Member], *, bare: bool = False) -> Contents:
    """A `Picture` for each sample; ``bare``: also for those with neither captions nor a class."""
    pictures: dict[str, Member] = {}
    unread: dict[str, Member] = {}
    beside: dict[str, dict[str, Member]] = {suffix: {} for suffix in (*CAPTION_SUFFIXES, ".cls", ".json")}
    found = Contents([], [], [])
    for name, offset, length in members:
        stem, suffix = split_name(name)
        if suffix in READABLE and stem not in pictures:
            pictures[stem] = (name, offset, length)
        elif suffix in READABLE:
            found.skipped.append((f"{shard}/{name}", "second picture of a sample", pictures[stem][0], 1))
        elif suffix in PICTURES:
            unread.setdefault(stem, (name, offset, length))
            found.skipped.append((f"{shard}/{name}", "unsupported format", suffix, 1))
        elif suffix in beside:
            beside[suffix][stem] = (name, offset, length)
        else:
            found.notes.append((f"other members ({suffix or 'no suffix'})", f"{shard}/{name}"))
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
            origin, unreadable = "", list[tuple[str, str]]()
            data = {suffix: read(suffix, stem) for suffix in beside}
            for kind, value in data.items():
                try:
                    match kind, value:
                        case ((".txt" | ".caption"), bytes()) if facts.captions:
                            found.notes.append(("second caption member of a sample", f"{shard}/{stem}{kind}"))
                        case ((".txt" | ".caption"), bytes()):
                            text, note = decode_text(value)
                            facts = facts._replace(captions=clean(text.splitlines()))
                            origin = f"{kind} members" if facts.captions else ""
                            found.notes.extend([(note, f"{shard}/{name}")] if note else [])
                        case ".json", bytes():
                            found_facts = read_facts(json.loads(value.decode("utf-8-sig")), f"{path}: {stem}.json")
                            facts = found_facts._replace(captions=facts.captions or found_facts.captions)
                            origin = origin or (".json members" if facts.captions else "")
                        case ".cls", bytes():
                            label = _label(value)
                        case _:
                            pass
                except PochadeError:
                    raise
                except (ValueError, TypeError) as error:
                    detail = detail or f"{stem}{kind}: {type(error).__name__}: {error}"
                    unreadable.append((f"a member that cannot be read: {kind}", f"{shard}/{name}"))
            if facts.captions or label is not None or bare:
                found.notes.extend(unreadable)
                if not facts.group:
                    found.notes.append((NO_GROUP, f"{shard}/{name}"))
                place = path, facts.captions, label, facts.group, facts.split, facts.licence, offset, length
                found.samples.append(Picture(f"{shard}/{name}", *place, origin=origin, scores=facts.scores))
            else:
                classes_alone = owned[".cls"] and not any(owned[suffix] for suffix in owned if suffix != ".cls")
                lacking = "no class" if classes_alone else "no caption"
                found.skipped.append((f"{shard}/{name}", lacking, detail, 1))
    for suffix, left in beside.items():
        for stem in _owners(unread, left).values():
            left.pop(stem)  # of a picture that is named already
        found.notes.extend((f"{suffix} members without a picture", f"{shard}/{m[0]}") for m in left.values())
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
