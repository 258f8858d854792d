from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pochade.data.scores import SIDE, colourfulness, contrast, keep_best, score
from pochade.data.sources import open_source
from pochade.errors import PochadeError


def plain(*colour: int) -> np.ndarray:
    return np.full((8, 8, 3), colour, dtype=np.uint8)


def test_a_grey_picture_has_no_colour_and_a_plain_one_no_contrast():
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None] * 30, (8, 8, 3))
    assert colourfulness(ramp) == 0
    assert contrast(ramp) > 0
    assert contrast(plain(10, 200, 30)) == pytest.approx(0, abs=1e-9)
    assert score(Image.fromarray(plain(128, 128, 128))) == pytest.approx(0, abs=1e-9)


def test_the_formulas():
    halves = np.concatenate((plain(255, 0, 0), plain(0, 0, 255)))
    one, other = np.array([255.0, 0.0]), np.array([127.5, -255.0])
    expected = np.hypot(one.std(), other.std()) + 0.3 * np.hypot(one.mean(), other.mean())
    assert colourfulness(halves) == pytest.approx(expected)
    black_and_white = np.concatenate((plain(0, 0, 0), plain(255, 255, 255)))
    assert contrast(black_and_white) == pytest.approx(127.5)
    assert score(Image.fromarray(halves)) > score(Image.fromarray(black_and_white)) > 0.99


def folder(path: Path) -> Path:
    for i in range(10):
        image = Image.new("RGB", (64, 64), "grey")
        image.paste((25 * i, 0, 0), (0, 0, 32, 64))
        image.save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"red {i}")
    return path


def test_the_best_of_a_folder(tmp_path: Path):
    whole = open_source(folder(tmp_path), "all")
    data = keep_best(whole, 0.3)
    scores = [score(whole.image(i, SIDE)) for i in range(10)]
    best = sorted(sorted(range(10), key=lambda i: -scores[i])[:3])
    assert [data.item(i) for i in range(len(data))] == [whole.item(i) for i in best]
    assert keep_best(whole, 1) is whole


def test_the_best_of_classes_keep_them():
    data = keep_best(open_source("synthetic:20:classes=3", "all"), 0.5)
    assert (len(data), len(data.classes)) == (10, 3)


def test_wrong_shares():
    for fraction in (0.0, 1.5, -1.0):
        with pytest.raises(PochadeError, match="best: "):
            keep_best(open_source("synthetic:4", "all"), fraction)
