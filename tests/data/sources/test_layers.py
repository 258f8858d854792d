"""Depth of drawings by the order of their layers."""

import numpy as np
import pytest

from pochade.data.shifted import PLAIN, Shifted
from pochade.data.sources import open_source
from pochade.data.sources.layers import FIRST, layered_depth

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 16 16">'


def depth(body: str, size: int = 16) -> np.ndarray:
    return np.asarray(layered_depth(f"{HEAD}{body}</svg>", size))


def level(number: int, count: int) -> int:
    return round(255 * (FIRST + (1 - FIRST) * number / count))


BACK = '<rect x="2" y="2" width="12" height="12" fill="#fff"/>'
FRONT = '<rect x="6" y="6" width="4" height="4" fill="#000"/>'


def test_what_is_painted_later_is_nearer() -> None:
    found = depth(BACK + FRONT)
    assert (found[0, 0], found[3, 3], found[7, 7]) == (0, level(1, 2), 255)
    covered = depth(FRONT + BACK)
    assert (covered[0, 0], covered[3, 3], covered[7, 7]) == (0, 255, 255)
    assert set(np.unique(found)) == {0, level(1, 2), 255}


@pytest.mark.parametrize(
    "extra",
    [
        '<path d="M0 0L16 16" fill="none" stroke="#000"/>',
        '<g fill="none" stroke="#000"><path d="M0 0L16 16"/></g>',
        '<rect width="16" height="16" style="fill:none;stroke:#000"/>',
        '<rect width="16" height="16" fill="#fff" opacity=".3"/>',
        '<g opacity="30%"><rect width="16" height="16"/></g>',
        '<rect width="16" height="16" fill-opacity="0.5"/>',
        '<defs><linearGradient id="g"><stop offset="0"/><stop offset="1" stop-opacity="0"/></linearGradient></defs>'
        '<rect width="16" height="16" fill="url(#g)"/>',
        '<clipPath id="c"><rect width="16" height="16"/></clipPath>',
    ],
)
def test_lines_and_light_are_no_layers(extra: str) -> None:
    assert np.array_equal(depth(BACK + FRONT + extra), depth(BACK + FRONT))


def test_paint_is_inherited_and_opaque_gradients_are_layers() -> None:
    plain = depth(BACK + FRONT)
    nested = f'<g style="fill: red"><rect x="2" y="2" width="12" height="12"/></g>{FRONT}'
    assert np.array_equal(depth(nested), plain)
    shaded = '<radialGradient id="g"><stop offset="0"/><stop offset="1" stop-color="red"/></radialGradient>'
    assert np.array_equal(depth(shaded + BACK.replace("#fff", "url(#g)") + FRONT), plain)
    used = '<defs><rect id="r" x="2" y="2" width="12" height="12"/></defs><use xlink:href="#r" fill="red"/>'
    assert np.array_equal(depth(used + FRONT), plain)
    stroked = depth('<rect x="4" y="4" width="8" height="8" fill="red" stroke="blue" stroke-width="4"/>')
    assert (stroked[3, 3], stroked[8, 8], stroked[0, 0]) == (255, 255, 0)


def test_lines_alone_have_no_depth() -> None:
    assert depth('<path d="M2 2L14 14" fill="none" stroke="#000"/>').max() == 0


def test_what_is_no_svg() -> None:
    with pytest.raises(ValueError, match="no element"):
        layered_depth("", 8)


def test_openmoji_and_its_copies_have_depth() -> None:
    data = open_source("openmoji", "all")
    copies = Shifted(data, 1)
    drawn = 0
    for index in range(0, len(data), 500):
        depth, image = (np.asarray(data.control(index, 32, "depth")), np.asarray(data.image(index, 32)))
        assert depth.shape == image.shape[:2]
        drawn += bool(depth.max() == 255)
        # Nothing is near where nothing is drawn.
        assert depth[(image == 255).all(-1)].mean() < 40 if depth.max() else True
        rows = len(copies) // len(data) * index
        assert np.array_equal(np.asarray(copies.control(rows, 32, "depth")), depth)
        moved = np.asarray(copies.control(rows + PLAIN, 32, "depth"))
        assert moved.shape == depth.shape
        assert moved.mean() < depth.mean() or not depth.max()
    assert drawn > len(range(0, len(data), 500)) // 2
