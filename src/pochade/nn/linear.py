"""Linear layers, by whichever product of matrices is the faster one on this processor."""

import os
import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_ROWS = 32
"""Products of fewer rows are bound by the reading of the weights and by calls: oneDNN's take longer."""

FEWEST_SUMMED = 128
"""For the gradient of the weights oneDNN copies the inputs into another order, which takes longer than what it saves on
fewer rows."""


class Linear(nn.Linear):
    """``torch.nn.Linear`` through ``linear``; parameters, their names and first values are the same."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as ``torch.nn.functional.linear``.

    torch multiplies float32 matrices by MKL, which uses vectors of 512 bits on processors of Intel alone. oneDNN, which
    torch has beside it for convolutions, uses them on AMD's too, and is 1.6 to 2.3 times as fast there. Compiled and
    exported graphs, other types, devices and kinds of tensors have torch's own product, and so has
    ``torch.backends.mkldnn.flags(enabled=False)``.

    Args:
        x: [..., K].
        weight: [D, K].
        bias: [D].

    Returns:
        [..., D]; equal to torch's within rounding.
    """
    if not _is_faster_by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (x, weight, bias)):
        return OneDNNLinear.apply(x, weight, bias)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return onednn_linear(x, weight, bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear`` by oneDNN, for float32 tensors of the CPU and without a graph."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class OneDNNLinear(torch.autograd.Function):
    """Its gradients are such products again, and so differentiable likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        return (
            linear(grad, weight.t()) if ctx.needs_input_grad[0] else None,
            transposed_product(rows, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None,
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for a [N, D] and b [N, K] -> [D, K].

    By oneDNN from ``FEWEST_SUMMED`` rows on, where it is faster if the result has more columns than rows.
    """
    if len(a) < FEWEST_SUMMED:
        return a.t() @ b
    if a.shape[1] > b.shape[1]:
        return linear(b.t(), a.t()).t().contiguous()
    return linear(a.t(), b.t())


def _is_faster_by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and has_amd_vectors()
        and type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.dim() > 1
        and x.numel() >= FEWEST_ROWS * weight.shape[1]
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def has_amd_vectors() -> bool:
    """Whether this is a processor of AMD with vectors of 512 bits, and torch has oneDNN."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _vendor()
    )


def _vendor() -> str:
    """What says of whom the processor is, on Linux, Windows and Macs."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no file of the user's
            return next((line for line in file if line.startswith("vendor_id")), "")
    except OSError:
        return f"{platform.processor()} {os.environ.get('PROCESSOR_IDENTIFIER', '')}"
