import numpy as np
import pytest
from PIL import Image

from pochade.data.sources.pairs.degradation import draw_mask, reduced
from pochade.errors import PochadeError
from pochade.images.decode import to_tensor


def test_masks_are_of_three_kinds_and_black_and_white():
    fractions, halves = [], 0
    for seed in range(60):
        mask = np.asarray(draw_mask(32, np.random.default_rng(seed)))
        assert mask.shape == (32, 32)
        assert set(np.unique(mask)) == {0, 255}
        fractions.append((mask == 255).mean())
        halves += any(np.array_equal(mask == 255, half) for half in _halves(32))
    assert 10 <= halves <= 32
    assert min(fractions) > 0.02
    assert max(fractions) < 0.9
    again = draw_mask(32, np.random.default_rng(5))
    assert again.tobytes() == draw_mask(32, np.random.default_rng(5)).tobytes()


def _halves(size: int) -> list[np.ndarray]:
    first = np.arange(size) < size // 2
    rows, columns = np.broadcast_to(first[:, None], (size, size)), np.broadcast_to(first, (size, size))
    return [rows, ~rows, columns, ~columns]


@pytest.mark.parametrize("factor", [2, 4])
def test_pixels_of_the_reduced_picture_are_means(factor: int):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    pixels = np.asarray(image, np.float64).reshape(16 // factor, factor, 16 // factor, factor, 3).mean((1, 3))
    small = Image.fromarray((pixels + 0.5).astype(np.uint8))
    expected = small.resize((16, 16), Image.Resampling.BICUBIC)
    assert abs(np.asarray(reduced(image, factor), int) - np.asarray(expected, int)).max() <= 2


def test_a_plain_picture_has_no_detail_to_lose():
    image = Image.new("RGB", (17, 17), (10, 200, 30))
    assert reduced(image, 4).tobytes() == image.tobytes()
    assert abs(to_tensor(reduced(image, 2, quality=90)) - to_tensor(image)).max() < 0.05


def test_jpeg_leaves_traces():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    assert reduced(image, 2, quality=30).tobytes() != reduced(image, 2).tobytes()


@pytest.mark.parametrize("factor", [1, 9])
def test_the_factor_is_checked(factor: int):
    with pytest.raises(PochadeError, match=rf"factor: {factor} given, allowed are 2 to 8"):
        reduced(Image.new("RGB", (8, 8)), factor)
