"""Pictures on a canvas, beside the pipelines' own way in PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import default_rng

from pochade.images import canvas as torch_canvas
from pochade.pipelines import super_resolution
from pochade.runtime.canvas import Canvas, Tiles, agree, resample


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return default_rng(seed).random((height, width, 3), dtype=np.float32)


def to_torch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def to_numpy(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(20, 20), (50, 50), (32, 32), (97, 97)])
def test_square_pictures_as_the_pipelines_put_and_take_them(size: tuple[int, int]) -> None:
    ours, theirs = Canvas.fit(size, (32, 32)), torch_canvas.Canvas.fit(*size, 32, 8)
    assert (ours.inner, ours.outer) == (theirs.inner, theirs.outer)
    assert ours.magnification == theirs.magnification
    image, sampled = picture(*size), picture(32, 32, 1)
    np.testing.assert_allclose(ours.put(image), to_numpy(theirs.put(to_torch(image))), atol=1e-5)
    np.testing.assert_allclose(ours.take(sampled), to_numpy(theirs.take(to_torch(sampled))), atol=1e-5)
    mask = (default_rng(2).random(size) > 0.97).astype(np.float32)
    want = theirs.put_mask(torch.from_numpy(mask > 0)[None, None])
    np.testing.assert_array_equal(ours.put_mask(mask, 1), want[0, 0].numpy())
    np.testing.assert_array_equal(ours.put_mask(mask, 8), F.max_pool2d(want, 8)[0, 0].numpy())


@pytest.mark.parametrize("size", [(10, 40), (41, 9), (1, 300), (33, 32)])
def test_any_other_picture_lies_inside_in_its_proportions(size: tuple[int, int]) -> None:
    canvas = Canvas.fit(size, (32, 48))
    assert canvas.outer == (32, 48)
    assert canvas.inner[0] == 32 or canvas.inner[1] == 48
    assert canvas.put(picture(*size)).shape == (32, 48, 3)
    assert canvas.take(picture(32, 48)).shape == (*size, 3)
    assert canvas.put_mask(np.ones(size, dtype=np.float32), 8).min() == 1


def test_back_projection_as_the_pipelines_do_it() -> None:
    large, small = picture(24, 32), picture(12, 16, 1)
    want = super_resolution.agree(to_torch(large), to_torch(small))
    np.testing.assert_allclose(agree(large, small), to_numpy(want), atol=1e-5)


def test_tiles_give_back_what_was_cut() -> None:
    values = default_rng(0).random((1, 2, 5 * 8, 7 * 8), dtype=np.float32)
    tiles = Tiles((5, 7), (4, 4))
    parts = tiles.cut(values)
    assert len(parts) == tiles.count == 6
    assert {part.shape for part in parts} == {(1, 2, 32, 32)}
    np.testing.assert_allclose(tiles.join(parts), values, atol=1e-6)
    assert Tiles((4, 4), (4, 4)).join(Tiles((4, 4), (4, 4)).cut(values[..., :32, :32])).shape == (1, 2, 32, 32)


def test_the_size_that_a_picture_has_changes_nothing() -> None:
    image = picture(5, 6)
    assert resample(image, 5, 6) is image
