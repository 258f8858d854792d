"""Latents from calls that know arrays alone, as a host of exported graphs makes them."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

PROMPT = "a red apple on a wooden table beside a blue cup, in the light of an early morning " * 8
"""Longer than any text encoder reads, so that every form of it has as many tokens to read."""

Arrays = Mapping[str, Any]


def seeded(name: str, shape: tuple[int, ...], kind: str, seed: int = 0) -> np.ndarray:
    """Values of an input of a graph: ``kind`` is its type, "float32", "int64" or "bool".

    Standard normal floats, but ``t`` is 0.5 and a ``state`` zero; integers are 1, booleans True.
    """
    if kind == "bool":
        return np.ones(shape, dtype=bool)
    if kind == "int64":
        return np.ones(shape, dtype=np.int64)
    if name == "t":
        return np.full(shape, 0.5, dtype=np.float32)
    if name == "state":
        return np.zeros(shape, dtype=np.float32)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def sample(denoise: Callable[[Arrays], tuple[Any, Any]], given: Arrays, steps: int) -> Any:
    """Latents by Euler's method from t = 1 to 0 on the straight path, dz/dt = velocity, without guidance.

    ``given`` holds ``latents``, ``t`` and what else the denoiser takes; ``denoise`` gives the velocity and the state
    of the next step, None where there is none.
    """
    z, inputs = given["latents"], dict(given)
    for t, following in pairwise(np.linspace(1, 0, steps + 1, dtype=np.float32).tolist()):
        inputs["latents"], inputs["t"] = z, given["t"] * 0 + t
        velocity, state = denoise(inputs)
        if state is not None:
            inputs["state"] = state
        z = z + (following - t) * velocity
    return z
