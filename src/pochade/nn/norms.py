"""Norms that keep the type of what they are given, and the type of a residual stream.

Autocast on GPUs hands the result of a norm back in float32. Two thirds of the memory that such a network moves are
then copies between two types, and every token travels at twice its size. The functions here sum in float32 as well,
inside the kernel, and read and write the type of their input.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))
"""Found here and not when a norm runs: compilers of some versions cannot look into the question."""


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    return x.device.type in _AUTOCAST and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it products on the device of x take their factors as they are."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()


def as_stream(x: Tensor) -> Tensor:
    """x in the type that autocast computes products in on its device, and x itself without autocast.

    For what is added to from block to block: one tensor of a wider type makes every sum that follows wide.
    """
    return x.to(torch.get_autocast_dtype(x.device.type)) if autocasts(x) else x


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Layer norm over the last axis (1607.06450 eq. 3) in the type of x; sums in float32 at least."""
    weight, bias = _like(weight, x), _like(bias, x)
    if not autocasts(x):
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Root-mean-square norm over the last axis (1910.07467 eq. 4) in the type of x; sums in float32 at least."""
    weight = _like(weight, x)
    if not autocasts(x):
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, x.shape[-1:], weight, eps)


class LayerNorm(nn.LayerNorm):
    """``layer_norm`` over the last axis, of D numbers, with a learned scale and shift."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """``rms_norm`` over the last axis, of D numbers, with a learned scale."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps or 0.0)


def _like(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(x.dtype)
