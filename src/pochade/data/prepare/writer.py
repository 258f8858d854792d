"""Writes samples, pictures or pairs of them, as WebDataset shards or as a plain folder with a list."""

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from pochade.data.dataset import Scores
from pochade.data.sources.class_names import CLASSES, MOST_CLASSES
from pochade.data.sources.formats import INDEX, LIST
from pochade.errors import PochadeError
from pochade.files import IMAGE_SUFFIXES, atomic_file, is_safe_name, sha256, write_bytes, write_json, write_text

SAMPLES_PER_SHARD = 1000


class Record(NamedTuple):
    """A sample to write.

    Attributes:
        key: unique among the samples of a folder, without a dot after the last slash.
        images: files of pictures by what follows the key: ``.png``, or ``.source.png`` and ``.target.png``.
        facts: what a reader finds in ``key.json``, or in the line of the list.
        label: the number of a class.
    """

    key: str
    images: Mapping[str, bytes]
    facts: Mapping[str, Any]
    label: int | None = None


def picture_record(
    key: str,
    image: bytes,
    suffix: str,
    captions: Sequence[str] = (),
    *,
    label: int | None = None,
    group: str = "",
    split: str = "",
    licence: str | None = None,
    scores: Scores = (),
) -> Record:
    """A picture, the bytes of a file with that suffix, with captions (alternatives) or a class or both.

    Raises:
        PochadeError: neither a caption nor a class, or one out of range.
    """
    if not any(caption.strip() for caption in captions) and (captions or label is None):
        raise PochadeError(f"captions: {key!r} has none, and no class")
    facts = {**dict(scores), "text": list(captions), "group": group, "split": split, "licence": licence}
    return Record(key, {suffix: image}, {name: value for name, value in facts.items() if value or value == 0}, label)


class Writer(ABC):
    """Writes records into a new ``folder``; used in a ``with`` statement, at whose end all is complete."""

    def __init__(self, folder: Path, class_names: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.class_names = folder, class_names
        self._open = ExitStack()
        """Files that are not complete, and get no name after an error."""
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def add(self, record: Record) -> None:
        """Writes a record, whose key no other one has: keys are not kept. Raises `PochadeError` for a bad key, another
        format, or a label out of range."""
        _check(record)
        self._write(record)
        self.count += 1

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._finish()
        else:
            self._open.__exit__(*error)

    @abstractmethod
    def _write(self, record: Record) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _name_classes(self) -> None:
        if self.class_names:
            write_text(self.folder / CLASSES[0], "".join(f"{name}\n" for name in self.class_names))


class ShardWriter(Writer):
    """Writes ``000000.tar`` and so on, each of which takes its name when it is complete, and ``index.json`` last.

    A record is its pictures with ``key.json``, the facts, and ``key.cls``, the label; ``class_names`` go to
    ``classes.txt``. Equal records give equal bytes. ``decoded``: whether every picture is known to be readable, so that
    a reader need not decode it once more to find out.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str] = (),
        samples_per_shard: int = SAMPLES_PER_SHARD,
        *,
        decoded: bool = False,
    ) -> None:
        if samples_per_shard < 1:
            raise PochadeError(f"samples_per_shard: {samples_per_shard} given, at least 1 expected")
        super().__init__(folder, class_names)
        if any(folder.glob("*.tar")):
            raise PochadeError(f"folder: {folder} already holds shards")
        self.samples_per_shard = samples_per_shard
        self.index: dict[str, Any] = {**({"decoded": True} if decoded else {}), "samples": 0, "shards": []}
        self._tar: tarfile.TarFile | None = None
        self._inside = 0

    def _write(self, record: Record) -> None:
        if self._tar is None:
            file = self._open.enter_context(atomic_file(self._path))
            self._tar = self._open.enter_context(tarfile.TarFile(fileobj=file, mode="w"))
        add_record(self._tar, record)
        self._inside += 1
        if self._inside == self.samples_per_shard:
            self._finish_shard()

    @property
    def _path(self) -> Path:
        return self.folder / f"{len(self.index['shards']):06d}.tar"

    def _finish_shard(self) -> None:
        path = self._path
        self._open.close()
        self.index["shards"].append(shard_entry(path, self._inside))
        self.index["samples"] += self._inside
        self._tar, self._inside = None, 0

    def _finish(self) -> None:
        if self._inside:
            self._finish_shard()
        self._name_classes()
        write_json(self.folder / INDEX, self.index)


def add_record(tar: tarfile.TarFile, record: Record) -> None:
    """Adds the members of a record to a shard."""
    members = {**record.images, ".json": json.dumps(record.facts, ensure_ascii=False).encode()}
    if record.label is not None:
        members[".cls"] = str(record.label).encode()
    for suffix, data in members.items():
        member = tarfile.TarInfo(record.key + suffix)
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))


def shard_entry(path: Path, samples: int) -> dict[str, Any]:
    """What an index holds of a shard."""
    return {"file": path.name, "samples": samples, "bytes": path.stat().st_size, "sha256": sha256(path)}


def write_index(folder: Path, shards: Sequence[Mapping[str, Any]], class_names: Sequence[str] = ()) -> None:
    """The index of shards whose pictures were all decoded before they were written, and the names of their classes."""
    if class_names:
        write_text(folder / CLASSES[0], "".join(f"{name}\n" for name in class_names))
    write_json(folder / INDEX, {"decoded": True, "samples": sum(s["samples"] for s in shards), "shards": list(shards)})


class FolderWriter(Writer):
    """Writes each picture as a file, and a line for each record into a list: the names of its pictures and its facts.

    The name of a lone picture is its "file_name", those of several are under what their suffixes start with
    ("source"); a class is the "label", by its name.
    """

    def __init__(self, folder: Path, class_names: Sequence[str] = (), name: str = LIST) -> None:
        super().__init__(folder, class_names)
        self.name = name
        self._list: BinaryIO

    def __enter__(self) -> Self:
        self._list = self._open.enter_context(atomic_file(self.folder / self.name))
        return super().__enter__()

    def _write(self, record: Record) -> None:
        row: dict[str, Any] = {}
        for suffix, data in record.images.items():
            write_bytes(self.folder / (record.key + suffix), data)
            role = suffix[1:].rpartition(".")[0]
            row[role or "file_name"] = record.key + suffix
        row |= record.facts
        if record.label is not None:
            row["label"] = self.class_names[record.label] if self.class_names else str(record.label)
        self._list.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())

    def _finish(self) -> None:
        self._open.close()
        self._name_classes()


def write_shards(
    records: Iterable[Record],
    folder: Path,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes records as shards (see `ShardWriter`) into ``folder``; returns what its ``index.json`` holds.

    What is interrupted leaves whole shards without an index. Raises `PochadeError` for a folder that holds shards, and
    for a bad record, or a key that is given twice.
    """
    keys = set[str]()
    with ShardWriter(folder, class_names, samples_per_shard) as writer:
        for record in records:
            if record.key in keys:
                raise PochadeError(f"key: {record.key!r} given twice")
            keys.add(record.key)
            writer.add(record)
    return writer.index


def _check(record: Record) -> None:
    key = record.key
    # WebDataset splits a name at the first dot after the last slash.
    if not is_safe_name(key) or "." in key.rpartition("/")[2]:
        raise PochadeError(f"key: {key!r} given, a relative name without a dot expected")
    for suffix in record.images:
        if f".{suffix.rpartition('.')[2]}" not in IMAGE_SUFFIXES:
            raise PochadeError(f"suffix: {suffix!r} given, allowed are {', '.join(IMAGE_SUFFIXES)}")
    if record.label is not None and not 0 <= record.label < MOST_CLASSES:
        raise PochadeError(f"label: {record.label} given for {key!r}, allowed are 0 to {MOST_CLASSES - 1}")
