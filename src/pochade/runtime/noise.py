"""The noise of a seed as PyTorch draws it on a CPU, to the last bit but one of float32."""

import math
from collections.abc import Sequence

import numpy as np

_WORDS = 624
_AT_ONCE = 16


class Noise:
    """Standard normal numbers from a seed: MT19937 (Matsumoto and Nishimura, 1998), 24 bits a number, and the
    transform of Box and Muller (1958), 16 numbers at a time.

    PyTorch rounds logarithm and sine in its own way on each processor; these are rounded once, from float64. The
    largest difference is 2e-6.

    Args:
        seed: in [0, 2^63); its lower 32 bits count, as in PyTorch.
    """

    def __init__(self, seed: int) -> None:
        word, key = seed & 0xFFFFFFFF, np.empty(_WORDS, dtype=np.uint32)
        for i in range(_WORDS):
            key[i] = word
            word = (1812433253 * (word ^ (word >> 30)) + i + 1) & 0xFFFFFFFF
        self._twister = np.random.MT19937()
        self._twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": _WORDS}}

    def normal(self, shape: Sequence[int]) -> np.ndarray:
        """The next numbers, float32 of that shape, which has at least 16."""
        count = math.prod(shape)
        whole = count - count % _AT_ONCE
        uniform = self._uniform(count)
        values = np.empty(count)
        values[:whole] = _box_muller(uniform[:whole])
        if whole < count:
            values[-_AT_ONCE:] = _box_muller(self._uniform(_AT_ONCE))
        return values.astype(np.float32).reshape(shape)

    def _uniform(self, count: int) -> np.ndarray:
        """In [0, 1), float64."""
        return (self._twister.random_raw(count) & 0xFFFFFF) / float(1 << 24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    pairs = uniform.reshape(-1, 2, _AT_ONCE // 2)
    radius, angle = np.sqrt(-2 * np.log(1 - pairs[:, 0])), 2 * np.pi * pairs[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)
