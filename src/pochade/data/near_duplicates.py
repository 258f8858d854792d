"""Pictures that look alike, by a perceptual hash and a small copy of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HASHED = 32
"""Rows and columns of the picture that is hashed."""
LOW = 8
"""Frequencies in each direction that the hash is made of."""
THUMB = 16
"""Rows and columns of the copies that are compared."""
MOST_BITS = 6
"""Of 64 that may differ between two pictures that look alike."""
MOST_DIFFERENCE = 10.0
"""Mean absolute difference of the copies, of 255, up to which two pictures look alike."""
_BLOCK = 512
"""Pictures that are compared with all others at once."""


@dataclass(frozen=True)
class Fingerprint:
    """What a picture is compared by: its hash, and its copy [THUMB, THUMB, 3] uint8."""

    bits: int
    thumb: np.ndarray


def fingerprint(image: Image.Image) -> Fingerprint:
    """Of an RGB picture of any size.

    The hash has a bit for each of the 64 lowest frequencies of the brightness (DCT-II of 32 x 32 pixels), set where it
    is above their median (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", 3.2.1).
    """
    grey = np.asarray(image.convert("L").resize((HASHED, HASHED), Image.Resampling.BOX), np.float64)
    cosines = _cosines()
    low = (cosines @ grey @ cosines.T).round(6).flatten()
    bits = np.packbits(low > np.median(low[1:])).tobytes()
    return Fingerprint(int.from_bytes(bits, "big"), np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX)))


def alike(pictures: Sequence[Fingerprint]) -> list[list[int]]:
    """The places of pictures that look alike, as sets of two or more, each sorted, in the order of their first.

    Two are alike where few bits of their hashes differ and their copies hardly do; so is what they have in common.
    """
    if not pictures:
        return []
    bits = np.array([picture.bits for picture in pictures], np.uint64)
    thumbs = np.stack([picture.thumb for picture in pictures]).reshape(len(pictures), -1).astype(np.int16)
    parent = list(range(len(pictures)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for start in range(0, len(bits), _BLOCK):
        rows = bits[start : start + _BLOCK]
        near = np.bitwise_count(rows[:, None] ^ bits[None, start:]) <= MOST_BITS
        for row, other in np.argwhere(np.triu(near, 1)).tolist():
            a, b = root(start + row), root(start + other)
            if a != b and np.abs(thumbs[start + row] - thumbs[start + other]).mean() <= MOST_DIFFERENCE:
                parent[max(a, b)] = min(a, b)
    sets: dict[int, list[int]] = {}
    for place in range(len(pictures)):
        sets.setdefault(root(place), []).append(place)
    return [members for members in sets.values() if len(members) > 1]


def _cosines() -> np.ndarray:
    """[LOW, HASHED]: the first rows of the DCT-II."""
    n = np.arange(HASHED)
    return np.cos(np.pi * np.arange(LOW)[:, None] * (2 * n + 1) / (2 * HASHED))
