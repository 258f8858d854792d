# torch.library has no types.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
"""Linear layers, by whichever product of matrices is the faster one on this processor."""

import os
import platform
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.operator import differentiable, is_transformed, operator

FEWEST_ROWS = 32
"""Products of fewer rows are bound by the reading of the weights and by calls: oneDNN's take longer."""

FEWEST_SUMMED = 128
"""For the gradient of the weights oneDNN copies the inputs into another order, which takes longer than what it saves on
fewer rows."""

ZEN_5 = 26
"""The family of AMD's processors from which on vectors of 512 bits are computed at once. Those of Zen 4 (family 25) are
computed in two halves: both products take as long there, and oneDNN's calls longer."""

_FIRST_LINES = 2048
"""Bytes of a description of all cores in which the first one is named."""


def _family() -> int:
    """The family of AMD's processor on Linux or Windows; 0 of other makers, on Macs, and where it is not known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no file of the user's
            said = file.read(_FIRST_LINES)
    except OSError:
        said = f"{platform.processor()} {os.environ.get('PROCESSOR_IDENTIFIER', '')}"
    return amd_family(said)


def amd_family(said: str) -> int:
    """The family in what a system says of its processor, 0 where it is not AMD's or none is named."""
    found = re.search(r"family\s*:?\s*(\d+)", said, re.IGNORECASE) if "AuthenticAMD" in said else None
    return 0 if found is None else int(found[1])


AMD_VECTORS = (
    torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512" and _family() >= ZEN_5
)
"""Whether this is a processor of AMD that computes vectors of 512 bits at once, and torch has oneDNN."""


class Linear(nn.Linear):
    """``torch.nn.Linear`` through ``linear``; parameters, their names and first values are the same."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as ``torch.nn.functional.linear``.

    torch multiplies float32 matrices by MKL, which uses vectors of 512 bits on processors of Intel alone. oneDNN, which
    torch has beside it for convolutions, uses them on AMD's too, and is 1.6 to 2.3 times as fast there from Zen 5 on.
    Exported graphs, other types, devices and kinds of tensors, forward derivatives and the functions of ``torch.func``
    have torch's own product, and so has ``torch.backends.mkldnn.flags(enabled=False)``.

    Args:
        x: [..., K].
        weight: [D, K].
        bias: [D].

    Returns:
        [..., D]; equal to torch's within rounding.
    """
    if not _is_faster_by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (x, weight, bias))
    ):
        return linear_product(x, weight, bias)
    return onednn_linear(x, weight, bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear`` by oneDNN, for float32 tensors of the CPU and without a graph."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@operator
def linear_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``onednn_linear`` with its gradients, which are such products again, and one node of compiled graphs."""
    return onednn_linear(x, weight, bias)


@torch.library.register_fake("pochade::linear_product")
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    del bias
    return x.new_empty(*x.shape[:-1], len(weight))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    rows = grad.flatten(0, -2)
    return (
        linear_product(grad, weight.t(), None) if ctx.needs_input_grad[0] else None,
        transposed_product(rows, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None,
        rows.sum(0) if ctx.needs_input_grad[2] else None,
    )


differentiable(linear_product, F.linear, _keep, _differentiate)


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b for a [N, D] and b [N, K] -> [D, K].

    By oneDNN where it is faster, as it is if the result has more columns than rows.
    """
    if len(a) < FEWEST_SUMMED or min(a.shape[1], b.shape[1]) < FEWEST_ROWS:
        return a.t() @ b
    if a.shape[1] > b.shape[1]:
        return linear_product(b.t(), a.t(), None).t().contiguous()
    return linear_product(a.t(), b.t(), None)


def _is_faster_by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        AMD_VECTORS
        and not torch.compiler.is_exporting()
        and (torch.compiler.is_compiling() or not is_transformed())
        and type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.dim() > 1
        and x.numel() >= FEWEST_ROWS * weight.shape[1]
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )
