"""The families of denoisers, by name. A new family joins by one line of ``FAMILIES``."""

from importlib import import_module
from inspect import signature
from typing import Any

from pochade.errors import PochadeError, nearest

FAMILIES: dict[str, str] = {
    "iris": "pochade.denoisers.iris:IRISDenoiser",
    "lira": "pochade.denoisers.lira:LiRADenoiser",
    "lrf": "pochade.denoisers.lrf:LRFDenoiser",
    "microforge": "pochade.denoisers.microforge:MicroForgeDenoiser",
}
"""Family -> "module:class". The module holds ``VARIANTS``, a table of sizes."""


def _module(family: str) -> tuple[Any, str]:
    if family not in FAMILIES:
        raise PochadeError(f"family: {family!r} given, allowed are {sorted(FAMILIES)}{nearest(family, FAMILIES)}")
    module, _, name = FAMILIES[family].partition(":")
    return import_module(module), name


def variants(family: str) -> dict[str, dict[str, Any]]:
    """The sizes of a family: name -> arguments of its class."""
    return dict(_module(family)[0].VARIANTS)


def build(family: str, variant: str, **overrides: Any) -> Any:
    """A denoiser of a family and size with random weights; ``overrides`` replace arguments of its class.

    Raises:
        PochadeError: the family, the variant or an argument does not exist, or an argument is of another type or out of
            range.
    """
    module, name = _module(family)
    if variant not in module.VARIANTS:
        known = list(module.VARIANTS)
        raise PochadeError(f"variant: {variant!r} given, allowed for {family} are {known}{nearest(variant, known)}")
    known = parameters(family)
    for argument in overrides:
        if argument not in known:
            near = nearest(argument, known)
            raise PochadeError(f"options: {argument!r} given, allowed for {family} are {', '.join(known)}{near}")
    return getattr(module, name)(**{**module.VARIANTS[variant], **overrides})


def has(denoiser: object, method: str) -> bool:
    """Whether a denoiser, or a class of them, has an optional method such as ``with_control``."""
    return hasattr(denoiser, method)


def families_with(method: str) -> list[str]:
    """The families whose networks have an optional method, such as ``with_control``, which adds an input."""
    return [family for family in FAMILIES if has(getattr(*_module(family)), method)]


def parameters(family: str) -> list[str]:
    """The names of the arguments of a family's class."""
    module, name = _module(family)
    return [p for p in signature(getattr(module, name).__init__).parameters if p != "self"]
