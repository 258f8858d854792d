"""Cached pairs as latents and text vectors, each pair drawn several times, and pictures without a source among them.

Latents are float32, text vectors float16, a mask a bit for each cell of the latents.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.data.cache.build import build_cache
from pochade.data.cache.latents import CachedLatents, LatentEncoders, caption_contents
from pochade.data.cache.part_cache import INDEX, Contents, PartCache, Values
from pochade.data.cache.parts import DamagedPart, as_bytes, map_tensors
from pochade.data.samples import Batch, Samples, Stream, digest, digests, distinct, in_threads
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import PochadeError
from pochade.nn.keyed_random import keyed_integers, keyed_uniform
from pochade.tensors import write_tensors

AT_ONCE = 4096
"""Rows of a cache whose words are read at once."""
VERSION = 1
"""Changes with how a pair is drawn."""


def cache_pairs(
    pairs: PairDataset, draws: int, encoders: LatentEncoders, folder: Path, *, progress: bool = True
) -> "CachedPairs":
    """Latents of ``draws`` draws of every pair, with the vectors of their instructions, as ``cache_latents``.

    A draw is ``pairs.sample`` with a generator that is seeded by the pair's identity and the number of the draw.

    Raises:
        PochadeError: there are no pairs or draws, or there is no text encoder.
    """
    if len(pairs) == 0:
        raise PochadeError("pairs: there are none")
    if draws < 1:
        raise PochadeError(f"draws: {draws} given, allowed is 1 and more")
    if encoders.encode_text is None:
        raise PochadeError("encoders: no text encoder given, and instructions are sentences")
    contents = _drawn(pairs, draws, encoders)
    facts = [VERSION, contents.name, encoders.text_identity, draws]
    own = folder / f"edits-{sha256(json.dumps(facts).encode()).hexdigest()[:16]}"
    found = CachedPairs.find(own)
    if found is not None:
        return found
    cache = build_cache(contents, folder, progress=progress)
    instructions = [text for part in _chunks(len(cache)) for text in cache.texts(part, "instruction")]
    rows, first = distinct(digests(b"".join(map(digest, instructions))))
    words = [instructions[place] for place in first.tolist()]
    keys = digests(b"".join(map(digest, words)))
    texts = caption_contents(keys, lambda numbers: [words[number] for number in numbers], encoders)
    captions = build_cache(texts, folder, progress=progress)
    tasks = sorted({task for part in cache.each("task") for task in part.tolist()})
    about = {"pairs": cache.folder.name, "captions": captions.folder.name, "draws": draws, "tasks": tasks}
    write_tensors(own / INDEX, {"caption_row": torch.from_numpy(rows)}, {"about": json.dumps(about)})
    return CachedPairs(own)


def _drawn(pairs: PairDataset, draws: int, encoders: LatentEncoders) -> Contents[list[dict[str, Any]]]:
    """Row d * P + i is draw d of pair i of P."""
    keys = digests(b"".join(digest(pairs.identity(i), str(draw)) for draw in range(draws) for i in range(len(pairs))))

    def load_one(row: int) -> dict[str, Any]:
        seed = int.from_bytes(keys[row : row + 1].tobytes(), "little")
        return pairs.sample(row % len(pairs), np.random.default_rng(seed))

    def load(rows: list[int]) -> list[dict[str, Any]]:
        return in_threads(load_one, rows)

    def encode(drawn: list[dict[str, Any]]) -> Values:
        source, target, mask = (torch.stack([sample[n] for sample in drawn]) for n in ("source", "target", "mask"))
        before, after = encoders.encode_images(torch.cat((source, target))).float().cpu().chunk(2)
        # A cell is repainted where any pixel in it is.
        cells = F.adaptive_max_pool2d(mask, before.shape[2:])
        return {
            "source": before,
            "target": after,
            "mask": torch.from_numpy(np.packbits(cells.flatten(1).numpy() > 0, axis=1)),
            "task": torch.tensor([sample["task"] for sample in drawn]),
            "instruction": [as_bytes(sample["instruction"]) for sample in drawn],
            "name": [as_bytes(sample["name"]) for sample in drawn],
        }

    return Contents("pairs", (encoders.images_identity, str(VERSION)), keys, load, encode, "caching pairs", batch=32)


def _chunks(count: int) -> list[Tensor]:
    return list(torch.arange(count).split(4096))


class CachedPairs(Samples):
    """Samples of cached pairs.

    ``{"latents" and "source" [B, C, h, w], "source_mask" [B, 1, h, w] in {0, 1}, "task" [B], "tokens" [B, M, D_text],
    "mask" [B, M], "pooled" [B, D_pool], "name"}``, "latents" being those of the picture after, M the longest
    instruction of the batch. An epoch shows each pair once, in one of its draws. Row i + d * ``pairs`` is draw d of
    pair i.

    Attributes:
        pairs, draws: how many there are.
        tasks: of all draws, indices into ``pochade.types.TASKS``.
        longest: the most tokens of an instruction.

    Raises:
        DamagedPart: there is no finished cache in ``folder``.
    """

    def __init__(self, folder: Path) -> None:
        table, words = map_tensors(folder / INDEX)
        try:
            about = json.loads(words["about"])
            self.cache = PartCache(folder.parent / about["pairs"])
            self.captions = PartCache(folder.parent / about["captions"])
            self.draws, self.tasks = int(about["draws"]), frozenset[int](about["tasks"])
            self._caption_row = table["caption_row"]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedPart(f"its table lacks {error}") from error
        self.pairs = len(self.cache) // self.draws
        self.longest = self.captions.longest["tokens"]

    @classmethod
    def find(cls, folder: Path) -> "CachedPairs | None":
        """The cache in ``folder``; None where it is not finished, or a part has changed since."""
        try:
            found = cls(folder)
        except DamagedPart:
            return None
        return found if all(PartCache.find(cache.folder) for cache in (found.cache, found.captions)) else None

    def __len__(self) -> int:
        return self.pairs

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """The pairs at ``indices`` [B], each in one of its draws, drawn evenly by ``keys`` [B]."""
        return self.of_rows(keyed_integers(keys, self.draws, Stream.DRAW) * self.pairs + indices)

    def of_rows(self, rows: Tensor) -> Batch:
        """Those rows [B]."""
        source = self.cache.gather(rows, "source")
        height, width = source.shape[2:]
        bits = np.unpackbits(self.cache.gather(rows, "mask").numpy(), axis=1, count=height * width)
        captions = self._caption_row[rows]
        tokens, lengths = self.captions.gather_ragged(captions, "tokens")
        return {
            "latents": self.cache.gather(rows, "target"),
            "source": source,
            "source_mask": torch.from_numpy(bits).view(-1, 1, height, width).float(),
            "task": self.cache.gather(rows, "task"),
            "tokens": tokens,
            "mask": torch.arange(tokens.shape[1]) < lengths[:, None],
            "pooled": self.captions.gather(captions, "pooled"),
            "name": self.cache.texts(rows, "name"),
        }

    def named_instructions(self) -> Iterator[tuple[str, str]]:
        """Each instruction of each pair once, behind the name of the pair."""
        seen = set[tuple[str, str]]()
        for start in range(0, len(self.cache), AT_ONCE):
            rows = torch.arange(start, min(start + AT_ONCE, len(self.cache)))
            for both in zip(self.cache.texts(rows, "name"), self.instructions(rows), strict=True):
                if both not in seen:
                    seen.add(both)
                    yield both

    def instructions(self, rows: Tensor) -> list[str]:
        """The instructions of those rows [B]."""
        return self.cache.texts(rows, "instruction")


class PairsAndPictures(Samples):
    """Pairs, and in place of a fraction of them pictures with their captions: their source is zero, their task -1.

    Args:
        pairs: an epoch shows each once, or a picture in its place.
        pictures: drawn evenly, with text vectors of the same encoder.
        fraction: of the pictures, in [0, 1).
    """

    def __init__(self, pairs: CachedPairs, pictures: CachedLatents, fraction: float) -> None:
        self.pairs, self.pictures, self.fraction = pairs, pictures, fraction

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        """The pairs at ``indices`` [B], or pictures, drawn by ``keys`` [B]."""
        instead = keyed_uniform(keys, 1, Stream.PICTURE_INSTEAD)[:, 0] < self.fraction
        places = torch.cat((instead.logical_not().nonzero()[:, 0], instead.nonzero()[:, 0]))
        chosen = keys[instead]
        which = keyed_integers(chosen, len(self.pictures), Stream.WHICH_PICTURE)
        parts = self.pairs.batch(indices[~instead], keys[~instead]), self._plain(self.pictures.batch(which, chosen))
        return _joined(parts, places.argsort())

    @staticmethod
    def _plain(batch: Batch) -> Batch:
        latents = batch["latents"]
        assert isinstance(latents, Tensor)
        source = torch.zeros_like(latents)
        task = torch.full((len(latents),), -1)
        return {**batch, "source": source, "source_mask": source[:, :1], "task": task}


def _joined(parts: tuple[Batch, Batch], order: Tensor) -> Batch:
    """Two batches with the same entries as one, text padded to the longer one, in ``order`` [B]."""
    joined: Batch = {}
    for name in parts[0]:
        one, other = parts[0][name], parts[1][name]
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            if name in ("tokens", "mask"):
                longest = max(one.shape[1], other.shape[1])
                one, other = _padded(one, longest), _padded(other, longest)
            joined[name] = torch.cat((one, other))[order]
        else:
            texts = [*one, *other]
            joined[name] = [texts[place] for place in order.tolist()]
    return joined


def _padded(rows: Tensor, longest: int) -> Tensor:
    """[B, M, ...] with zeros up to M = ``longest``."""
    return torch.cat((rows, rows.new_zeros(len(rows), longest - rows.shape[1], *rows.shape[2:])), 1)
