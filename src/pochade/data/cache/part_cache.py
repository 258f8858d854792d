"""Rows of tensors on the disk, made once by all processes together, found by key and read through memory maps.

A cache is a folder of parts, ``part-00000.safetensors`` and so on, each of which takes its name when it is whole, and
of ``index.safetensors``, written when all are there. The folder is named by all that its values depend on: its kind and
identity, and the keys of its rows. ``pochade.data.cache.build`` fills it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.data.cache.parts import KEYS, LENGTHS, DamagedPart, Part, as_text, keys_array, keys_tensor, map_tensors
from pochade.errors import FailureError
from pochade.tensors import write_tensors

VERSION = 1
"""Changes with the form of the files."""
RUN = 2**19
"""Bytes of small parts that are put in their places at once."""
OPEN = 2**14
"""Parts of a cache that are mapped into memory at once; a process may map some 65,000 files."""
INDEX = "index.safetensors"
_STAMPS = "#stamps"
_STARTS = "#starts"

T = TypeVar("T")
Values = Mapping[str, Tensor | Sequence[Tensor]]
"""For n rows: [n, ...], or n tensors of different lengths, a ragged entry; on any device."""


@dataclass(frozen=True)
class Contents(Generic[T]):
    """What a cache is filled with.

    Attributes:
        kind: of what; the first word of the folder's name.
        identity: all that a row depends on beside its key.
        keys: [N] of 16 bytes (``pochade.data.samples.digests``), at least one.
        load: row numbers -> what ``encode`` takes; called in a thread while the rows before are encoded.
        encode: -> values of those rows.
        title: of the progress bar.
        batch: rows that are encoded at once.
        part: rows in a file.
    """

    kind: str
    identity: Sequence[str]
    keys: np.ndarray
    load: Callable[[list[int]], T]
    encode: Callable[[T], Values]
    title: str
    batch: int = 64
    part: int = 2048

    @property
    def family(self) -> str:
        """What the names of all caches of this kind and identity begin with."""
        facts = json.dumps([VERSION, self.part, *self.identity])
        return f"{self.kind}-{sha256(facts.encode()).hexdigest()[:12]}"

    @property
    def name(self) -> str:
        """The name of the folder."""
        return f"{self.family}-{sha256(self.keys.tobytes()).hexdigest()[:16]}"

    @property
    def parts(self) -> int:
        """The number of files."""
        return -(-len(self.keys) // self.part)

    def rows(self, part: int) -> range:
        """The rows of a file."""
        return range(part * self.part, min(len(self.keys), (part + 1) * self.part))


def part_path(folder: Path, part: int) -> Path:
    """The file of a part."""
    return folder / f"part-{part:05d}.safetensors"


def stamp(path: Path) -> tuple[int, int] | None:
    """Time of the last change in ns and bytes of a file; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def write_index(folder: Path, contents: Contents[T]) -> None:
    """Writes the index of a cache all parts of which are there. Raises DamagedPart where one is not."""
    stamps: list[tuple[int, int]] = []
    parts: list[Part] = []
    for number in range(contents.parts):
        path, rows = part_path(folder, number), contents.rows(number)
        stamps.append(stamp(path) or (0, 0))
        parts.append(Part(path, contents.keys[rows.start : rows.stop]))
    arrays = {KEYS: keys_tensor(contents.keys), _STAMPS: torch.tensor(stamps)}
    for name in parts[0].lengths:
        lengths = [part.lengths[name] for part in parts]
        arrays[name + LENGTHS] = torch.cat(lengths)
        arrays[name + _STARTS] = torch.cat([length.long().cumsum(0) - length for length in lengths])
    shapes = {name: list(tensor.shape[1:]) for name, tensor in parts[0].tensors.items()}
    about = {"rows": len(contents.keys), "part": contents.part, "shapes": shapes}
    about["longest"] = {name: int(arrays[name + LENGTHS].max()) for name in parts[0].lengths}
    write_tensors(folder / INDEX, arrays, {"about": json.dumps(about)})


class PartCache:
    """A finished cache. Opening reads its index alone; a part is mapped when one of its rows is read.

    Attributes:
        shapes: of each entry the shape of a row, or of a value of a ragged one.
        longest: of each ragged entry the length of the longest row.
        stamps: of each part as it was when the index was written.

    Raises:
        DamagedPart: there is no index, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index, words = map_tensors(folder / INDEX)
        try:
            about = json.loads(words["about"])
            self._rows, self.part = int(about["rows"]), int(about["part"])
            self.shapes: dict[str, list[int]] = about["shapes"]
            self.longest: dict[str, int] = about["longest"]
            self.stamps = [(time, size) for time, size in self._index[_STAMPS].tolist()]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedPart(f"its index lacks {error}") from error
        self._parts: dict[int, Part] = {}

    @classmethod
    def find(cls, folder: Path) -> "PartCache | None":
        """The cache in ``folder``; None where it is not finished, or a part is not as it was."""
        try:
            found = cls(folder)
        except DamagedPart:
            return None
        unchanged = all(stamp(part_path(folder, part)) == known for part, known in enumerate(found.stamps))
        return found if unchanged else None

    def __len__(self) -> int:
        return self._rows

    @property
    def keys(self) -> np.ndarray:
        """[N] of 16 bytes."""
        return keys_array(self._index[KEYS])

    def gather(self, rows: Tensor, name: str, inner: Tensor | None = None) -> Tensor:
        """An entry [B, ...] of rows [B] int64; float16 comes as float32.

        Args:
            inner: [B] int64, which place of the entry's own first axis is wanted of each row; None: all.
        """
        order, numbers, bounds = self._by_part(rows)
        sources = rows % self.part
        if inner is not None:
            sources = sources * self.shapes[name][0] + inner
        out: Tensor | None = None
        for begin, end, values in self._read(name, numbers, bounds, sources[order], flat=inner is not None):
            if end - begin == len(rows):
                return values[order.argsort()] if len(numbers) > 1 else values
            out = values.new_empty(len(rows), *values.shape[1:]) if out is None else out
            out.index_copy_(0, order[begin:end], values)
        assert out is not None
        return out

    def gather_ragged(self, rows: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """A ragged entry [B, M, ...] of rows [B] int64, and the length of each [B] int64.

        M is the longest of these rows; beyond a row's length are zeros; float16 comes as float32.
        """
        order, numbers, bounds = self._by_part(rows)
        lengths = self._index[name + LENGTHS][rows].long()
        longest = int(lengths.max()) if len(rows) else 0
        many = lengths[order]
        ends = F.pad(many.cumsum(0), (1, 0))
        # Of every value, sorted by part, its place in its row, and from that where it comes from and goes to.
        place = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends[:-1], many)
        sources = torch.repeat_interleave(self._index[name + _STARTS][rows[order]], many) + place
        targets = torch.repeat_interleave(order * longest, many) + place
        out: Tensor | None = None
        for begin, end, values in self._read(name, numbers, ends[torch.tensor(bounds)].tolist(), sources):
            out = values.new_zeros(len(rows) * longest, *values.shape[1:]) if out is None else out
            out.index_copy_(0, targets[begin:end], values)
        assert out is not None
        return out.view(len(rows), longest, *self.shapes[name]), lengths

    def texts(self, rows: Tensor, name: str) -> list[str]:
        """A ragged entry of bytes as B texts."""
        values, lengths = self.gather_ragged(rows, name)
        return [as_text(row[:length]) for row, length in zip(values, lengths.tolist(), strict=True)]

    def each(self, name: str) -> Iterator[Tensor]:
        """An entry [n, ...] part by part, as it is stored."""
        for number in range(len(self.stamps)):
            yield self._part(number).tensors[name]

    def _by_part(self, rows: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """The places of rows [B] sorted by part, the numbers of the parts, and where among the sorted each begins."""
        numbers = rows // self.part
        order = numbers.argsort(stable=True)
        different, counts = numbers[order].unique_consecutive(return_counts=True)
        # No rows are none of the first part, which gives shape and type.
        return order, different.tolist() or [0], F.pad(counts.cumsum(0), (1, 0)).tolist() + [0] * (not len(rows))

    def _read(
        self, name: str, numbers: list[int], bounds: list[int], sources: Tensor, *, flat: bool = False
    ) -> Iterator[tuple[int, int, Tensor]]:
        """An entry at ``sources`` [n] in its parts, of which each has those between two of ``bounds``.

        Small parts come together, and no more than is needed to pay: what is fresh memory costs more than its copy.

        Args:
            flat: the first two axes of the entry count as one.
        """
        found: list[Tensor] = []
        first = size = 0
        for number, (begin, end) in zip(numbers, pairwise(bounds), strict=True):
            held = self._part(number).tensors[name]
            found.append((held.flatten(0, 1) if flat else held).index_select(0, sources[begin:end]))
            size += found[-1].nbytes
            if size >= RUN or end == bounds[-1]:
                values = found[0] if len(found) == 1 else torch.cat(found)
                yield first, end, values.float() if values.dtype == torch.float16 else values
                found, first, size = [], end, 0

    def _part(self, number: int) -> Part:
        part = self._parts.get(number)
        if part is None:
            path = part_path(self.folder, number)
            try:
                part = Part(path)
            except DamagedPart as error:
                raise FailureError(f"{path}: damaged while in use ({error}); the next start makes it again") from error
            if len(self._parts) >= OPEN:
                self._parts.pop(next(iter(self._parts)), None)
            self._parts[number] = part
        return part
