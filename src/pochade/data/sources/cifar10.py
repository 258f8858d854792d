"""CIFAR-10 from its standard archive, python or binary form, without running what a pickle requests.

60,000 pictures of 32 x 32 in ten classes: Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009.
"""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset, Item, Split, check_size, check_split
from pochade.errors import PochadeError

BYTES_PER_IMAGE = 3072
TRAIN_BATCHES = tuple(f"data_batch_{n}" for n in range(1, 6))
TEST_BATCH = "test_batch"
NAMES_FILES = ("batches.meta", "batches.meta.txt")
STANDARD_ARCHIVES = {
    170_498_071: "c58f30108f718f92721af3d95e74349a",
    170_052_171: "c32a1d4ab5d03f1284b67883e8d87530",
}
"""MD5 by size in bytes, as published, of the python and the binary archive."""


class CIFAR10(Dataset):
    """CIFAR-10 with its ten classes; every picture is a group, and the test batch is what is held out.

    Args:
        path: ``cifar-10-python.tar.gz``, ``cifar-10-binary.tar.gz``, or the folder that either unpacks
            to. An archive of the published size must have the published MD5; nothing is unpacked on disk.
        split: "train", "held_out" (the test batch) or "all".

    Raises:
        PochadeError: no such path, not CIFAR-10, a damaged archive, or a pickle that asks for more.
    """

    def __init__(self, path: Path, split: Split = "train") -> None:
        check_split(split)
        batches = {"train": TRAIN_BATCHES, "held_out": (TEST_BATCH,), "all": (*TRAIN_BATCHES, TEST_BATCH)}[split]
        files = _read_files(path, batches)
        self.classes = tuple(_class_names(files, path))
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        self.names: list[str] = []
        for batch in batches:
            pixels, labels = _read_batch(files, batch, path)
            if len(labels) and labels.max() >= len(self.classes):
                raise PochadeError(f"path: {path}: {batch} holds label {labels.max()}, 0 to 9 expected")
            parts.append((pixels, labels))
            self.names += [f"{batch}/{i}" for i in range(len(labels))]
        self.pixels = np.concatenate([pixels for pixels, _ in parts])
        """[pictures, 32, 32, 3] uint8."""
        self.labels = np.concatenate([labels for _, labels in parts])
        """[pictures] int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def item(self, index: int) -> Item:
        name = self.names[index]
        split = "held_out" if name.startswith(TEST_BATCH) else "train"
        return Item(name, (), int(self.labels[index]), name, split)

    def stored(self, index: int) -> Item:
        item = self.item(index)
        return replace(item, captions=(self.classes[int(self.labels[index])],))

    def image(self, index: int, size: int) -> Image.Image:
        check_size(size)
        image = Image.fromarray(self.pixels[index])
        return image if size == image.width else image.resize((size, size), Image.Resampling.LANCZOS)

    def identity(self, index: int) -> str:
        return hashlib.sha256(self.pixels[index].tobytes()).hexdigest()


def _read_files(path: Path, batches: tuple[str, ...]) -> dict[str, bytes]:
    """The files of the data set by their bare names, from an archive or a folder."""
    wanted = {*batches, *(f"{b}.bin" for b in batches), *NAMES_FILES}
    if path.is_dir():
        files = {p.name: p.read_bytes() for p in sorted(path.rglob("*")) if p.name in wanted and p.is_file()}
    elif path.is_file():
        _check_standard(path)
        files = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    stream = archive.extractfile(member) if name in wanted and member.isreg() else None
                    if stream is not None:
                        files[name] = stream.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise PochadeError(f"path: {path} is no archive, or is cut short ({error})") from error
    else:
        raise PochadeError(
            f"path: {path} does not exist; cifar-10-python.tar.gz, cifar-10-binary.tar.gz or folder expected"
        )
    missing = [b for b in batches if b not in files and f"{b}.bin" not in files]
    if missing:
        raise PochadeError(f"path: {path} is not CIFAR-10: {', '.join(missing)} missing")
    return files


def _check_standard(path: Path) -> None:
    published = STANDARD_ARCHIVES.get(path.stat().st_size)
    if published is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != published:
        raise PochadeError(f"path: {path} is damaged: its MD5 is {found}, {published} expected")


def _class_names(files: dict[str, bytes], path: Path) -> list[str]:
    if "batches.meta" in files:
        meta = _unpickle(files["batches.meta"], "batches.meta", path)
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in meta.get(b"label_names", [])]
    else:
        names = files.get("batches.meta.txt", b"").decode("utf-8", "replace").split()
    if len(names) != 10:
        raise PochadeError(f"path: {path}: {' or '.join(NAMES_FILES)} holds {len(names)} names, ten expected")
    return names


def _read_batch(files: dict[str, bytes], batch: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 32, 32, 3] uint8 and labels [n] int64 of one batch, in whichever form is there."""
    if batch in files:
        content = _unpickle(files[batch], batch, path)
        data, labels = content.get(b"data"), content.get(b"labels")
        pixels = data.value if isinstance(data, _Array) else None
        if pixels is None or not isinstance(labels, list) or pixels.shape != (len(labels), BYTES_PER_IMAGE):
            raise PochadeError(f"path: {path}: {batch} does not hold n x {BYTES_PER_IMAGE} bytes and n labels")
        if not all(type(label) is int and label >= 0 for label in labels):
            raise PochadeError(f"path: {path}: {batch} holds labels that are no whole numbers")
        targets = np.array(labels, dtype=np.int64)
    else:
        raw = np.frombuffer(files[f"{batch}.bin"], dtype=np.uint8)
        if raw.size % (1 + BYTES_PER_IMAGE):
            raise PochadeError(f"path: {path}: {batch}.bin is cut short ({raw.size} bytes)")
        records = raw.reshape(-1, 1 + BYTES_PER_IMAGE)
        pixels, targets = records[:, 1:], records[:, 0].astype(np.int64)
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), targets


def _unpickle(data: bytes, name: str, path: Path) -> dict[bytes, Any]:
    try:
        value = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:
        raise PochadeError(f"path: {path}: {name} is no CIFAR-10 batch ({error})") from error
    if not isinstance(value, dict):
        raise PochadeError(f"path: {path}: {name} is no CIFAR-10 batch (it holds a {type(value).__name__})")
    return value


class _Dtype:
    """Stands where the pickle names numpy's dtype: only bytes pass."""

    def __init__(self, code: bytes | str, *_: Any) -> None:
        if code not in (b"u1", "u1", b"|u1", "|u1"):
            raise pickle.UnpicklingError(f"array of {code!r}, bytes expected")

    def __setstate__(self, state: Any) -> None:
        """The byte order and the like, which a byte has not."""


class _Array:
    """Stands where the pickle names numpy's array; ``value`` is the true array, made from its bytes."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array of something other than bytes")
        self.value = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, _encoding: str) -> bytes:
    # Python 3 writes bytes this way in the old protocols.
    return text.encode("latin-1")


class _ArraysOnly(pickle.Unpickler):
    """Builds numbers, text, containers and byte arrays; any other name is an error, so that no code runs."""

    ALLOWED: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The harmless stand-in for a name, or `pickle.UnpicklingError`."""
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}: refused") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refused: the format has no references to the outside."""
        raise pickle.UnpicklingError(f"the pickle asks for object {pid!r}: refused")
