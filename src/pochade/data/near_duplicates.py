"""Pictures that look alike, by a perceptual hash and a small copy of each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

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
"""Pairs of copies that are compared at once."""
_SORTED = 1 << 20
"""Hashes, about, that are sorted at once."""
_READ = 1 << 20
"""Hashes that are looked at in one go."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_SORT, _PAIR = 80.0, 20.0
"""Nanoseconds, about, to sort a hash among others and to compare two: by them alone is chosen how hashes are cut."""


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
    thumbs = np.stack([picture.thumb for picture in pictures])
    first = first_alike(np.array([picture.bits for picture in pictures], np.uint64), thumbs.__getitem__)
    sets: dict[int, list[int]] = {}
    for place, start in enumerate(first.tolist()):
        sets.setdefault(start, []).append(place)
    return [members for members in sets.values() if len(members) > 1]


def first_alike(
    bits: np.ndarray,
    thumbs: Callable[[np.ndarray], np.ndarray],
    empty: Callable[[int, type], np.ndarray] = np.empty,
) -> np.ndarray:
    """The first picture [n] int64 of the set that each is of, as in `alike`; where it is like no other, itself.

    Hashes of 64 bits are cut into more bands than there are bits that may differ: of two that look alike all bands but
    ``MOST_BITS`` are equal. So for each choice of the others only pictures that are equal in them are compared. The
    larger n, the more bands: fewer pairs share a longer key, and there are more keys to sort by. Of pictures with the
    same hash each is compared with the first. Many hashes are sorted in several groups by a function of the key, one
    after the other, so that beside ``bits`` and two arrays of ``empty`` memory does not grow with n.

    Args:
        bits: [n] uint64, the hashes.
        thumbs: the copies [k, THUMB, THUMB, 3] of pictures [k] int64.
        empty: an array [n] of that type, the values of which do not matter.
    """
    count = len(bits)
    parent, unique = empty(count, np.int64), empty(count, np.bool_)
    for part in _slices(count):
        parent[part] = np.arange(part.start, part.stop)
        unique[part] = True

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = int(parent[place])
        return place

    def join(one: np.ndarray, other: np.ndarray) -> None:
        apart = parent[one] != parent[other]
        one, other = one[apart], other[apart]
        for start in range(0, len(one), _BLOCK):
            pair = one[start : start + _BLOCK], other[start : start + _BLOCK]
            copies = [thumbs(places).reshape(len(places), -1).astype(np.int16) for places in pair]
            same = np.abs(copies[0] - copies[1]).mean(1) <= MOST_DIFFERENCE
            for a, b in zip(pair[0][same].tolist(), pair[1][same].tolist(), strict=True):
                first, second = sorted((root(a), root(b)))
                parent[second] = first

    for places in _groups(bits, unique, ~np.uint64(0)):
        one, other = _repeated(bits[places])
        join(places[one], places[other])
    for part in _slices(count):
        unique[part] = parent[part] == np.arange(part.start, part.stop)
    for mask in _masks(int(np.count_nonzero(unique))):
        for places in _groups(bits, unique, mask):
            words = bits[places]
            key = words & mask
            order = np.argsort(key)
            key, word, step = key[order], words[order], 1
            at = np.flatnonzero(key[1:] == key[:-1])
            while len(at):  # pairs at that distance among the sorted
                near = at[np.bitwise_count(word[at] ^ word[at + step]) <= MOST_BITS]
                join(places[order[near]], places[order[near + step]])
                step += 1
                at = at[at + step < len(key)]
                at = at[key[at] == key[at + step]]
    for part in _slices(count):
        while not np.array_equal(parent[part], roots := parent[parent[part]]):
            parent[part] = roots
    return parent


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, _READ):
        yield slice(start, min(start + _READ, count))


def _groups(bits: np.ndarray, chosen: np.ndarray, mask: np.uint64) -> Iterator[np.ndarray]:
    """The places of chosen hashes, sorted, in groups of about ``_SORTED``: those equal under a mask are in the same."""
    count = -(-len(bits) // _SORTED)
    for number in range(count):
        found = [np.empty(0, np.int64)]
        for part in _slices(len(bits)):
            mine = np.asarray(chosen[part])
            if count > 1:
                mine = mine & (((bits[part] & mask) * _ODD >> _HALF) * np.uint64(count) >> _HALF == number)
            found.append(part.start + np.flatnonzero(mine))
        yield np.concatenate(found)


def _repeated(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of hashes that come again, behind the first place of each."""
    order = np.argsort(bits, kind="stable")
    again = bits[order[1:]] == bits[order[:-1]]
    begins = np.flatnonzero(np.concatenate([[len(bits) > 0], ~again]))
    others = 1 + np.flatnonzero(again)
    return order[begins[np.searchsorted(begins, others) - 1]], order[others]


def _masks(count: int) -> list[np.uint64]:
    """The bits in which two of so many hashes must agree, one or the other of these sets, to be compared."""

    def nanoseconds(bands: int) -> float:
        return comb(bands, MOST_BITS) * (_SORT + _PAIR * count / 2 ** (1 + 64 * (bands - MOST_BITS) / bands))

    bands = min(range(MOST_BITS + 1, 2 * MOST_BITS + 1), key=nanoseconds)
    ends = [64 * band // bands for band in range(bands + 1)]
    parts = [(1 << end) - (1 << begin) for begin, end in pairwise(ends)]
    return [np.uint64(sum(chosen)) for chosen in combinations(parts, bands - MOST_BITS)]


def _cosines() -> np.ndarray:
    """[LOW, HASHED]: the first rows of the DCT-II."""
    n = np.arange(HASHED)
    return np.cos(np.pi * np.arange(LOW)[:, None] * (2 * n + 1) / (2 * HASHED))
