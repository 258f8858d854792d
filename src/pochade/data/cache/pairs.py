"""A cache of pairs as latents and text vectors, drawn several times, and pictures without a source among them.

It is written in parts, each a safetensors file renamed into place when whole: an interrupted build goes on where it
stopped. Latents are float32, text vectors float16, a mask a bit for each cell of the latents.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pochade.data.cache.latents import CachedLatents, EncodeImages, EncodeText, text_tensors
from pochade.data.sources.captioned import progress_bar
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import PochadeError
from pochade.files import atomic_file, write_json

PART = 512
"""Pairs in one file of the cache."""
BATCH = 32
"""Pairs that are encoded at once."""
SEEN = 64
"""Pairs whose pixels tell caches apart."""


def fingerprint_pairs(pairs: PairDataset, *identities: str) -> str:
    """16 hex digits that change with an identity, the number of the pairs, and a sample of them."""
    digest = hashlib.sha256(json.dumps([*identities, len(pairs)]).encode())
    for index in range(0, len(pairs), max(1, len(pairs) // SEEN)):
        pair = pairs.pair(index)
        digest.update(json.dumps([pair.name, pair.task, pair.instruction]).encode())
        for picture in (pair.source, pair.target, pair.mask):
            digest.update(b"" if picture is None else picture.tobytes())
    return digest.hexdigest()[:16]


def build_pairs(
    pairs: PairDataset,
    draws: int,
    encode_images: EncodeImages,
    encode_text: EncodeText,
    folder: Path,
    *,
    progress: bool = True,
) -> "CachedPairs":
    """Encode ``draws`` draws of every pair into ``folder``, which may hold a part of them already.

    Draw d of pair i is ``pairs.sample(i, rng)`` with a generator seeded by [i, d].

    Args:
        draws: at least 1.
        encode_images: [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
        encode_text: instructions -> TextEncoding.
        folder: named after ``fingerprint_pairs`` (with ``draws``), so that it never holds anything else.

    Raises:
        PochadeError: there are no pairs or draws, or a part that was there already is damaged.
    """
    if len(pairs) == 0:
        raise PochadeError("pairs: there are none")
    if draws < 1:
        raise PochadeError(f"draws: {draws} given, allowed is 1 and more")
    folder.mkdir(parents=True, exist_ok=True)
    total = draws * len(pairs)
    count = -(-total // PART)
    with progress_bar(progress) as bar, torch.no_grad():
        task = bar.add_task("caching pairs", total=total)
        for part in range(count):
            path = folder / f"part-{part:05d}.safetensors"
            items = range(part * PART, min(total, (part + 1) * PART))
            if path.exists():
                bar.advance(task, len(items))
                continue
            batches: list[dict[str, Tensor]] = []
            words: list[str] = []
            for start in range(items.start, items.stop, BATCH):
                drawn = [_draw(pairs, item) for item in range(start, min(items.stop, start + BATCH))]
                batches.append(_encode(drawn, encode_images))
                words += [sample["instruction"] for sample in drawn]
                bar.advance(task, len(drawn))
            different = sorted(set(words))
            number = {instruction: i for i, instruction in enumerate(different)}
            tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
            tensors["words"] = torch.tensor([number[instruction] for instruction in words])
            tensors |= text_tensors(different, encode_text)
            with atomic_file(path) as file:
                file.write(save(tensors, metadata={"instructions": json.dumps(different)}))
    write_json(folder / "cache.json", {"pairs": len(pairs), "draws": draws, "parts": count})
    return CachedPairs(folder)


def _draw(pairs: PairDataset, item: int) -> dict[str, Any]:
    draw, index = divmod(item, len(pairs))
    return pairs.sample(index, np.random.default_rng([index, draw]))


def _encode(drawn: list[dict[str, Any]], encode_images: EncodeImages) -> dict[str, Tensor]:
    """Latents, bits and tasks of drawn pairs."""
    source, target, mask = (torch.stack([sample[name] for sample in drawn]) for name in ("source", "target", "mask"))
    latents = encode_images(torch.cat((source, target))).float().cpu()
    before, after = latents.chunk(2)
    # A cell is repainted where any pixel in it is.
    cells = F.adaptive_max_pool2d(mask, before.shape[2:])
    bits = np.packbits(cells.flatten(1).numpy() > 0, axis=1)
    return {
        "source": before.contiguous(),
        "target": after.contiguous(),
        "mask": torch.from_numpy(bits),
        "task": torch.tensor([sample["task"] for sample in drawn]),
    }


def _read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, json.loads(file.metadata()["instructions"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PochadeError(f"{path}: damaged ({error}); delete this file and it is made again") from error


class CachedPairs:
    """Samples from a finished cache, as ``pochade.training.stages.edit`` takes them.

    ``{"latents" and "source" [C, h, w], "source_mask" [1, h, w] in {0, 1}, "task", "tokens" [M, D_text], "mask" [M],
    "pooled" [D_pool], "name"}``, "latents" being those of the picture after, and text padded to the longest instruction
    of the cache. An epoch shows each pair once, in one of its draws.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "cache.json").is_file():
            raise PochadeError(f"folder: {folder} holds no finished cache of pairs")
        known = json.loads((folder / "cache.json").read_text())
        self.pairs, self.draws = int(known["pairs"]), int(known["draws"])
        self._parts = [_read(folder / f"part-{number:05d}.safetensors") for number in range(known["parts"])]
        self.longest = max(int(part["token_offsets"].diff().max()) for part, _ in self._parts)

    def __len__(self) -> int:
        return self.pairs

    @property
    def tasks(self) -> set[int]:
        """The tasks of all draws, indices into ``pochade.types.TASKS``."""
        return {task for part, _ in self._parts for task in part["task"].tolist()}

    def instruction(self, item: int) -> str:
        """Of pair and draw ``item``, in [0, pairs * draws): pair i in draw d is d * pairs + i."""
        part, words = self._parts[item // PART]
        return words[int(part["words"][item % PART])]

    def item(self, item: int) -> dict[str, Any]:
        """Pair and draw ``item``, see ``instruction``."""
        part, row = self._parts[item // PART][0], item % PART
        source = part["source"][row]
        height, width = source.shape[1:]
        bits = np.unpackbits(part["mask"][row].numpy(), count=height * width)
        word = int(part["words"][row])
        start, stop = part["token_offsets"][word : word + 2].tolist()
        tokens = torch.zeros(self.longest, part["tokens"].shape[1])
        tokens[: stop - start] = part["tokens"][start:stop]
        return {
            "latents": part["target"][row],
            "source": source,
            "source_mask": torch.from_numpy(bits.reshape(1, height, width).astype(np.float32)),
            "task": int(part["task"][row]),
            "tokens": tokens,
            "mask": torch.arange(self.longest) < stop - start,
            "pooled": part["pooled"][word].float(),
            "name": str(item),
        }

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Pair ``index`` in one of its draws, drawn evenly."""
        return self.item(int(rng.integers(self.draws)) * self.pairs + index)


class PairsAndPictures:
    """Pairs, and in place of a share of them pictures with their captions: their source is zero, their task -1.

    Args:
        pairs: an epoch shows each once, or a picture in its place.
        pictures: drawn evenly, with text vectors of the same encoder.
        share: of the pictures, in [0, 1).
    """

    def __init__(self, pairs: CachedPairs, pictures: CachedLatents, share: float) -> None:
        self.pairs, self.pictures, self.share = pairs, pictures, share

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if rng.random() >= self.share:
            return self._padded(self.pairs.sample(index, rng))
        picture = self.pictures.sample(int(rng.integers(len(self.pictures))), rng)
        source = torch.zeros_like(picture["latents"])
        return self._padded({**picture, "source": source, "source_mask": source[:1], "task": -1})

    def _padded(self, sample: dict[str, Any]) -> dict[str, Any]:
        """With text of one length, that of the longest of both."""
        missing = max(self.pairs.longest, self.pictures.longest) - len(sample["mask"])
        return {
            **sample,
            "tokens": F.pad(sample["tokens"], (0, 0, 0, missing)),
            "mask": F.pad(sample["mask"], (0, missing)),
        }
