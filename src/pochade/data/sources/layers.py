"""Depth maps of drawings: what is painted later lies nearer."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pochade.data.sources.svg import rasterise

FIRST = 0.5
"""How near the first layer is, where the page is 0 and the last layer 1: what is drawn stands before its page."""
_SHAPES = {"path", "rect", "circle", "ellipse", "polygon", "polyline", "use"}
_UNPAINTED = {"defs", "clipPath", "mask", "linearGradient", "radialGradient", "pattern", "filter", "symbol", "style"}
_STYLE = re.compile(r"([\w-]+)\s*:\s*([^;]+)")
_URL = re.compile(r"url\(\s*['\"]?#([^'\")]+)")
_SVG = "{http://www.w3.org/2000/svg}"


def layered_depth(svg: Path | str, size: int) -> Image.Image:
    """The depth of a drawing, a file or SVG itself, as a grey picture of ``size`` x ``size`` pixels, near being bright.

    A layer is a shape filled with a colour that hides what is behind it; the n-th of N has a depth between ``FIRST``
    and 1 that grows with n. Strokes without a fill, shades and lights that let the layer beneath through are part of
    that layer. A drawing of strokes alone is black.

    Raises as ``rasterise``.
    """
    text = svg.read_text(encoding="utf-8") if isinstance(svg, Path) else svg
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    clear = {e.get("id") for e in root.iter() if any("opacity" in _paint(stop, {}) for stop in e.iter(f"{_SVG}stop"))}
    layers: list[ElementTree.Element] = []
    _collect(root, {"fill": "black"}, clear, layers)
    for number, shape in enumerate(layers, 1):
        grey = round(255 * (FIRST + (1 - FIRST) * number / len(layers)))
        for name in ("fill", "stroke"):
            if shape.get(name) != "none":
                shape.set(name, f"rgb({grey},{grey},{grey})")
    pixels = rasterise(ElementTree.tostring(root, encoding="unicode"), size).astype(np.float32)
    return Image.fromarray((pixels[..., 0] * pixels[..., 3] / 255).round().astype(np.uint8))


def _collect(
    element: ElementTree.Element, inherited: dict[str, str], clear: set[str | None], layers: list[ElementTree.Element]
) -> None:
    """Appends the layers in ``element`` in the order in which they are painted, with their paint as attributes; what is
    no layer is removed. ``clear``: identities of gradients that let through what is behind them."""
    paint = _paint(element, inherited)
    for child in list(element):
        name = child.tag.removeprefix(_SVG)
        if name in _UNPAINTED:
            continue
        if name in _SHAPES:
            own = _paint(child, paint)
            gradient = _URL.match(own["fill"])
            if own["fill"] == "none" or "opacity" in own or (gradient and gradient[1] in clear):
                element.remove(child)
                continue
            for key in ("style", "class", "fill-opacity", "stroke-opacity"):
                child.attrib.pop(key, None)
            child.attrib.update({"stroke": "none"} | own)
            layers.append(child)
        else:
            _collect(child, paint, clear, layers)


def _paint(element: ElementTree.Element, inherited: dict[str, str]) -> dict[str, str]:
    """Fill, stroke and its width as they hold for an element, and "opacity" where it or what it is in is not opaque."""
    given = {**element.attrib, **dict(_STYLE.findall(element.get("style", "")))}
    paint = inherited | {name: given[name].strip() for name in ("fill", "stroke", "stroke-width") if name in given}
    faint = any(_number(given.get(name)) < 1 for name in ("opacity", "fill-opacity", "stop-opacity"))
    blended = given.get("mix-blend-mode", "normal") != "normal"
    return paint | ({"opacity": "0"} if faint or blended else {})


def _number(text: str | None) -> float:
    try:
        value = (text or "1").strip()
        return float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        return 1.0
