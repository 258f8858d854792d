"""The layers of an OpenMoji drawing: outlines apart from colours, hair and skin, in the colours of one palette.

Each drawing is an SVG file of groups called "color", "hair", "skin", "line" and so on, so that edits are exact: no
outline changes its colour, and nothing is left over at the borders of what does.
"""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pochade.data.sources.svg import rasterise

PALETTE = {
    "red": ("EA5A47", "D22F27", "781E32"),
    "orange": ("F4AA41", "E27022"),
    "yellow": ("FCEA2B", "F1B31C"),
    "green": ("B1CC33", "5C9E31", "186648"),
    "blue": ("92D3F5", "61B2E4", "1E50A0"),
    "purple": ("B399C8", "8967AA"),
    "pink": ("FFA7C0", "E67A94"),
    "brown": ("A57939", "6A462F"),
}
"""OpenMoji's colours, each from light to dark; white, greys and black belong to none."""
HAIR = {
    "blond": ("FCEA2B", "F1B31C"),
    "red": ("E27022", "F4AA41"),
    "brown": ("A57939", "6A462F"),
    "black": ("000000", "3F3F3F"),
    "grey": ("D0CFCE", "9B9B9A"),
}
"""OpenMoji's colours of hair, each with that of its second shade."""
NEAR = 6
"""Steps of 256 by which a pixel inside an area may differ from the colour that it was given."""


def read_layers(path: Path) -> ET.Element:
    """The drawing in a file of OpenMoji's, whose children are its layers."""
    return ET.parse(path).getroot()


def keep_layers(drawing: ET.Element, start: str) -> None:
    """Takes away all layers but those whose name starts so."""
    for layer in list(drawing):
        if not layer.get("id", "").startswith(start):
            drawing.remove(layer)


def colours_of(drawing: ET.Element, start: str, other: bool = False) -> Counter[str]:
    """How often each colour (six digits) stands in the layers whose name starts so, or in the ``other`` ones."""
    found: Counter[str] = Counter()
    for layer in drawing:
        if layer.get("id", "").startswith(start) != other:
            found.update(_digits(e.get(key)) for e in layer.iter() for key in ("fill", "stroke"))
    del found[""]
    return found


def repaint(drawing: ET.Element, start: str, colours: Mapping[str, str]) -> None:
    """Changes colours (six digits, upper case) in the layers whose name starts so."""
    for layer in drawing:
        if layer.get("id", "").startswith(start):
            for element in layer.iter():
                for key in ("fill", "stroke"):
                    new = colours.get(_digits(element.get(key)))
                    if new is not None:
                        element.set(key, f"#{new}")


def draw(drawing: ET.Element, size: int) -> Image.Image:
    """The drawing on white, size by size."""
    rgba = Image.fromarray(rasterise(ET.tostring(drawing, encoding="unicode"), size))
    page = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(page, rgba).convert("RGB")


def areas(image: Image.Image) -> dict[str, float]:
    """The fraction of the pixels that each colour of the palette takes, shades together."""
    counted = image.getcolors(image.width * image.height) or []
    counts, colours = np.array([count for count, _ in counted]), np.array([colour for _, colour in counted])
    fractions: dict[str, float] = {}
    for name, shades in PALETTE.items():
        near = [np.abs(colours - list(bytes.fromhex(shade))).max(-1) <= NEAR for shade in shades]
        fractions[name] = float(counts[np.any(near, axis=0)].sum() / counts.sum())
    return fractions


def shade_for_shade(old: str, new: str) -> dict[str, str]:
    """Which shade of the palette's colour ``new`` stands for which of ``old``, from the lightest on."""
    others = PALETTE[new]
    return {shade: others[min(i, len(others) - 1)] for i, shade in enumerate(PALETTE[old])}


def names_of(colours: Counter[str]) -> set[str]:
    """The palette's names for ``colours``."""
    return {name for name, shades in PALETTE.items() if any(shade in colours for shade in shades)}


def _digits(value: str | None) -> str:
    """``#abc`` and ``#AABBCC`` as ``AABBCC``; the empty string for what is no colour."""
    if value is None or not value.startswith("#"):
        return ""
    digits = value[1:].upper()
    return "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
