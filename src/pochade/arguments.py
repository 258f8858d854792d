"""Checks of arguments that pipelines and the host of a bundle share; they know numbers alone."""

import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from .errors import PochadeError

MAX_SEED = 2**63
MAX_COUNT = 10_000
"""Of sampling steps, iterations, pictures and pixels in one direction: what is above is a slip, and would never end."""
MAX_THREADS = 256
"""Of one model: each of its graphs starts as many, and thousands never come to an end."""
MAX_GUIDANCE = 1_000
"""Of a scale of guidance: what is above is a slip, and beyond it latents leave the range of float32."""
MAX_SHOWN = 200
"""Characters of a value in an error."""
FACTORS = (2, 4)
"""How many times larger super-resolution makes a picture."""
EVERYWHERE = (0.0, 1.0)
"""The interval of guidance that has all times."""
MIDDLE = (0.4, 0.8)
"""The times at which guidance gains, as measured (``benchmarks/fast_sampling.py``)."""
ALPHA = "alpha"
"""What stands for the transparent part of a picture as its mask."""


def is_given(value: object) -> bool:
    """Whether an option of a command has a value: 0 is one, which equals False."""
    return value is not None and value is not False and value != ()


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number that is finite as a float, numpy's included; True and False are none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # whole, and beyond what a float holds
        return False


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number, numpy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A number of numpy as one of Python, which JSON takes; anything else as it is."""
    if is_whole(value):
        return int(value)
    return float(value) if is_number(value) else value


def check_text(name: str, value: Any, allowed: str = "a sentence") -> None:
    """Raises PochadeError where ``value`` is no text."""
    if not isinstance(value, str):
        raise PochadeError(f"{name}: {shown(value)} given, allowed is {allowed}")


def shown(value: Any) -> str:
    """What was given, in one short line, an array too."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def path_text(name: str, value: Any, allowed: str = "a path") -> str:
    """A path as text. Raises PochadeError where ``value`` is neither text nor a path, is empty or has a NUL in it."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise PochadeError(f"{name}: {shown(value)} given, allowed is {allowed}")
    return text


def path_texts(name: str, values: Any, allowed: str = "a list of paths") -> tuple[str, ...]:
    """Paths as texts. Raises PochadeError where ``values`` is no list of paths."""
    if not isinstance(values, list | tuple):
        raise PochadeError(f"{name}: {shown(values)} given, allowed is {allowed}")
    return tuple(path_text(name, value, allowed) for value in values)


def check_pipeline(name: str, value: Any) -> None:
    """Raises PochadeError where ``value`` names a model in place of being one."""
    if isinstance(value, str | os.PathLike):
        opened = f"TextToImagePipeline.from_pretrained({os.fspath(value)!r})"
        raise PochadeError(f"{name}: {shown(value)} given, allowed is a pipeline: {opened}")


def check_count(name: str, value: Any, most: int = MAX_COUNT) -> None:
    """Raises PochadeError where ``value`` is no whole number from 1 to ``most``."""
    if not is_whole(value) or not 1 <= value <= most:
        raise PochadeError(f"{name}: {shown(value)} given, allowed is a whole number from 1 to {most}")


def check_beside(chooser: str, **given: object) -> None:
    """Raises PochadeError where an argument is given beside another one that chooses its value."""
    for name, value in given.items():
        if value is not None:
            raise PochadeError(f"{name}: {value!r} given beside {chooser}, which chooses it: allowed is one")


def check_number(name: str, value: Any) -> None:
    """Raises PochadeError where ``value`` is neither None nor a finite number."""
    if value is None:
        return
    if not is_number(value):
        raise PochadeError(f"{name}: {shown(value)} given, allowed are finite numbers")


def check_guidance(name: str, value: Any) -> None:
    """Raises PochadeError where a scale of guidance is neither None nor a number whose magnitude is at most
    ``MAX_GUIDANCE``."""
    check_number(name, value)
    if value is not None and abs(value) > MAX_GUIDANCE:
        raise PochadeError(f"{name}: {shown(value)} given, allowed are numbers from {-MAX_GUIDANCE} to {MAX_GUIDANCE}")


def check_blur(value: Any) -> None:
    """Raises PochadeError where the blur of a mask is no number of pixels from 0 to ``MAX_COUNT``."""
    check_number("mask_blur", value)
    if value is None or not 0 <= value <= MAX_COUNT:
        raise PochadeError(f"mask_blur: {shown(value)} given, allowed are pixels from 0 to {MAX_COUNT}")


def check_flag(name: str, value: Any) -> None:
    """Raises PochadeError where ``value`` is neither True nor False."""
    if not isinstance(value, bool):
        raise PochadeError(f"{name}: {shown(value)} given, allowed are True and False")


def check_guidance_interval(interval: Any) -> None:
    """Raises PochadeError where an interval of guidance is no pair LOW < HIGH in [0, 1]."""
    pair = tuple(interval) if isinstance(interval, list | tuple) else ()
    if len(pair) != 2 or not all(is_number(t) for t in pair) or not 0 <= pair[0] < pair[1] <= 1:
        raise PochadeError(f"guidance_interval: {shown(interval)} given, allowed are two times LOW < HIGH in [0, 1]")


def check_strength(strength: Any) -> None:
    """Raises PochadeError where ``strength`` does not lie in (0, 1]."""
    if not is_number(strength) or not 0 < strength <= 1:
        raise PochadeError(f"strength: {shown(strength)} given, allowed are numbers above 0, up to 1")


def check_factor(factor: Any) -> None:
    """Raises PochadeError where ``factor`` is not in ``FACTORS``."""
    if not is_whole(factor) or factor not in FACTORS:
        raise PochadeError(f"factor: {shown(factor)} given, allowed are {' and '.join(map(str, FACTORS))}")


def without_effect(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a recipe that others, which are ``given`` in place of its own, leave without effect, with the
    values of none: an error would name what was not given."""
    gone: dict[str, Any] = {}
    if given.get("guidance") == 1:
        gone["negative_prompt"] = ""
    if given.get("instruction") is False:
        gone["image_guidance"] = None
    if given.get("mask") == ALPHA:
        gone |= {"soft_mask": False, "mask_blur": 0.0, "invert_mask": False}
    return {name: none for name, none in gone.items() if name not in given and recipe.get(name, none) != none}


def check_seed(seed: int, pictures: int = 1) -> None:
    """Raises PochadeError where ``seed`` to ``seed + pictures - 1`` do not lie in [0, 2^63)."""
    if not is_whole(seed) or not 0 <= seed <= MAX_SEED - pictures:
        high = "2^63" if pictures == 1 else f"2^63 - {pictures - 1} for {pictures} pictures"
        raise PochadeError(f"seed: {shown(seed)} given, allowed are whole numbers in [0, {high})")
