"""The precision of each graph of a bundle, by name; nothing here imports torch."""

from collections.abc import Mapping
from typing import Literal, cast

from pochade.errors import PochadeError, nearest

Precision = Literal["fp32", "fp16", "int8", "w8a16", "w8a8"]
GRAPHS = ("text_encoder", "denoiser", "decoder", "encoder")
PRESETS: dict[str, tuple[Precision, ...]] = {
    "fp32": ("fp32", "fp32", "fp32", "fp32"),
    "fp16": ("fp16", "fp16", "fp16", "fp16"),
    "int8": ("int8", "int8", "fp16", "fp16"),
}
"""Precisions of ``GRAPHS``. In 8 bits autoencoders are no faster, and lose more than they save."""
CALIBRATED: tuple[Precision, ...] = ("w8a16", "w8a8")
"""Those in which activations are whole numbers too, so that pictures must say how large they become: weights of 8 bits
with activations of 16, and of 8."""


def parse_precision(
    text: str, presets: Mapping[str, tuple[Precision, ...]] = PRESETS, target: str = "onnx"
) -> dict[str, Precision]:
    """The precision of each of ``GRAPHS``, from one of ``presets`` and changes of it: ``int8,decoder=int8``.

    Raises:
        PochadeError: a name is not allowed for ``target``.
    """
    preset, *changes = text.split(",")
    if preset not in presets:
        allowed, known = ", ".join(presets), f" for {target}" if preset in PRESETS else ""
        raise PochadeError(f"precision: {preset!r} given{known}, allowed are {allowed}{nearest(preset, presets)}")
    found: dict[str, Precision] = dict(zip(GRAPHS, presets[preset], strict=True))
    for change in changes:
        graph, _, name = change.partition("=")
        if graph not in GRAPHS or name not in presets:
            allowed = f"GRAPH=NAME with {', '.join(GRAPHS)} and {', '.join(presets)}"
            raise PochadeError(f"precision: {change!r} given, allowed are changes {allowed}")
        found[graph] = cast(Precision, name)
    return found
