"""The precision of each graph of a bundle, by name; nothing here imports torch."""

from typing import Literal, cast

from pochade.errors import PochadeError, nearest

Precision = Literal["fp32", "fp16", "int8"]
GRAPHS = ("text_encoder", "denoiser", "decoder", "encoder")
PRESETS: dict[str, tuple[Precision, ...]] = {
    "fp32": ("fp32", "fp32", "fp32", "fp32"),
    "fp16": ("fp16", "fp16", "fp16", "fp16"),
    "int8": ("int8", "int8", "fp16", "fp16"),
}
"""Precisions of ``GRAPHS``. In 8 bits autoencoders are no faster, and lose more than they save."""


def parse_precision(text: str) -> dict[str, Precision]:
    """The precision of each of ``GRAPHS``, from one of ``PRESETS`` and changes of it: ``int8,decoder=int8``.

    Raises:
        PochadeError: a name is not allowed.
    """
    preset, *changes = text.split(",")
    if preset not in PRESETS:
        allowed = ", ".join(PRESETS)
        raise PochadeError(f"precision: {preset!r} given, allowed are {allowed}{nearest(preset, PRESETS)}")
    found: dict[str, Precision] = dict(zip(GRAPHS, PRESETS[preset], strict=True))
    for change in changes:
        graph, _, name = change.partition("=")
        if graph not in GRAPHS or name not in PRESETS:
            allowed = f"GRAPH=NAME with {', '.join(GRAPHS)} and {', '.join(PRESETS)}"
            raise PochadeError(f"precision: {change!r} given, allowed are changes {allowed}")
        found[graph] = cast(Precision, name)
    return found
