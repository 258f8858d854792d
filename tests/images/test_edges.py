"""Edges of pictures."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import avg_pool2d

from pochade.errors import PochadeError
from pochade.images.controls import KINDS, control_image, encode_control
from pochade.images.decode import to_tensor
from pochade.images.edges import edges, edges_of


def square(inside: str = "black", outside: str = "white") -> Image.Image:
    """A square of 16 pixels in the middle of 32."""
    image = Image.new("RGB", (32, 32), outside)
    ImageDraw.Draw(image).rectangle((8, 8, 23, 23), fill=inside)
    return image


def distance_to_outline() -> np.ndarray:
    """In pixels, in the larger of both directions, from the middle of a pixel to the border of the square."""
    rows, columns = np.mgrid[:32, :32] + 0.5
    return np.abs(np.maximum(np.abs(rows - 16), np.abs(columns - 16)) - 8)


@pytest.mark.parametrize("colours", [("black", "white"), ("yellow", "white"), ((255, 0, 0), (0, 130, 0))])
def test_edges_of_a_square_are_its_outline(colours: tuple[str, str]) -> None:
    """The last two are equally bright: only their colours differ."""
    found = edges(square(*colours))
    assert found.shape == (1, 32, 32)
    assert found.dtype == torch.float32
    assert set(found.unique().tolist()) == {0.0, 1.0}
    on = found[0].bool().numpy()
    assert distance_to_outline()[on].max() < 1
    # Each side is closed, but for a pixel at its ends.
    for side in (on[6:10, 9:23].any(0), on[22:26, 9:23].any(0), on[9:23, 6:10].any(1), on[9:23, 22:26].any(1)):
        assert side.all()
    assert torch.equal(edges(to_tensor(square(*colours))), found)


def test_no_edges_in_one_colour() -> None:
    assert edges(Image.new("RGB", (16, 24), "teal")).sum() == 0


def test_edges_as_a_picture() -> None:
    found = edges_of(square(), 32, 32)
    assert torch.equal(found, edges(square()))
    assert edges_of(square(), 64, 48).shape == (1, 48, 64)
    assert torch.equal(KINDS["edges"].read(control_image(found), "control"), found)
    with pytest.raises(PochadeError, match="control: 100% of it is white, allowed are white lines on black"):
        KINDS["edges"].read(square("white", "white"), "control")
    with pytest.raises(PochadeError, match=r"image: shape \(1, 4, 4\) given"):
        edges(torch.zeros(1, 4, 4))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(PochadeError, match=r"scikit-image is not installed: pip install 'pochade\[eval\]'"):
        edges(square())


def encode(images: torch.Tensor) -> torch.Tensor:
    """Two channels, each cell the mean of 2 x 2 pixels: of black and of white cells -1 and 1."""
    return avg_pool2d(images[:, :2], 2)


def test_lines_are_drawn_black_on_white() -> None:
    lines = torch.zeros(2, 1, 4, 6)
    lines[0, 0, :2, 4:] = 1
    found = encode_control(lines, encode)
    assert found[0].tolist() == 2 * [[[1, 1, -1], [1, 1, 1]]]
    # Without lines there is no control.
    assert found[1].eq(0).all()
