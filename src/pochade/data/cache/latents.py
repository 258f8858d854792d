"""Cached latents and text vectors, so that training runs neither the autoencoder nor the text encoder.

Two part caches, one of pictures by their content and one of captions by their words, and a table of which picture has
which. So a picture that is in several groups, or a caption that is used often or at several sizes, is encoded once.
Latents are float32; text vectors, which are inputs and forgive it, float16.
"""

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.data.cache.build import build_cache
from pochade.data.cache.part_cache import INDEX, Contents, PartCache, Values
from pochade.data.cache.parts import KEYS as _KEYS
from pochade.data.cache.parts import DamagedPart, as_bytes, as_text, keys_array, keys_tensor, map_tensors
from pochade.data.dataset import Dataset, Shape
from pochade.data.samples import Batch, Groups, Samples, Stream, decode, digest, digests, distinct
from pochade.errors import PochadeError
from pochade.nn.keyed_random import keyed_integers
from pochade.tensors import write_tensors
from pochade.types import TextEncoding

EncodeImages = Callable[[Tensor], Tensor]
"""[B, 3, H, W] in [-1, 1] -> latents [B, C, h, w], on any device."""
EncodeText = Callable[[Sequence[str]], TextEncoding]

VERSION = 1
"""Changes with the form of the table."""
PART = 2048
"""Pictures in a file."""


@dataclass(frozen=True)
class LatentEncoders:
    """What makes latents of pictures and vectors of captions, on its own device.

    Attributes:
        images_identity: changes with what ``encode_images`` gives.
        encode_text: None keeps the captions as words, for a text encoder that is trained.
        text_identity: changes with what ``encode_text`` gives.
    """

    encode_images: EncodeImages
    images_identity: str
    encode_text: EncodeText | None = None
    text_identity: str | None = None


def cache_latents(
    dataset: Dataset,
    size: int | Shape,
    encoders: LatentEncoders,
    folder: Path,
    *,
    progress: bool = True,
    one_length: bool = False,
) -> "CachedLatents":
    """Latents of all pictures of ``dataset``, with the vectors of their captions, or their classes.

    Args:
        size: in pixels, of a side or the width and the height.
        folder: of all caches of a run; what of it fits is used, what is missing is made by all processes that call this
            at once (``pochade.data.cache.build``), and what does not fit is left as it is.
        one_length: see ``CachedLatents``.

    Raises:
        PochadeError: there are no pictures, or one has neither a caption nor a class.
        BadImage: a picture cannot be read any more.
        FailureError: something cannot be written.
    """
    if len(dataset) == 0:
        raise PochadeError("dataset: it holds no pictures")
    facts = [VERSION, dataset.fingerprint(), size, encoders.images_identity, encoders.text_identity]
    facts.append(encoders.encode_text is not None)
    own = folder / f"latents-{sha256(json.dumps(facts).encode()).hexdigest()[:16]}"
    found = CachedLatents.find(own)
    if found is not None:
        found.one_length = one_length
        return found
    table = _Table(dataset)
    images = build_cache(_images(dataset, size, encoders, table), folder, progress=progress)
    captions = None if dataset.classes else build_cache(_captions(dataset, encoders, table), folder, progress=progress)
    table.write(own, images, captions)
    return CachedLatents(own, one_length=one_length)


class CachedLatents(Samples):
    """Samples of cached latents: ``{"latents" [B, C, h, w] float32, "name"}`` with text vectors, words or classes.

    - text vectors: "tokens" [B, M, D_text] float32, M the longest of the batch, or of all with ``one_length``, "mask"
      [B, M], "pooled" [B, D_pool];
    - words: "caption", a list;
    - classes: "class_label" [B] int64.

    An epoch shows each group once, in a variant and with a caption drawn evenly. Opening reads no latents.

    Attributes:
        pictures: the number of pictures, the variants of all groups.
        groups: which of them are variants of one concept.
        dataset: the fingerprint of the data set.
        images, captions: the part caches; without captions there are classes.
        longest: the most tokens of a caption; 0 where there are no text vectors.
        one_length: whether all batches have the same M: compiled code serves one length.

    Raises:
        DamagedPart: there is no finished cache in ``folder``.
    """

    def __init__(self, folder: Path, *, one_length: bool = False) -> None:
        self.one_length = one_length
        table, words = map_tensors(folder / INDEX)
        try:
            about = json.loads(words["about"])
            self.images = PartCache(folder.parent / about["images"])
            self.captions = PartCache(folder.parent / about["captions"]) if about["captions"] else None
            self.dataset = str(about["dataset"])
            self._table = table
            self.pictures = len(table[_KEYS])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedPart(f"its table lacks {error}") from error
        self.groups = Groups(table.get("group_order"), table.get("group_first"), self.pictures)
        self.longest = 0 if self.captions is None else self.captions.longest.get("tokens", 0)

    @classmethod
    def find(cls, folder: Path) -> "CachedLatents | None":
        """The cache in ``folder``; None where it is not finished, or a part has changed since."""
        try:
            found = cls(folder)
        except DamagedPart:
            return None
        caches = [cache for cache in (found.images, found.captions) if cache is not None]
        return found if all(PartCache.find(cache.folder) for cache in caches) else None

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w."""
        channels, height, width = self.images.shapes["latents"]
        return channels, height, width

    @property
    def keys(self) -> np.ndarray:
        """[pictures] of 16 bytes, which change with a picture's content, captions and class."""
        return keys_array(self._table[_KEYS])

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """A variant of each group at ``indices`` [B] with one of its captions, drawn by ``keys`` [B]."""
        return self.of_pictures(self.groups.draw(indices, keys), keys)

    def of_pictures(self, pictures: Tensor, keys: Tensor, *, words: bool = False) -> Batch:
        """Those ``pictures`` [B] in [0, pictures), each with one of its captions, drawn by ``keys`` [B].

        Args:
            words: "caption" in place of text vectors; the same captions are drawn.
        """
        batch: Batch = {
            "latents": self.images.gather(self.image_rows(pictures), "latents"),
            "name": self.names(pictures),
        }
        if self.captions is None:
            return {**batch, "class_label": self._table["label"][pictures]}
        rows = self._caption_rows(pictures, keys)
        if words or not self.longest:
            return {**batch, "caption": self.captions.texts(rows, "caption")}
        tokens, lengths = self.captions.gather_ragged(rows, "tokens")
        if self.one_length:
            tokens = F.pad(tokens, (0, 0, 0, self.longest - tokens.shape[1]))
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        return {**batch, "tokens": tokens, "mask": mask, "pooled": self.captions.gather(rows, "pooled")}

    def names(self, pictures: Tensor) -> list[str]:
        """What the data set calls ``pictures`` [B]."""
        first = self._table["name_first"]
        begins, ends = first[pictures].tolist(), first[pictures + 1].tolist()
        return [as_text(self._table["name"][begin:end]) for begin, end in zip(begins, ends, strict=True)]

    def image_rows(self, pictures: Tensor) -> Tensor:
        """The rows [B] of ``images``, and of every cache with the same keys, that hold ``pictures`` [B]."""
        return self._table["image_row"][pictures]

    def first_pictures(self) -> Tensor:
        """A picture [R] for each row of ``images``."""
        return torch.from_numpy(np.unique(self._table["image_row"].numpy(), return_index=True)[1])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel [C] over all different pictures; reads all of them."""
        return channel_statistics(self.images.each("latents"))

    def _caption_rows(self, pictures: Tensor, keys: Tensor) -> Tensor:
        begins = self._table["caption_first"][pictures]
        count = self._table["caption_first"][pictures + 1] - begins
        return self._table["caption_row"][begins + keyed_integers(keys, count, Stream.CAPTION)]


class _Table:
    """What is known of the pictures of a data set without decoding them, in arrays."""

    def __init__(self, dataset: Dataset) -> None:
        identities, keys, groups, captions, names = (bytearray() for _ in range(5))
        labels, counts, name_ends = array("q"), array("q", [0]), array("q", [0])
        for index in range(len(dataset)):
            item, identity = dataset.item(index), dataset.identity(index)
            if not item.captions and (dataset.classes == () or item.label is None):
                raise PochadeError(f"dataset: {item.name!r} has neither a caption nor a class")
            identities += digest(identity)
            keys += digest(identity, str(item.label), *item.captions)
            groups += digest(item.group)
            captions += b"".join(map(digest, item.captions))
            counts.append(len(item.captions))
            labels.append(-1 if item.label is None else item.label)
            names += item.name.encode("utf-8", "surrogateescape")
            name_ends.append(len(names))
        self.dataset = dataset.fingerprint()
        self.keys = digests(keys)
        self.images = digests(identities)
        self.captions = digests(captions)
        self.image_row, self.first_picture = distinct(self.images)
        self.caption_row, self.first_caption = distinct(self.captions)
        self.caption_first = np.cumsum(counts)
        self.labels, self.names, self.name_first = np.array(labels), names, np.array(name_ends)
        self.groups = Groups.by_name(digests(groups))

    def caption_at(self, number: int) -> tuple[int, int]:
        """The picture that has caption ``number`` of all, and the place of it among its own."""
        picture = int(np.searchsorted(self.caption_first, number, side="right")) - 1
        return picture, number - int(self.caption_first[picture])

    def write(self, folder: Path, images: PartCache, captions: PartCache | None) -> None:
        """Writes the table of a ``CachedLatents``."""
        arrays = {
            "image_row": self.image_row,
            "caption_row": self.caption_row,
            "caption_first": self.caption_first,
            "label": self.labels,
            "name": np.frombuffer(self.names, np.uint8),
            "name_first": self.name_first,
        }
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        tensors[_KEYS] = keys_tensor(self.keys)
        if self.groups.order is not None and self.groups.first is not None:
            tensors |= {"group_order": self.groups.order, "group_first": self.groups.first}
        about = {"dataset": self.dataset, "images": images.folder.name}
        about["captions"] = "" if captions is None else captions.folder.name
        write_tensors(folder / INDEX, tensors, {"about": json.dumps(about)})


def _images(dataset: Dataset, size: int | Shape, encoders: LatentEncoders, table: _Table) -> Contents[Tensor]:
    width, height = (size, size) if isinstance(size, int) else size

    def load(rows: list[int]) -> Tensor:
        return decode(dataset, table.first_picture[rows].tolist(), width, height)

    def encode(images: Tensor) -> Values:
        return {"latents": encoders.encode_images(images).float()}

    keys = table.images[table.first_picture]
    identity = encoders.images_identity, str(size)
    return Contents("images", identity, keys, load, encode, "caching latents", part=PART)


def _captions(dataset: Dataset, encoders: LatentEncoders, table: _Table) -> Contents[list[str]]:
    def load(rows: list[int]) -> list[str]:
        places = [table.caption_at(number) for number in table.first_caption[rows].tolist()]
        return [dataset.item(picture).captions[place] for picture, place in places]

    return caption_contents(table.captions[table.first_caption], load, encoders)


def caption_contents(
    keys: np.ndarray, load: Callable[[list[int]], list[str]], encoders: LatentEncoders
) -> Contents[list[str]]:
    """Of captions, whose ``digest`` is their key: "caption", and "tokens" and "pooled" where there is an encoder."""

    def encode(captions: list[str]) -> Values:
        values: dict[str, Tensor | list[Tensor]] = {"caption": [as_bytes(caption) for caption in captions]}
        if encoders.encode_text is not None:
            text = encoders.encode_text(captions)
            tokens = text.tokens.half().cpu()
            values["tokens"] = [row[mask] for row, mask in zip(tokens, text.mask.cpu(), strict=True)]
            values["pooled"] = text.pooled.half()
        return values

    identity = () if encoders.encode_text is None else (str(encoders.text_identity),)
    return Contents("captions", identity, keys, load, encode, "caching captions", part=8192)


def check_pictures(dataset: Dataset, latents: CachedLatents) -> None:
    """Raises PochadeError unless ``latents`` are those of ``dataset``."""
    if len(dataset) != latents.pictures:
        raise PochadeError(f"dataset: {len(dataset)} pictures given, there are latents of {latents.pictures}")
    if dataset.fingerprint() != latents.dataset:
        raise PochadeError("dataset: its pictures or captions are not those of the latents")


def channel_statistics(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] over all but the second axis of tensors [n, C, ...] end to end."""
    total = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for part in parts:
        values = part.double().transpose(0, 1).flatten(1)
        total, squares = total + values.sum(1), squares + values.square().sum(1)
        count += values.shape[1]
    mean = total / count
    return mean.float(), ((squares - count * mean.square()) / max(1, count - 1)).clamp(min=0).sqrt().float()
