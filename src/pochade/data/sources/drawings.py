"""Drawings in several styles: OpenMoji beside Iconify's sets of emoji, with the names and concepts of OpenMoji.

A concept is held out in every style. Of the others, one in ``COMPOSED_EVERY`` pairs of style and concept is kept out of
training as well, though the concept is seen in other styles and the style with other concepts: what a model generates
for such a pair tells whether it composes the two.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from pochade.data.dataset import Split, check_size, check_split, split_of
from pochade.data.report import Report
from pochade.data.sources.drawing_names import ALIASES
from pochade.data.sources.iconify import IconSet, find_sets, read_set
from pochade.data.sources.image_files import CheckedPictures, ImageFiles, Picture, Reading
from pochade.data.sources.layers import layered_depth
from pochade.data.sources.openmoji import (
    LICENCE,
    SKIN_TONE_WORDS,
    Drawing,
    all_drawings,
    concept_of,
    on_colour,
)
from pochade.data.sources.svg import rasterise
from pochade.data.store import store_for
from pochade.errors import PochadeError
from pochade.images.decode import BadImage

STYLES = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent-emoji": "fluent 3d",
    "fluent-emoji-flat": "fluent flat",
    "emojione": "emojione",
    "noto-v1": "noto blob",
    "streamline-emojis": "streamline",
}
"""Sets, and what captions call them; another set is called by its title."""
OPENMOJI = "openmoji"
DEFAULT_SETS = (OPENMOJI, *STYLES)
"""The sets that are read where none are named."""
COMPOSED_EVERY = 25
MIXED_CAPTIONS = 2
"""Captions with a random part of the words in a random order, of each drawing."""
KEEP = 0.5
"""Probability that such a caption has a word."""
LEAST_CONTRAST = 2.0
"""Standard deviation of the pixels, of 255, below which nothing is drawn."""
_TONE = re.compile(r"(-medium)?-(light|medium|dark)$")
_NUMBER = re.compile(r"[- ]\d+$")
_PARTS = re.compile(r"^input-")
_DOUBLES = re.compile(r"^flag-for-flag")


@dataclass(frozen=True, slots=True)
class DrawnPicture(Picture):
    """A drawing as SVG, in ``svg`` or, where that is empty, in ``file``."""

    svg: str = ""

    def read(self) -> bytes:
        return self.svg.encode() if self.svg else Picture.read(self)

    def pixels(self, data: bytes) -> None:  # noqa: ARG002
        return None

    def load(self, data: bytes, size: int, reading: Reading) -> tuple[Image.Image, tuple[str, ...]]:
        try:
            pixels = on_colour(rasterise(data.decode(), size), reading.colour(self.name))
        except ValueError as error:
            raise BadImage(self.name, "corrupt or truncated", str(error)) from error
        if pixels.std() < LEAST_CONTRAST:
            raise BadImage(self.name, "nothing drawn")
        return Image.fromarray(pixels), ()


class _Drawings(ImageFiles):
    """Drawings, which come with their depth."""

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        if kind != "depth":
            return super().control(index, size, kind)
        check_size(size)
        return layered_depth(self.picture(index).read().decode(), size)


class _Records(CheckedPictures):
    """Checked pictures whose split has three sides."""

    def chosen(self, split: Split) -> np.ndarray:
        if split == "all":
            return np.ones(len(self.labels), bool)
        return np.array([self.side(index) == split for index in range(len(self.labels))], bool)

    def side(self, index: int) -> str:
        return self.picture(index).split


def open_drawings(path: Path, sets: Sequence[str], split: Split, reading: Reading) -> ImageFiles:
    """The drawings of icon sets below ``path``, each checked once; skin tones are left out, and noted.

    The set "openmoji" is OpenMoji itself, from the installed packages. Names are matched to those of OpenMoji anyhow.

    Captions are ``NAME, STYLE style``, the same with all other words behind the name, ``MIXED_CAPTIONS`` with some of
    them in any order, and one without the style, so that four of five name it. A group is a pair of style and concept.

    Raises:
        PochadeError: a set is missing or cannot be read, or a package of the "train" extra is missing.
        EmptySplitError: no picture is of the split.
        FailureError: too many are unusable; the report's file is named.
    """
    check_split(split)
    if not path.is_dir():
        raise PochadeError(f"path: {path} is no folder; it is the one with the packages of @iconify-json")
    icon_sets = [read_set(place) for place in find_sets(path, [name for name in sets if name != OPENMOJI]).values()]
    openmoji = [drawing for drawing in all_drawings() if not SKIN_TONE_WORDS.search(drawing.name)]
    store = store_for(path)
    report = Report(str(path), store / "report.json", total=len(openmoji), max_skipped=reading.max_skipped)
    pictures: list[Picture] = []
    if OPENMOJI in sets:
        pictures += [_picture(OPENMOJI, d.code, d.name, d.keywords, d.concept, LICENCE, d.path) for d in openmoji]
        for drawing in all_drawings():
            if SKIN_TONE_WORDS.search(drawing.name):
                report.note("skin tone", f"{OPENMOJI}/{drawing.code}")
    named: dict[str, Drawing] = {}
    for drawing in openmoji:
        named.setdefault(key_of(drawing.name), drawing)
    for icon_set in icon_sets:
        pictures += _of_set(icon_set, named, report)
    trained = {concept for split, concept in map(_split_and_concept, pictures) if split == "train"}
    for picture in pictures:
        split_, concept = _split_and_concept(picture)
        if split_ == "composed" and concept not in trained:
            report.note("composed, though no other of these sets trains the concept", picture.name)
    report.total = len(pictures) + report.skipped_count
    return _Drawings(
        _Records(pictures, report, store, reading), None, report, split=split, classes=False, reading=reading
    )


def style_of(prefix: str, title: str) -> str:
    """What captions call the drawings of a set."""
    return STYLES.get(prefix, title.casefold())


def is_composed(style: str, concept: str) -> bool:
    """Whether a pair of style and concept is kept out of training though both are seen."""
    digest = sha256(f"{style}|{concept}".encode()).hexdigest()
    return int(digest[:8], 16) % COMPOSED_EVERY == 0


def _split_and_concept(picture: Picture) -> tuple[str, str]:
    return picture.split, picture.group.partition("/")[2]


def _of_set(icon_set: IconSet, named: dict[str, Drawing], report: Report) -> list[Picture]:
    for name, why in icon_set.damaged.items():
        report.skip(f"{icon_set.prefix}/{name}", "corrupt or truncated", why)
    pictures: list[Picture] = []
    for name, svg in icon_set.drawings.items():
        full = f"{icon_set.prefix}/{name}"
        drawing = matched(name, named)
        why = _left_out(name, icon_set.drawings, known=drawing is not None)
        if why:
            report.note(why, full)
            continue
        style = style_of(icon_set.prefix, icon_set.title)
        if drawing is None:
            report.note("name that OpenMoji does not have", full)
            words = key_of(name).replace("-", " ")
            what: tuple[str, tuple[str, ...], str] = words, (), concept_of(_NUMBER.sub("", words))
        else:
            what = drawing.name, drawing.keywords, drawing.concept
        pictures.append(_picture(style, name, *what, icon_set.licence, icon_set.file, svg, icon_set.prefix))
    return pictures


def _left_out(name: str, names: Collection[str], *, known: bool) -> str:
    """Why a drawing of a set with these names is left out; "" for no reason. Not every "light" is a tone."""
    bare = _TONE.sub("", name)
    if "skin-tone" in name or (not known and bare != name and bare in names):
        return "skin tone"
    if _PARTS.search(name):
        return "input symbol"
    return "drawn twice" if _DOUBLES.search(name) else ""


def matched(name: str, named: Mapping[str, Drawing]) -> Drawing | None:
    """OpenMoji's drawing of the same name, of ``named`` by ``key_of``.

    "flag-for-france", "flag-france" and "france" are its "flag of France", "ring-2" is its "ring", "robot-face" its
    "robot".
    """
    key = key_of(name)
    single = _NUMBER.sub("", key)
    alias = key_of(ALIASES.get(single.replace("-", " "), single))
    country = "flag-of-" + single.removeprefix("flag-for-").removeprefix("flag-")
    forms = (key, alias, country, single.removesuffix("-face"))
    return next((named[form] for form in forms if form in named), None)


def _picture(
    style: str,
    code: str,
    name: str,
    keywords: tuple[str, ...],
    concept: str,
    licence: str,
    file: Path,
    svg: str = "",
    prefix: str = OPENMOJI,
) -> Picture:
    split = split_of(concept)
    if split == "train" and is_composed(style, concept):
        split = "composed"
    full = f"{prefix}/{code}"
    captions = captions_of(name, keywords, style, full)
    return DrawnPicture(full, file, captions, None, f"{style}/{concept}", split, licence, svg=svg)


def captions_of(name: str, keywords: tuple[str, ...], style: str, key: str) -> tuple[str, ...]:
    """The captions of a drawing; what is random in them comes from ``key``."""
    rng = np.random.default_rng(int.from_bytes(sha256(key.encode()).digest()[:8], "big"))

    def mixed() -> str:
        words = [name, *(word for word in keywords if rng.random() < KEEP)]
        return ", ".join(words[i] for i in rng.permutation(len(words)))

    ending = f", {style} style"
    whole = ", ".join((name, *keywords))
    with_style = [name, whole, *(mixed() for _ in range(MIXED_CAPTIONS))]
    return (*(words + ending for words in with_style), mixed())


def key_of(name: str) -> str:
    """A name as Iconify writes it: "Côte d'Ivoire" is "cote-divoire", "St. Kitts & Nevis" is "st-kitts-and-nevis"."""
    plain = "".join(c for c in unicodedata.normalize("NFD", name.casefold()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"['’.]", "", plain).replace("&", " and ")).strip("-")
