"""Seams, depths and crops of masks, and what is laid over a picture."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import default_rng

from pochade.runtime.masks import Box, crop_around, depth_inside, inside_seam, lay_over


def shown(marked: np.ndarray, width: int) -> np.ndarray:
    part, whole = inside_seam(marked, width)
    return part / whole


def test_the_seam_lies_inside_the_mask() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:16, 4:16] = True
    assert ((shown(mask, 3) > 0) == mask).all()
    np.testing.assert_allclose(shown(mask, 3)[10, 3:9], [0, 0.25, 0.5, 0.75, 1, 1])
    # Beyond the border of the picture nothing is kept, so that there is no seam; a thin stroke has none either.
    assert (shown(np.ones((5, 5), dtype=bool), 3) == 1).all()
    stroke = mask & (np.arange(20) == 9)
    assert (shown(stroke, 3) == stroke).all()


def test_depth_is_the_number_of_erosions_that_a_pixel_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((1, 9), (43, 61), (30, 7)):
        marked = F.interpolate(torch.rand(1, 1, 6, 5, generator=generator), size, mode="bilinear")[0, 0] > 0.4
        expected, rest = torch.zeros(size), marked.float()
        for _ in range(9):
            expected += rest
            rest = 1 - F.max_pool2d(1 - rest[None], 3, stride=1, padding=1)[0]
        assert (depth_inside(marked.numpy(), 9) == expected.numpy()).all()


def test_a_square_is_cropped_around_what_is_marked() -> None:
    def box(height: int, width: int, rows: slice, columns: slice, least: int) -> Box:
        marked = np.zeros((height, width), dtype=bool)
        marked[rows, columns] = True
        return crop_around(marked, least)

    assert box(1024, 1024, slice(100, 164), slice(100, 164), 64) == Box(84, 84, 96, 96)
    # At least what the model samples, moved into the picture, and cut where that is smaller.
    assert box(1024, 1024, slice(100, 110), slice(300, 310), 64) == Box(73, 273, 64, 64)
    assert box(1024, 1024, slice(0, 10), slice(1014, 1024), 64) == Box(0, 960, 64, 64)
    assert box(100, 1000, slice(40, 60), slice(100, 500), 64) == Box(0, 0, 100, 600)
    assert box(30, 40, slice(0, 30), slice(20, 40), 64) == Box(0, 0, 30, 40)
    pixels = np.arange(80).reshape(1, 8, 10)
    assert pixels[Box(1, 2, 3, 4).place].tolist()[0][0] == [12, 13, 14, 15]


def test_what_is_new_lies_over_a_picture_as_in_two_layers() -> None:
    """Beside a background the mixture looks as the two looks mixed, whatever the background is."""
    old, new, weight = default_rng(0).random((3, 4, 5)), default_rng(1).random((3, 4, 5)), default_rng(2).random((4, 5))
    np.testing.assert_allclose(lay_over(old, new, weight), (1 - weight) * old + weight * new)
    alpha = default_rng(3).random((1, 4, 5))
    weight[0], alpha[0, 1] = 0, 0
    over = lay_over(np.concatenate((old, alpha)), new, weight)
    assert (over[:3, 0] == old[:, 0]).all(), "where nothing is new, colours stay, also those that are not seen"
    for background in (0.0, 0.3, 1.0):
        looks = over[3] * over[:3] + (1 - over[3]) * background
        before = alpha[0] * old + (1 - alpha[0]) * background
        np.testing.assert_allclose(looks, (1 - weight) * before + weight * new, atol=1e-6)


def test_depths_are_the_same_in_bytes_and_in_larger_numbers():
    marked = np.random.default_rng(0).random((60, 70)) < 0.97
    small, large = depth_inside(marked, 40), depth_inside(marked, 300)
    assert (small.dtype, large.dtype) == (np.uint8, np.int16)
    assert (small == np.minimum(large, 40)).all()
