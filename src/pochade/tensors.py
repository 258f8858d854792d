"""Safetensors files: written whole or not at all, the same tensors as the same bytes, and read or refused by name."""

import json
import math
import re
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pochade.errors import FailureError, PochadeError
from pochade.files import atomic_path

_READ_ERRORS = (SafetensorError, OSError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the head of a file says of a tensor: its type as the format names it ("F16"), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of it."""
        bits = re.search(r"\d+", self.dtype)  # BOOL has none
        return self.count * (int(bits[0]) if bits else 8) // 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """``tensors`` of any device and layout, and words about them, as the safetensors file ``path``.

    Raises FailureError where it cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        with writing(path):
            save_file(ready, temporary, metadata={"format": "pt", **(metadata or {})})
        _sort_head(temporary)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Within it what safetensors cannot write, for itself or for a library, is a FailureError that names ``path``."""
    try:
        yield
    except SafetensorError as error:
        raise FailureError(f"{path}: could not be written ({error})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in memory. Raises PochadeError where it is damaged."""
    try:
        return load_file(path)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Type and shape of every tensor, from the head of the file alone. Raises PochadeError where it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return {name: TensorEntry(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> PochadeError:
    return PochadeError(f"{path}: not a readable safetensors file ({error})")


def _sort_head(path: Path) -> None:
    """safetensors writes its metadata in a random order: sorted, the same tensors give the same file."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
        data = json.dumps(head, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) <= length:
            file.seek(8)
            file.write(data.ljust(length))
