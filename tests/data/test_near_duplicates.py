import numpy as np
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from pochade.data.near_duplicates import HASHED, LOW, Fingerprint, alike, fingerprint


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
