"""One file of a cache: rows of named tensors with their keys, mapped into memory, with a checksum of its own."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pochade.tensors import write_tensors

KEYS = "#keys"
LENGTHS = "#lengths"
"""Ends the name of what holds the lengths of a ragged entry's rows."""
DIGEST = "digest"

Row = Mapping[str, Tensor]


class DamagedPart(Exception):  # noqa: N818
    """A part that cannot be used, and why; it is made again."""


def map_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, which are read when they are used, and its words. Raises DamagedPart."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedPart(str(error)) from error


def keys_tensor(keys: np.ndarray) -> Tensor:
    """Keys [N] of 16 bytes as [N, 16] uint8."""
    return torch.from_numpy(np.frombuffer(keys.tobytes(), np.uint8).reshape(-1, 16).copy())


def keys_array(keys: Tensor) -> np.ndarray:
    """What ``keys_tensor`` was given, without a copy."""
    return keys.numpy().view("S16")[:, 0]


def as_bytes(text: str) -> Tensor:
    """A text as [n] uint8; names of files may hold bytes that are no UTF-8."""
    return torch.from_numpy(np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).copy())


def as_text(data: Tensor) -> str:
    """What ``as_bytes`` was given."""
    return data.numpy().tobytes().decode("utf-8", "surrogateescape")


def write_part(path: Path, keys: np.ndarray, rows: Sequence[Row], ragged: set[str]) -> None:
    """``rows`` [n] with their ``keys`` as the file ``path``; those of ``ragged`` entries differ in their length."""
    tensors = {KEYS: keys_tensor(keys)}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in ragged:
            tensors[name] = torch.cat(values)
            tensors[name + LENGTHS] = torch.tensor([len(value) for value in values], dtype=torch.int32)
        else:
            tensors[name] = torch.stack(values)
    write_tensors(path, tensors, {DIGEST: _digest(tensors)})


class Part:
    """The file ``path``, in which there must be rows with these ``keys`` (None: any). Raises DamagedPart."""

    def __init__(self, path: Path, keys: np.ndarray | None = None) -> None:
        tensors, words = map_tensors(path)
        if KEYS not in tensors or DIGEST not in words:
            raise DamagedPart("it is no part of a cache")
        self.keys = keys_array(tensors.pop(KEYS))
        if keys is not None and not np.array_equal(keys, self.keys):
            raise DamagedPart("it holds other rows")
        self._digest = words[DIGEST]
        self.lengths = {n.removesuffix(LENGTHS): tensors.pop(n) for n in list(tensors) if n.endswith(LENGTHS)}
        self.tensors = tensors
        self._starts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def check(self) -> None:
        """Reads all of it. Raises DamagedPart where a byte differs from what was written."""
        every = {KEYS: keys_tensor(self.keys), **self.tensors}
        every |= {name + LENGTHS: lengths for name, lengths in self.lengths.items()}
        if _digest(every) != self._digest:
            raise DamagedPart("its checksum is another")

    def row(self, number: int) -> dict[str, Tensor]:
        """All entries of a row, copied."""
        row = {name: value[number].clone() for name, value in self.tensors.items() if name not in self.lengths}
        for name, lengths in self.lengths.items():
            if name not in self._starts:
                self._starts[name] = lengths.long().cumsum(0) - lengths
            start = int(self._starts[name][number])
            row[name] = self.tensors[name][start : start + int(lengths[number])].clone()
        return row


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
