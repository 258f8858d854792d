"""The families of denoisers, by name. A new family joins by one line of ``FAMILIES``."""

import json
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
INTERFACE = ("sample_size", "latent_channels", "text_dim", "pooled_dim")
"""Arguments that follow from the size of the pictures, the autoencoder and the text encoder."""
_NAMES = ("text_encoder", "tasks")
"""Arguments that change no network."""


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
        known = ", ".join(module.VARIANTS)
        hint = nearest(variant, module.VARIANTS)
        raise PochadeError(f"variant: {variant!r} given, allowed for {family} are {known}{hint}")
    known = parameters(family)
    for argument in overrides:
        if argument not in known:
            near = nearest(argument, known)
            raise PochadeError(f"options: {argument!r} given, allowed for {family} are {', '.join(known)}{near}")
    return getattr(module, name)(**{**module.VARIANTS[variant], **overrides})


def named(denoiser: Any) -> tuple[str, str, dict[str, Any]]:
    """The family of a denoiser, the nearest of its variants, and what is changed of the variant's arguments; what
    latents and text make of a network (``INTERFACE``) is none of it."""
    family = next(name for name, place in FAMILIES.items() if place.rpartition(":")[2] == type(denoiser).__name__)
    arguments = signature(type(denoiser).__init__).parameters
    own = {
        name: denoiser.config[name]
        for name in arguments
        if name in denoiser.config and name not in (*INTERFACE, *_NAMES)
    }
    changed = {
        variant: {
            name: value for name, value in own.items() if not _same(given.get(name, arguments[name].default), value)
        }
        for variant, given in variants(family).items()
    }
    nearest_one = min(changed, key=lambda variant: len(changed[variant]))
    return family, nearest_one, changed[nearest_one]


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, of which one may come from JSON, which has no tuples."""
    return json.dumps(one) == json.dumps(other)


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
