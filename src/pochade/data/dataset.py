"""The one protocol that every data set answers, and the rule that holds samples out."""

from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import numpy as np

SPLITS = ("train", "held_out", "all")
HELD_OUT_SHARE = 0.1


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set: sample ``index`` in [0, len), all its randomness drawn from ``rng``.

    Image samples are ``{"image": float32 [3, size, size] in [-1, 1], "caption": str, "name": str}``;
    labelled ones hold ``"class_label": int`` in place of the caption. Same index and same state of
    ``rng``: same sample, on any worker, rank or machine.
    """

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]: ...


def is_held_out(key: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether ``key`` belongs to the held-out ``share`` in [0, 1].

    It depends on the key alone, so that a picture added later moves no other one to the other side.
    """
    digest = sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32
