"""WebDataset shards: plain tar files of pictures with captions, each with a count and a hash."""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pochade.data.captioned import CaptionedImages, Picture, each, read_store, stamp, store_for
from pochade.data.files import IMAGE_SUFFIXES, atomic_file, is_safe_name, write_json
from pochade.data.images import MAX_MEGAPIXELS
from pochade.data.report import MAX_SKIPPED, Report
from pochade.errors import PochadeError

INDEX = "index.json"
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")


class Record(NamedTuple):
    """A sample to write: ``captions`` are alternatives, ``suffix`` has its dot, ``key`` is unique."""

    image: bytes
    suffix: str
    captions: Sequence[str]
    key: str


def write_shards(records: Iterable[Record], folder: Path, samples_per_shard: int = 1000) -> dict[str, Any]:
    """Writes ``000000.tar`` and so on, then ``index.json`` (samples, bytes, SHA-256); returns that.

    A sample is ``key.png`` (or .jpg, .jpeg, .webp) and ``key.txt``, a caption a line. A shard takes its
    name when it is complete, and the index comes last: what is interrupted leaves whole shards without an
    index. Equal records give equal bytes. Raises `PochadeError` for a folder that holds shards, and for
    a bad or repeated key.
    """
    if samples_per_shard < 1:
        raise PochadeError(f"samples_per_shard: {samples_per_shard} given, at least 1 expected")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tar")):
        raise PochadeError(f"folder: {folder} already holds shards")
    keys: set[str] = set()
    shards: list[dict[str, Any]] = []
    for number, portion in groupby(enumerate(records), key=lambda pair: pair[0] // samples_per_shard):
        path = folder / f"{number:06d}.tar"
        count = 0
        with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for _, record in portion:
                _check_record(record, keys)
                _add(tar, record.key + record.suffix, record.image)
                _add(tar, record.key + ".txt", "\n".join(record.captions).encode())
                count += 1
        shards.append({"file": path.name, "samples": count, "bytes": path.stat().st_size, "sha256": _hash(path)})
    index = {"samples": len(keys), "shards": shards}
    write_json(folder / INDEX, index)
    return index


class ShardDataset(CaptionedImages):
    """The captioned pictures of WebDataset shards, by random access into the uncompressed tar files.

    Only picture members (.png, .jpg, .jpeg, .webp) and captions are read: ``key.txt``, a caption a line,
    or the "text" or "caption" of ``key.json``. No other member is ever opened, and nothing is unpacked.
    Where the folder has an ``index.json``, counts, sizes and hashes are compared with it once: a shard
    that is cut short gives what is left of it, one whose hash differs gives nothing, and the samples lost
    count as skipped.

    Args:
        shards: a folder of .tar files, or a pattern: ``data/*.tar``, ``data/{000000..000012}.tar``.
        size, split, background, max_megapixels, max_skipped, progress: as for `ImageFolder`.

    Raises:
        PochadeError: no shards, a compressed shard, a member name that leaves the folder.
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
    ) -> None:
        super().__init__(size, split=split, background=background, max_megapixels=max_megapixels)
        self.paths = _expand(shards)
        folder = self.paths[0].parent
        store = store_for(folder)
        expected = _read_index(folder / INDEX)
        known = read_store(store / "shards.json")
        contents: dict[str, dict[str, Any]] = {}

        def examine(path: Path) -> dict[str, Any]:
            entry = expected.get(path.name)
            at = [*stamp(path), entry["sha256"] if entry else None]
            old = known.get(path.name, {})
            return old if old.get("stamp") == at else {"stamp": at, **_contents(path, entry)}

        for path, content in each(examine, self.paths, f"reading {folder}", progress):
            contents[path.name] = content
        if contents != known:
            write_json(store / "shards.json", contents)
        missing = {name: expected[name]["samples"] for name in expected if name not in contents}
        if Path(shards).is_dir():
            contents |= {
                name: {"pictures": [], "skipped": [[name, "missing shard", f"{lost} samples", lost]]}
                for name, lost in missing.items()
            }
        total = sum(len(c["pictures"]) + sum(skip[3] for skip in c["skipped"]) for c in contents.values())
        if not total:
            raise PochadeError(f"shards: {shards} holds no captioned pictures")
        self.report = Report(str(shards), store / "report.json", total=total, max_skipped=max_skipped)
        found: list[Picture] = []
        for name, content in contents.items():
            for skipped, reason, detail, samples in content["skipped"]:
                self.report.skip(skipped, reason, detail, samples=samples)
            for member, captions, offset, length in content["pictures"]:
                found.append(Picture(f"{name}/{member}", tuple(captions), folder / name, offset, length))
        self._keep_usable(found, store, progress)


def _check_record(record: Record, keys: set[str]) -> None:
    key = record.key
    # WebDataset splits a name at the first dot after the last slash.
    if not is_safe_name(key) or "." in key.rsplit("/", 1)[-1]:
        raise PochadeError(f"key: {key!r} given, a relative name without a dot expected")
    if key in keys:
        raise PochadeError(f"key: {key!r} given twice")
    if record.suffix not in IMAGE_SUFFIXES:
        raise PochadeError(f"suffix: {record.suffix!r} given, allowed are {', '.join(IMAGE_SUFFIXES)}")
    if not any(caption.strip() for caption in record.captions):
        raise PochadeError(f"captions: {key!r} has none")
    keys.add(key)


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


def _contents(path: Path, expected: dict[str, Any] | None) -> dict[str, Any]:
    """Pictures, [member, captions, offset, length], and losses, [name, reason, detail, samples]."""
    size = path.stat().st_size
    if expected and size >= expected["bytes"] and _hash(path) != expected["sha256"]:
        lost = expected["samples"]
        detail = f"its SHA-256 is not that of {INDEX}; {lost} samples lost"
        return {"pictures": [], "skipped": [[path.name, "damaged shard", detail, lost]]}
    members, complete = _members(path)
    pictures, skipped = _pair(path, members)
    if complete and not (expected and size < expected["bytes"]):
        return {"pictures": pictures, "skipped": skipped}
    if expected:
        lost = max(1, expected["samples"] - len(pictures))
        # The sample at the cut is one of the lost, not one without a caption.
        skipped, detail = [], f"lost {lost} of {expected['samples']} samples"
    else:
        skipped, lost, detail = skipped[:-1], 1, f"{len(pictures)} samples left, the number lost is unknown"
    return {"pictures": pictures, "skipped": [*skipped, [path.name, "truncated shard", detail, lost]]}


def _members(path: Path) -> tuple[list[tuple[str, int, int]], bool]:
    """(name, offset, length) of the regular members, and whether the archive is whole."""
    members: list[tuple[str, int, int]] = []
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


def _pair(path: Path, members: list[tuple[str, int, int]]) -> tuple[list[list[Any]], list[list[Any]]]:
    images: dict[str, tuple[str, int, int]] = {}
    texts: dict[str, tuple[str, int, int]] = {}
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
    pictures: list[list[Any]] = []
    with path.open("rb") as file:
        for key, (name, offset, length) in images.items():
            captions: tuple[str, ...] = ()
            detail = ""
            if key in texts:
                kind, at, count = texts[key]
                file.seek(at)
                try:
                    captions = _captions(kind, file.read(count))
                except (ValueError, TypeError, AttributeError) as error:
                    detail = f"{key}{kind}: {type(error).__name__}: {error}"
            if captions:
                pictures.append([name, list(captions), offset, length])
            else:
                skipped.append([f"{path.name}/{name}", "no caption", detail, 1])
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
