"""Safetensors files before torch is imported: what their heads say, and their tensors as they lie on the disk."""

import json
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.errors import PochadeError

if TYPE_CHECKING:
    import numpy as np

_TYPES = {"F16": "<f2", "F32": "<f4"}
"""Of tensors that are mapped."""


def read_head(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file as its head has them, and its metadata. Raises PochadeError."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > file.stat().st_size:
                raise ValueError("its head is longer than the file")
            head = json.loads(opened.read(length))
        return {name: value for name, value in head.items() if name != "__metadata__"}, head.get("__metadata__") or {}
    except (OSError, ValueError, struct.error, AttributeError) as error:
        raise PochadeError(f"{file}: not a readable safetensors file ({error})") from error


def mapped_tensors(file: Path) -> "dict[str, np.ndarray]":
    """Tensors of float16 and float32 as they lie in a file: they are read from the disk where they are used, and the
    system may drop them again. Raises PochadeError where the file is damaged."""
    import numpy as np

    tensors, _ = read_head(file)
    with file.open("rb") as opened:
        start = 8 + struct.unpack("<Q", opened.read(8))[0]
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    mapped: dict[str, np.ndarray] = {}
    try:
        for name, entry in tensors.items():
            if entry["dtype"] in _TYPES:
                first, last = entry["data_offsets"]
                kind = np.dtype(_TYPES[entry["dtype"]])
                numbers = np.frombuffer(data, kind, (last - first) // kind.itemsize, start + first)
                mapped[name] = numbers.reshape(entry["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise PochadeError(f"{file}: not a readable safetensors file ({error})") from error
    return mapped
