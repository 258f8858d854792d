import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from pochade.data import near_duplicates
from pochade.data.near_duplicates import (
    HASHED,
    LOW,
    MOST_BITS,
    MOST_DIFFERENCE,
    THUMB,
    Fingerprint,
    alike,
    fingerprint,
    first_alike,
)


def photograph(seed: int, side: int = 96) -> Image.Image:
    """Smooth colours with a few shapes' worth of detail."""
    rng = np.random.default_rng(seed)
    grid = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return grid.resize((side, side), Image.Resampling.BICUBIC)


def test_the_hash_is_that_of_a_library_of_transforms():
    image = photograph(3)
    grey = np.asarray(image.convert("L").resize((HASHED, HASHED), Image.Resampling.BOX), np.float64)
    low = dctn(grey, type=2)[:LOW, :LOW].flatten()
    # Rows and columns of the orthonormal transform differ by positive factors, which can move no sign; the median
    # is taken of the unnormalised one, as here.
    expected = low / 4 > np.median(low[1:] / 4)
    bits = np.unpackbits(np.frombuffer(fingerprint(image).bits.to_bytes(8, "big"), np.uint8)).astype(bool)
    assert (bits == expected).all()


def test_what_is_scaled_saved_and_brightened_is_alike_and_others_are_not(tmp_path):
    first = photograph(0)
    first.save(tmp_path / "a.jpg", quality=60)
    variants = [
        first,
        photograph(1),
        Image.open(tmp_path / "a.jpg").convert("RGB"),
        ImageEnhance.Brightness(first).enhance(1.03),
        first.resize((40, 40), Image.Resampling.LANCZOS),
        photograph(2),
    ]
    assert alike([fingerprint(image) for image in variants]) == [[0, 2, 3, 4]]


def test_other_colours_are_other_pictures():
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    assert alike([fingerprint(red), fingerprint(blue), fingerprint(red)]) == [[0, 2]]


def test_sets_are_closed_and_in_order_over_blocks():
    thumb = np.zeros((16, 16, 3), np.uint8)
    rng = np.random.default_rng(0)
    bits = [int(word) for word in rng.integers(0, 2**63, 1200)]
    bits[1100], bits[700] = bits[3] ^ 0b111111, bits[3] ^ 0b111111111111  # 6 and 12 bits away: by way of the first
    assert alike([Fingerprint(word, thumb) for word in bits]) == [[3, 700, 1100]]
    assert alike([]) == []


def first_alike_reference(bits: np.ndarray, thumbs: np.ndarray) -> list[int]:
    """All pairs compared, and what is joined followed until nothing changes."""
    near = np.bitwise_count(bits[:, None] ^ bits) <= MOST_BITS
    flat = thumbs.reshape(len(thumbs), -1).astype(np.int16)
    joined = near & (np.abs(flat[:, None] - flat).mean(2) <= MOST_DIFFERENCE)
    first = np.arange(len(bits))
    while True:
        least = np.where(joined, first, len(bits)).min(1)
        if (least == first).all():
            return first.tolist()
        first = least


@pytest.mark.parametrize(
    ("pair", "at_once", "read"), [(0.001, 300, 300), (20.0, 300, 7), (1e5, 40, 300), (1e8, 100, 64)]
)
def test_the_same_sets_are_found_however_hashes_are_cut(
    pair: float, at_once: int, read: int, monkeypatch: pytest.MonkeyPatch
):
    """Families of hashes a few random bits apart, some of another colour: up to and beyond what is alike."""
    monkeypatch.setattr(near_duplicates, "_PAIR", pair)
    monkeypatch.setattr(near_duplicates, "_SORTED", at_once)
    monkeypatch.setattr(near_duplicates, "_READ", read)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        bits = rng.integers(0, 2**64, 12, np.uint64)[rng.integers(0, 12, 300)]
        for _ in range(8):
            bits ^= np.uint64(1) << rng.integers(0, 64, len(bits)).astype(np.uint64) * (rng.random(len(bits)) < 0.5)
        thumbs = np.zeros((len(bits), THUMB, THUMB, 3), np.uint8)
        thumbs[rng.random(len(bits)) < 0.3] = 200
        found = first_alike(bits, thumbs.__getitem__)
        assert found.tolist() == first_alike_reference(bits, thumbs)
        assert 12 < len(np.unique(found)) < len(bits)


def test_memory_does_not_grow_with_the_pictures(monkeypatch: pytest.MonkeyPatch):
    """Beside the hashes and what ``empty`` gives."""
    monkeypatch.setattr(near_duplicates, "_SORTED", 1 << 14)
    monkeypatch.setattr(near_duplicates, "_READ", 1 << 13)

    def most(count: int) -> int:
        bits = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
        arrays = iter([np.zeros(count, np.int64), np.zeros(count, np.bool_)])
        tracemalloc.start()
        first_alike(bits, lambda places: np.zeros((len(places), THUMB, THUMB, 3), np.uint8), lambda *_: next(arrays))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert most(1 << 18) < 1.5 * most(1 << 15)
