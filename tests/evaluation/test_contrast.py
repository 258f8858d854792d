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
