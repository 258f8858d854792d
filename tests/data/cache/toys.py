"""Contents of a cache that are a function of their keys, and encoders whose latents and vectors are known."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pochade.data.cache.latents import LatentEncoders
from pochade.data.cache.part_cache import Contents, Values
from pochade.data.samples import digest, digests
from pochade.types import TextEncoding


class Numbers:
    """Rows named by words; ``encoded`` lists those that were encoded, also in ``log`` where there is one."""

    def __init__(self, names: Sequence[str], identity: str = "a", log: Path | None = None) -> None:
        self.names, self.identity, self.log = list(names), identity, log
        self.encoded: list[str] = []
        self.stop_at: int | None = None

    def contents(self, part: int = 4, batch: int = 3) -> Contents[list[str]]:
        keys = digests(b"".join(map(digest, self.names)))
        return Contents("numbers", (self.identity,), keys, self.load, self.encode, "counting", batch, part)

    def load(self, rows: list[int]) -> list[str]:
        return [self.names[row] for row in rows]

    def encode(self, names: list[str]) -> Values:
        for name in names:
            if len(self.encoded) == self.stop_at:
                raise KeyboardInterrupt
            self.encoded.append(name)
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{name}\n")
        return {
            "value": torch.stack([value(name) for name in names]),
            "half": torch.stack([value(name) for name in names]).half(),
            "letters": [torch.tensor([[ord(letter), 1] for letter in name], dtype=torch.float16) for name in names],
        }


def value(name: str) -> Tensor:
    """[2, 3] float32 that differs between names."""
    return torch.tensor([[len(name), ord(name[0]), ord(name[-1])], [0.1, hash_of(name), 1 / 3]])


def hash_of(name: str) -> float:
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(name)) / 7


def encode_images(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 2, 1, 2]: means of the left and the right half, of two channels."""
    return images[:, :2].unflatten(-1, (2, -1)).mean((2, 4))[:, :, None] * 3


def encode_text(captions: Sequence[str]) -> TextEncoding:
    """A token for each word, its vector made of the word and the place."""
    words = [caption.split() for caption in captions]
    longest = max(len(row) for row in words)
    tokens = torch.zeros(len(captions), longest, 3)
    for row, caption in enumerate(words):
        for place, word in enumerate(caption):
            number = float(word) if word.isdigit() else len(word) / 2
            tokens[row, place] = torch.tensor([number + 0.1, place, 1 / 3])
    mask = torch.arange(longest)[None] < torch.tensor([len(row) for row in words])[:, None]
    return TextEncoding(tokens, mask, tokens.sum(1) / 7)


class Counting:
    """The toy encoders, which count what they are given."""

    def __init__(self, text: bool = True, images_identity: str = "toy") -> None:
        self.images, self.texts = 0, list[str]()
        self.encoders = LatentEncoders(
            self._images, images_identity, self._text if text else None, "words" if text else None
        )

    def _images(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return encode_images(images)

    def _text(self, captions: Sequence[str]) -> TextEncoding:
        self.texts += captions
        return encode_text(captions)


def write_sparse(
    path: Path, zeros: dict[str, tuple[str, list[int]]], tensors: dict[str, Tensor], words: dict[str, str]
) -> None:
    """A safetensors file with ``zeros`` (a type as the format names it, and a shape), which take no place on the disk,
    and with ``tensors`` of int64."""
    sizes = {"U8": 1, "I64": 8, "F32": 4}
    entries = zeros | {name: ("I64", list(tensor.shape)) for name, tensor in tensors.items()}
    head: dict[str, object] = {"__metadata__": words}
    starts: dict[str, int] = {}
    end = 0
    for name, (kind, shape) in sorted(entries.items(), key=lambda entry: -sizes[entry[1][0]]):
        starts[name] = end
        end += math.prod(shape) * sizes[kind]
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [starts[name], end]}
    data = json.dumps(head).encode()
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        first = file.tell()
        for name, tensor in tensors.items():
            file.seek(first + starts[name])
            file.write(tensor.numpy().tobytes())
        file.truncate(first + end)


def write_sparse_cache(folder: Path, rows: int, part: int, name: str, shape: list[int]) -> None:
    """A finished part cache of its true size without data. Of its parts only the first is one."""
    folder.mkdir(parents=True)
    paths = [folder / f"part-{number:05d}.safetensors" for number in range(-(-rows // part))]
    write_sparse(paths[0], {"#keys": ("U8", [part, 16]), name: ("F32", [part, *shape])}, {}, {"digest": ""})
    for path in paths[1:]:
        with path.open("wb") as file:
            file.truncate(paths[0].stat().st_size)
    stamps = torch.tensor([[path.stat().st_mtime_ns, path.stat().st_size] for path in paths])
    about = json.dumps({"rows": rows, "part": part, "shapes": {name: shape}, "longest": {}})
    write_sparse(folder / "index.safetensors", {"#keys": ("U8", [rows, 16])}, {"#stamps": stamps}, {"about": about})
