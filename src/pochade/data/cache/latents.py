"""A cache of latents and text vectors, so that training touches neither the autoencoder nor the text encoder.

It is written in parts, each a safetensors file renamed into place when whole: an interrupted build goes on where it
stopped. Latents are float32; text vectors, which are inputs and forgive it, float16.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pochade.data.sources.captioned import progress_bar
from pochade.errors import PochadeError
from pochade.files import atomic_file, write_json
from pochade.images.decode import to_tensor
from pochade.types import TextEncoding

PART = 512
"""Pictures in one file of the cache."""
BATCH = 64


class Pictures(Protocol):
    """What can be cached: pictures in a fixed order, each with captions or a class, in groups of variants."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image: ...

    def captions(self, index: int) -> Sequence[str]: ...

    def label(self, index: int) -> int:
        """The class, or -1 where there are captions instead."""
        ...

    def group(self, index: int) -> int:
        """Pictures of one group are variants of one thing: an epoch shows one of them."""
        ...


EncodeImages = Callable[[Tensor], Tensor]
EncodeText = Callable[[Sequence[str]], TextEncoding]


def fingerprint(pictures: Pictures, *identities: str) -> str:
    """16 hex digits that change with the pictures' captions, their pixels (a sample of them) or an identity."""
    digest = hashlib.sha256(json.dumps(identities).encode())
    for index in range(len(pictures)):
        digest.update(json.dumps([*pictures.captions(index), pictures.label(index), pictures.group(index)]).encode())
    for index in range(0, len(pictures), max(1, len(pictures) // 64)):
        digest.update(pictures.image(index).tobytes())
    return digest.hexdigest()[:16]


def text_tensors(captions: Sequence[str], encode: EncodeText) -> dict[str, Tensor]:
    """Text vectors of all captions, tokens end to end without padding."""
    rows: list[Tensor] = []
    pooled: list[Tensor] = []
    for start in range(0, len(captions), BATCH):
        text = encode(captions[start : start + BATCH])
        rows += [tokens[mask].half() for tokens, mask in zip(text.tokens, text.mask, strict=True)]
        pooled.append(text.pooled.half())
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return {"tokens": torch.cat(rows), "token_offsets": lengths.cumsum(0), "pooled": torch.cat(pooled)}


def build_cache(
    pictures: Pictures,
    encode_images: EncodeImages,
    encode_text: EncodeText | None,
    folder: Path,
    *,
    progress: bool = True,
) -> "CachedLatents":
    """Encode all ``pictures`` into ``folder``, which may hold a part of them already.

    Args:
        encode_images: [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
        encode_text: captions -> TextEncoding; None keeps the captions as words (for a text encoder that is trained).
        folder: named after ``fingerprint``, so that it never holds anything else.

    Raises:
        PochadeError: there are no pictures, or a part that was there already is damaged.
    """
    if len(pictures) == 0:
        raise PochadeError("pictures: there are none")
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-len(pictures) // PART)
    with progress_bar(progress) as bar, torch.no_grad():
        task = bar.add_task("caching latents", total=len(pictures))
        for part in range(count):
            path = folder / f"part-{part:05d}.safetensors"
            indices = range(part * PART, min(len(pictures), (part + 1) * PART))
            if not path.exists():
                latents: list[Tensor] = []
                for start in range(indices.start, indices.stop, BATCH):
                    batch = range(start, min(indices.stop, start + BATCH))
                    latents.append(encode_images(torch.stack([to_tensor(pictures.image(i)) for i in batch])).float())
                    bar.advance(task, len(batch))
                captions = [list(pictures.captions(i)) for i in indices]
                offsets = torch.tensor([0, *(len(c) for c in captions)]).cumsum(0)
                tensors = {
                    "latents": torch.cat(latents).contiguous(),
                    "labels": torch.tensor([pictures.label(i) for i in indices]),
                    "groups": torch.tensor([pictures.group(i) for i in indices]),
                    "caption_offsets": offsets,
                }
                flat = [caption for alternatives in captions for caption in alternatives]
                if encode_text is not None and flat:
                    tensors |= text_tensors(flat, encode_text)
                with atomic_file(path) as file:
                    file.write(save(tensors, metadata={"captions": json.dumps(flat)}))
            else:
                bar.advance(task, len(indices))
    write_json(folder / "cache.json", {"pictures": len(pictures), "parts": count})
    return CachedLatents(folder)


def _read_part(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, json.loads(file.metadata()["captions"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PochadeError(f"{path}: damaged ({error}); delete this file and it is made again") from error


class CachedLatents:
    """Samples from a finished cache: ``{"latents", "name"}`` with text vectors, words, or a class.

    - text vectors: "tokens" [M, D_text] and "mask" [M] padded to the longest caption of the cache, "pooled" [D_pool];
    - words: "caption";
    - classes: "class_label".

    An epoch shows each group once, in a variant and with a caption drawn at random. ``longest`` is the M of its tokens.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "cache.json").is_file():
            raise PochadeError(f"folder: {folder} holds no finished cache of latents")
        parts = json.loads((folder / "cache.json").read_text())["parts"]
        self._parts: list[dict[str, Tensor]] = []
        self._captions: list[list[str]] = []
        for number in range(parts):
            tensors, captions = _read_part(folder / f"part-{number:05d}.safetensors")
            self._parts.append(tensors)
            self._captions.append(captions)
        self._starts = np.cumsum([0, *(len(p["latents"]) for p in self._parts)]).tolist()
        groups: dict[int, list[int]] = {}
        for index, group in enumerate(torch.cat([p["groups"] for p in self._parts]).tolist()):
            groups.setdefault(group, []).append(index)
        self._groups = list(groups.values())
        self.longest = max((int(p["token_offsets"].diff().max()) for p in self._parts if "tokens" in p), default=0)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w."""
        c, h, w = self._parts[0]["latents"].shape[1:]
        return c, h, w

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel [C] over the cache."""
        latents = torch.cat([p["latents"] for p in self._parts])
        return latents.mean((0, 2, 3)), latents.std((0, 2, 3))

    @property
    def pictures(self) -> int:
        """Pictures of the cache, the variants of all groups."""
        return self._starts[-1]

    def variant(self, index: int, rng: np.random.Generator) -> int:
        """A picture of group ``index``, in [0, pictures), drawn evenly."""
        variants = self._groups[index]
        return variants[int(rng.integers(len(variants)))]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of group ``index`` with one of its captions, both drawn evenly."""
        return self.picture(self.variant(index, rng), rng)

    def picture(self, item: int, rng: np.random.Generator) -> dict[str, Any]:
        """Picture ``item`` with one of its captions, drawn evenly."""
        out, part, caption = self._drawn(item, rng)
        if caption is None or "tokens" not in part:
            return out
        del out["caption"]
        start, stop = part["token_offsets"][caption : caption + 2].tolist()
        tokens = torch.zeros(self.longest, part["tokens"].shape[1])
        tokens[: stop - start] = part["tokens"][start:stop]
        mask = torch.arange(self.longest) < stop - start
        return {**out, "tokens": tokens, "mask": mask, "pooled": part["pooled"][caption].float()}

    def in_words(self, item: int, rng: np.random.Generator) -> dict[str, Any]:
        """As ``picture`` with the same ``rng``, but with "caption" as words in any case."""
        return self._drawn(item, rng)[0]

    def _drawn(self, item: int, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Tensor], int | None]:
        """A picture in words, the part that holds it, and the number in that part of the caption drawn for it."""
        number = bisect_right(self._starts, item) - 1
        part, row = self._parts[number], item - self._starts[number]
        out: dict[str, Any] = {"latents": part["latents"][row], "name": str(item)}
        first, end = part["caption_offsets"][row : row + 2].tolist()
        if first == end:
            return {**out, "class_label": int(part["labels"][row])}, part, None
        caption = int(rng.integers(first, end))
        return {**out, "caption": self._captions[number][caption]}, part, caption
