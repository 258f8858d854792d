"""Flat, faded and equal pictures beside real ones."""

import pytest
import torch

from evaluation.test_copying import noise
from pochade.evaluation import contrast


def test_flat_pictures_and_equal_pictures_have_a_low_contrast() -> None:
    real = noise(12, 0)
    groups = ["a", "b", "c"] * 4
    assert not contrast.check(noise(12, 1), real, groups)["low"]
    mean = real.float().mean((2, 3), keepdim=True).expand_as(real)
    assert contrast.check(mean.to(torch.uint8), real, groups)["low"]
    same = contrast.check(real[:1].expand(12, -1, -1, -1), real, groups)  # lively, but all alike
    assert same["low"]
    assert same["generated"]["variety"] == 0
    alone = contrast.check(real[:1].expand(12, -1, -1, -1), real, [str(i) for i in range(12)])
    assert alone["low"]


def test_the_figure_of_an_even_number_of_groups_lies_between_the_middle_ones() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for level, image in zip((20, 40, 80, 200), images, strict=True):
        image[:, :4] = level
    found = contrast.check(images, images, ["a", "b", "c", "d"])
    assert found["generated"]["range"] == pytest.approx(60 / 255)
    low, high = found["intervals"]["range"]
    assert low <= found["generated"]["range"] <= high


def test_contrast_figures_of_known_pictures() -> None:
    halves = torch.zeros(2, 3, 4, 4)
    halves[:, :, :2] = 1.0
    halves[1] = 1 - halves[1]
    figures = contrast.figures(halves, ["x", "x"])["x"]
    assert figures["std"] == pytest.approx(0.5 * (48 / 47) ** 0.5)
    assert figures["range"] == 1
    assert figures["colour"] == 0
    assert figures["variety"] == pytest.approx(0.5**0.5)
    assert "variety" not in contrast.figures(halves, ["x", "y"])["x"]


def test_variety_is_that_of_torch_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "BLOCK", 5)
    for count in (2, 4, 5, 6, 11):
        images = noise(count, count)
        done: list[int] = []
        found = contrast.figures(images, ["x"] * count, done.append)["x"]
        floats = images.float() / 255
        assert found["variety"] == float(floats.std(0).mean())
        assert found["std"] == float(floats.flatten(1).std(1).mean())
        assert found["colour"] == pytest.approx(float((floats.amax(1) - floats.amin(1)).mean()))
        assert sum(done) == count
    assert contrast.figures(noise(1, 0).expand(7, -1, -1, -1), ["x"] * 7)["x"]["variety"] == 0


def test_several_pictures_of_a_caption_vary_as_the_whole_set_of_real_ones_does() -> None:
    real, made = noise(6, 0), noise(18, 1)
    captions = list("abcdef")
    check = contrast.check(made, real, captions * 3)
    assert check["groups"] == 6
    for images, name in ((made, "generated"), (real, "real")):
        assert check[name]["variety"] == pytest.approx(float((images.float() / 255).std(0).mean()), rel=1e-6)
    twice = contrast.check(made[:12], real, ["a", "a", "b", "b", "c", "c"] * 2)  # real groups of two
    assert twice["real"]["variety"] == contrast.check(real, real, ["a", "a", "b", "b", "c", "c"])["real"]["variety"]
