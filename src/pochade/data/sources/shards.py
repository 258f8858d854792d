"""WebDataset shards: plain tar files of pictures with captions or classes, each with a count and a hash."""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

from pochade.data.report import MAX_SKIPPED, Report
from pochade.data.sources.captioned import CaptionedImages, Picture, each, read_store, stamp, store_for
from pochade.errors import PochadeError
from pochade.files import IMAGE_SUFFIXES, atomic_file, is_safe_name, write_json
from pochade.images.decode import MAX_MEGAPIXELS

INDEX = "index.json"
CLASSES = ("classes.txt", "classes.json")
"""What may name the classes: a name a line, or a list of names."""
MOST_CLASSES = 100_000
CONTENTS = 2
"""Changes with the form of what is remembered of a shard."""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")

Member = tuple[str, int, int]
"""Name, offset and length of a file in a shard."""
Pairing = Callable[[Path, list[Member]], tuple[list[list[Any]], list[list[Any]]]]


class Record(NamedTuple):
    """A sample to write: ``captions`` are alternatives, ``suffix`` has its dot, ``key`` is unique.

    There are captions, or a class ``label``, or both.
    """

    image: bytes
    suffix: str
    captions: Sequence[str]
    key: str
    label: int | None = None


class ShardWriter:
    """Writes ``000000.tar`` and so on below ``folder``, a record at a time; see `write_shards`.

    Used in a ``with`` statement: at its end the last shard is closed, and the index written unless there was an error.
    """

    def __init__(self, folder: Path, samples_per_shard: int = 1000, class_names: Sequence[str] = ()) -> None:
        if samples_per_shard < 1:
            raise PochadeError(f"samples_per_shard: {samples_per_shard} given, at least 1 expected")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.tar")):
            raise PochadeError(f"folder: {folder} already holds shards")
        self.folder, self.samples_per_shard, self.class_names = folder, samples_per_shard, class_names
        self.index: dict[str, Any] = {"samples": 0, "shards": []}
        self._keys: set[str] = set()
        self._open = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def add(self, record: Record) -> None:
        """Writes a record. Raises `PochadeError` for a bad one."""
        _check_record(record)
        members = {record.suffix: record.image}
        if record.captions:
            members[".txt"] = "\n".join(record.captions).encode()
        if record.label is not None:
            members[".cls"] = str(record.label).encode()
        self.write(record.key, members)

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Writes the files of a sample, by their suffixes. Raises `PochadeError` for a bad or repeated key."""
        _check_key(key, self._keys)
        if self._tar is None:
            file = self._open.enter_context(atomic_file(self._path))
            self._tar = self._open.enter_context(tarfile.TarFile(fileobj=file, mode="w"))
        for suffix, data in members.items():
            _add(self._tar, key + suffix, data)
        self._count += 1
        if self._count == self.samples_per_shard:
            self._finish()

    @property
    def _path(self) -> Path:
        return self.folder / f"{len(self.index['shards']):06d}.tar"

    def _finish(self) -> None:
        path = self._path
        self._open.close()
        entry = {"file": path.name, "samples": self._count, "bytes": path.stat().st_size, "sha256": _hash(path)}
        self.index["shards"].append(entry)
        self.index["samples"] += self._count
        self._tar, self._count = None, 0

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._open.__exit__(*error)
            return
        if self._count:
            self._finish()
        if self.class_names:
            with atomic_file(self.folder / CLASSES[0]) as file:
                file.write("".join(f"{name}\n" for name in self.class_names).encode())
        write_json(self.folder / INDEX, self.index)


def write_shards(
    records: Iterable[Record], folder: Path, samples_per_shard: int = 1000, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes ``000000.tar`` and so on, then ``index.json`` (samples, bytes, SHA-256); returns that.

    A sample is ``key.png`` (or .jpg, .jpeg, .webp) with ``key.txt``, a caption a line, and ``key.cls``, the number of
    a class; ``class_names`` go to ``classes.txt``. A shard takes its name when it is complete, and the index comes
    last: what is interrupted leaves whole shards without an index. Equal records give equal bytes. Raises
    `PochadeError` for a folder that holds shards, and for a bad or repeated key.
    """
    with ShardWriter(folder, samples_per_shard, class_names) as writer:
        for record in records:
            writer.add(record)
    return writer.index


class ShardDataset(CaptionedImages):
    """The pictures of WebDataset shards with captions or classes, by random access into the uncompressed tar files.

    Only picture members (.png, .jpg, .jpeg, .webp), captions and classes are read: ``key.txt``, a caption a line, or
    the "text" or "caption" of ``key.json``; ``key.cls``, a number from 0. No other member is ever opened, and nothing
    is unpacked. ``classes.txt`` (a name a line) or ``classes.json`` (a list) beside the shards names the classes.

    Where the folder has an ``index.json``, counts, sizes and hashes are compared with it once: a shard
    that is cut short gives what is left of it, one whose hash differs gives nothing, and the samples lost
    count as skipped.

    Args:
        shards: a folder of .tar files, or a pattern: ``data/*.tar``, ``data/{000000..000012}.tar``.
        size, split, background, max_megapixels, max_skipped, progress: as for `ImageFolder`.
        classes: whether samples hold classes; None: where there are no captions.

    Raises:
        PochadeError: no shards, a compressed shard, a member name that leaves the folder, no classes where they are
            wanted, names of classes that are not all different.
        FailureError: more than ``max_skipped`` lost or unusable; the report's file is named.
    """

    def __init__(
        self,
        shards: Path | str,
        size: int,
        *,
        split: str = "all",
        background: str | tuple[int, int, int] = "white",
        max_megapixels: float = MAX_MEGAPIXELS,
        max_skipped: float = MAX_SKIPPED,
        progress: bool = True,
        classes: bool | None = None,
    ) -> None:
        super().__init__(size, split=split, background=background, max_megapixels=max_megapixels)
        folder, contents = read_contents(shards, _pair, "shards.json", progress)
        names = _class_names(folder)
        store = store_for(folder)
        total = sum(len(c["pictures"]) + sum(skip[3] for skip in c["skipped"]) for c in contents.values())
        if not total:
            raise PochadeError(f"shards: {shards} holds no captioned pictures, and none with a class")
        self.report = Report(str(shards), store / "report.json", total=total, max_skipped=max_skipped)
        found: list[Picture] = []
        for name, content in contents.items():
            for skipped, reason, detail, samples in content["skipped"]:
                self.report.skip(skipped, reason, detail, samples=samples)
            for member, captions, offset, length, label in content["pictures"]:
                found.append(Picture(f"{name}/{member}", tuple(captions), folder / name, offset, length, label))
        self._keep_usable(self._name_classes(found, names, classes), store, progress)


def read_contents(
    shards: Path | str, pair: Pairing, remembered: str, progress: bool
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The folder of the shards, and of each by its name what it holds: "pictures" as ``pair`` finds them, "skipped".

    Args:
        shards: as for `ShardDataset`, whose errors are raised.
        pair: from the members of a shard, (name, offset, length), to its samples and to those that are skipped, [name,
            reason, detail, samples].
        remembered: name of the file that saves reading unchanged shards again.
    """
    paths = _expand(shards)
    folder = paths[0].parent
    store = store_for(folder)
    expected = _read_index(folder / INDEX)
    known = read_store(store / remembered)
    contents: dict[str, dict[str, Any]] = {}

    def examine(path: Path) -> dict[str, Any]:
        entry = expected.get(path.name)
        at = [CONTENTS, *stamp(path), entry["sha256"] if entry else None]
        old = known.get(path.name, {})
        return old if old.get("stamp") == at else {"stamp": at, **_contents(path, entry, pair)}

    for path, content in each(examine, paths, f"reading {folder}", progress):
        contents[path.name] = content
    if contents != known:
        write_json(store / remembered, contents)
    missing = {name: expected[name]["samples"] for name in expected if name not in contents}
    if Path(shards).is_dir():
        contents |= {
            name: {"pictures": [], "skipped": [[name, "missing shard", f"{lost} samples", lost]]}
            for name, lost in missing.items()
        }
    return folder, contents


def _check_key(key: str, keys: set[str]) -> None:
    # WebDataset splits a name at the first dot after the last slash.
    if not is_safe_name(key) or "." in key.rsplit("/", 1)[-1]:
        raise PochadeError(f"key: {key!r} given, a relative name without a dot expected")
    if key in keys:
        raise PochadeError(f"key: {key!r} given twice")
    keys.add(key)


def _check_record(record: Record) -> None:
    key = record.key
    if record.suffix not in IMAGE_SUFFIXES:
        raise PochadeError(f"suffix: {record.suffix!r} given, allowed are {', '.join(IMAGE_SUFFIXES)}")
    if not any(caption.strip() for caption in record.captions) and (record.captions or record.label is None):
        raise PochadeError(f"captions: {key!r} has none, and no class")
    if record.label is not None and not 0 <= record.label < MOST_CLASSES:
        raise PochadeError(f"label: {record.label} given for {key!r}, allowed are 0 to {MOST_CLASSES - 1}")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def _hash(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _expand(shards: Path | str) -> list[Path]:
    """The tar files of a folder or pattern, in order."""
    path = Path(shards)
    if path.is_dir():
        paths = sorted(path.glob("*.tar"))
    elif brace := re.search(r"\{(\d+)\.\.(\d+)\}", str(shards)):
        first, last = brace.groups()
        numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        paths = [Path(str(shards).replace(brace[0], number)) for number in numbers]
        absent = [p.name for p in paths if not p.is_file()]
        if absent:
            raise PochadeError(f"shards: {shards}: {absent[0]} and {len(absent) - 1} more are missing")
    else:
        paths = sorted(p for p in path.parent.glob(path.name) if p.is_file())
    if not paths:
        raise PochadeError(f"shards: {shards}: no .tar file there")
    return paths


def _class_names(folder: Path) -> list[str] | None:
    """The names beside the shards, None where there are none."""
    path = next((folder / name for name in CLASSES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows: Any = text.splitlines() if path.suffix == ".txt" else json.loads(text)
        if not isinstance(rows, list):
            raise TypeError(f"a list expected, {type(rows).__name__} found")
        names = [" ".join(row.split()) for row in rows]
    except (ValueError, TypeError, AttributeError) as error:
        raise PochadeError(f"{path}: no list of names ({type(error).__name__}: {error})") from error
    lines: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name or name.casefold() in lines:
            was = f"{name!r} is also class {lines[name.casefold()]}" if name else "no name"
            raise PochadeError(f"{path}: class {number}: {was}, but each must have a name of its own")
        lines[name.casefold()] = number
    return names


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        shards = json.loads(path.read_bytes())["shards"]
        return {
            s["file"]: {"samples": int(s["samples"]), "bytes": int(s["bytes"]), "sha256": s["sha256"]} for s in shards
        }
    except (ValueError, KeyError, TypeError) as error:
        raise PochadeError(f"{path}: not an index of shards ({type(error).__name__}: {error})") from error


def _contents(path: Path, expected: dict[str, Any] | None, pair: Pairing) -> dict[str, Any]:
    """Samples as ``pair`` finds them, and losses, [name, reason, detail, samples]."""
    size = path.stat().st_size
    if expected and size >= expected["bytes"] and _hash(path) != expected["sha256"]:
        lost = expected["samples"]
        detail = f"its SHA-256 is not that of {INDEX}; {lost} samples lost"
        return {"pictures": [], "skipped": [[path.name, "damaged shard", detail, lost]]}
    members, complete = _members(path)
    pictures, skipped = pair(path, members)
    if complete and not (expected and size < expected["bytes"]):
        return {"pictures": pictures, "skipped": skipped}
    if expected:
        lost = max(1, expected["samples"] - len(pictures))
        # The sample at the cut is one of the lost, not one without a caption.
        skipped, detail = [], f"lost {lost} of {expected['samples']} samples"
    else:
        skipped, lost, detail = skipped[:-1], 1, f"{len(pictures)} samples left, the number lost is unknown"
    return {"pictures": pictures, "skipped": [*skipped, [path.name, "truncated shard", detail, lost]]}


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


def _pair(path: Path, members: list[Member]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Pictures, [member, captions, offset, length, class], and those that are skipped."""
    images: dict[str, tuple[str, int, int]] = {}
    texts: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, tuple[int, int]] = {}
    skipped: list[list[Any]] = []
    for name, offset, length in members:
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = folder + slash + stem, "." + suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            if key in images:
                skipped.append([f"{path.name}/{name}", "second picture of a sample", images[key][0], 1])
            else:
                images[key] = (name, offset, length)
        elif suffix == ".txt" or (suffix == ".json" and key not in texts):
            texts[key] = (suffix, offset, length)
        elif suffix == ".cls":
            labels[key] = (offset, length)
    pictures: list[list[Any]] = []
    with path.open("rb") as file:
        for key, (name, offset, length) in images.items():
            captions: tuple[str, ...] = ()
            label: int | None = None
            detail = kind = ""
            try:
                if key in texts:
                    kind, at, count = texts[key]
                    file.seek(at)
                    captions = _captions(kind, file.read(count))
                if key in labels:
                    kind, (at, count) = ".cls", labels[key]
                    file.seek(at)
                    label = _label(file.read(count))
            except (ValueError, TypeError, AttributeError) as error:
                detail = f"{key}{kind}: {type(error).__name__}: {error}"
            if captions or label is not None:
                pictures.append([name, list(captions), offset, length, label])
            else:
                lacking = "no class" if labels and not texts else "no caption"
                skipped.append([f"{path.name}/{name}", lacking, detail, 1])
    return pictures, skipped


def _captions(kind: str, data: bytes) -> tuple[str, ...]:
    text = data.decode("utf-8-sig")
    if kind == ".json":
        row = json.loads(text)
        value = row.get("text", row.get("caption", ""))
        lines: list[str] = [value] if isinstance(value, str) else value
    else:
        lines = text.splitlines()
    return tuple(dict.fromkeys(words for words in (" ".join(line.split()) for line in lines) if words))


def _label(data: bytes) -> int:
    label = int(data.decode("ascii"))
    if not 0 <= label < MOST_CLASSES:
        raise ValueError(f"class {label}, 0 to {MOST_CLASSES - 1} expected")
    return label
