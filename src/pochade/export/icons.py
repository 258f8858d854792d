"""The icon of a page, drawn here: a small landscape on a board, as one sketches it outdoors."""

from pathlib import Path

from PIL import Image, ImageDraw

SIZES = {"icon-180.png": 180, "icon-192.png": 192, "icon-512.png": 512}
MASKABLE = "icon-maskable-512.png"
"""Fills its square, and keeps the picture in the middle, so that a launcher may cut it into its own form."""
_GROUND, _SKY, _SUN, _HILL, _FIELD = "#a2431f", "#f7ead2", "#e9a13b", "#5e7f74", "#c9743f"
_DETAIL = 2048


def write_icons(folder: Path) -> None:
    """Writes the icons of ``SIZES`` and ``MASKABLE``."""
    rounded = Image.new("L", (_DETAIL, _DETAIL))
    ImageDraw.Draw(rounded).rounded_rectangle((0, 0, _DETAIL - 1, _DETAIL - 1), _DETAIL * 0.22, fill=255)
    whole = _drawing(0.13)
    whole.putalpha(rounded)
    for name, size in SIZES.items():
        whole.resize((size, size), Image.Resampling.LANCZOS).save(folder / name, optimize=True)
    _drawing(0.22).resize((512, 512), Image.Resampling.LANCZOS).save(folder / MASKABLE, optimize=True)


def _drawing(margin: float) -> Image.Image:
    """A square with a board that leaves ``margin`` of its side free all around."""
    image = Image.new("RGB", (_DETAIL, _DETAIL), _GROUND)
    board = Image.new("RGB", (_DETAIL, _DETAIL), _SKY)
    draw, side = ImageDraw.Draw(board), float(_DETAIL)
    draw.ellipse((0.56 * side, 0.17 * side, 0.82 * side, 0.43 * side), fill=_SUN)
    draw.polygon(
        _points(side, (0, 0.62), (0.3, 0.36), (0.52, 0.56), (0.74, 0.42), (1, 0.6), (1, 1), (0, 1)), fill=_HILL
    )
    draw.polygon(_points(side, (0, 0.78), (0.45, 0.64), (1, 0.8), (1, 1), (0, 1)), fill=_FIELD)
    inner = round(_DETAIL * (1 - 2 * margin))
    mask = Image.new("L", (inner, inner))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, inner - 1, inner - 1), inner * 0.1, fill=255)
    at = (_DETAIL - inner) // 2
    image.paste(board.resize((inner, inner)), (at, at), mask)
    return image


def _points(side: float, *shares: tuple[float, float]) -> list[tuple[float, float]]:
    return [(x * side, y * side) for x, y in shares]
