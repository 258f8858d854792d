"""Networks whose random initial weights are replaced at once: drawing them takes longer than reading the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWING = {"normal_", "uniform_", "kaiming_uniform_"}
"""Names, since transformers has functions of its own in the place of torch's while it builds a network."""


class Undrawn(TorchFunctionMode):
    """Within it, normal and uniform initial weights are zeros, and the random state of torch stays where it was."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") not in _DRAWING:
            return func(*args, **given)
        with torch.no_grad():
            return (args[0] if args else given["tensor"]).zero_()
