"""Whether values are of the types that annotations name, and in the ranges that a table gives.

One check for the settings of stages, for the arguments of networks, whose annotations say what text is read as, and
for the manifests of bundles.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from .arguments import MAX_COUNT, is_number, is_whole, shown
from .errors import PochadeError

Range = tuple[Callable[[float], bool], str]
"""Whether a finite number is allowed, and what is, in words."""
Ranges = Mapping[str, Range]
"""By the name of a field or an argument; in a list it holds for each number."""

MAX_WIDTH = 2**16
"""Of a network, its latents or its layers: what is above is a slip, and no memory holds it."""

PROBABILITY: Range = (lambda value: 0 <= value <= 1, "in [0, 1]")
WEIGHT: Range = (lambda value: 0 <= value < math.inf, "at least 0")
COUNT: Range = (lambda value: value >= 1, "at least 1, and whole")
NATURAL: Range = (lambda value: value >= 0, "at least 0, and whole")
SHARE: Range = (lambda value: 0 <= value < 1, "in [0, 1)")
FACTOR: Range = (lambda value: 0 < value < math.inf, "above 0")


def whole(least: int, most: int) -> Range:
    """Whole numbers from ``least`` to ``most``."""
    return (lambda value: least <= value <= most), f"a whole number from {least} to {most}"


WIDTH = whole(1, MAX_WIDTH)
NO_WIDTH = whole(0, MAX_WIDTH)
"""A width, or 0 for none."""
LAYERS = whole(1, MAX_COUNT)


def check_values(values: Mapping[str, Any], kinds: Mapping[str, Any], ranges: Ranges) -> None:
    """Raises PochadeError for a value of another type than its annotation in ``kinds``, or out of its range."""
    for name, value in values.items():
        inside, allowed = ranges.get(name, (_any_number, None))
        if not fits(value, kinds[name], inside):
            kind = kinds[name]
            words = described(kind) if allowed is None else f"a list, each {allowed}" if _is_list(kind) else allowed
            raise PochadeError(f"{name}: {shown(value)} given, must be {words}")


def fits(value: Any, kind: Any, inside: Callable[[float], bool] | None = None) -> bool:
    """Whether a value is of the type ``kind``, and the numbers in it are finite and ``inside``."""
    origin, arguments = get_origin(kind), get_args(kind)
    inside = inside or _any_number
    if origin in (Union, UnionType):
        return any(fits(value, one, inside) for one in arguments)
    if origin is Literal:
        same = (one for one in arguments if isinstance(value, bool) == isinstance(one, bool))
        return any(isinstance(value, type(one)) and value == one for one in same)
    if origin in (tuple, list, Sequence):
        if not isinstance(value, tuple | list):
            return False
        some: Sequence[Any] = value  # pyright: ignore[reportUnknownVariableType]
        each = arguments if origin is tuple and arguments[-1] is not Ellipsis else arguments[:1] * len(some)
        return len(some) == len(each) and all(fits(one, of, inside) for one, of in zip(some, each, strict=True))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            return False
        table: Mapping[Any, Any] = value
        return all(fits(k, arguments[0]) and fits(v, arguments[1], inside) for k, v in table.items())
    if kind is int:
        return is_whole(value) and inside(value)
    if kind is float:
        return is_number(value) and inside(value)
    if kind is Any or isinstance(kind, TypeVar):
        return True
    return value is None if kind in (None, type(None)) else isinstance(value, origin or kind)


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}


def described(kind: Any) -> str:
    """What a value of a type is, in words. Those of a class of ours are its ``described``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(described(one) for one in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return ", ".join(described(one) for one in arguments)
    if origin in (tuple, list, Sequence):
        return f"a list, each {described(arguments[0])}"
    if origin is Mapping:
        return f"a table, each {described(arguments[1])}"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind) or getattr(kind, "described", f"a {name}")


def _is_list(kind: Any) -> bool:
    """Whether it is that of a list of any length."""
    origin, arguments = get_origin(kind), get_args(kind)
    return origin in (list, Sequence) or (origin is tuple and arguments[-1] is Ellipsis)


def _any_number(_value: float) -> bool:
    return True
