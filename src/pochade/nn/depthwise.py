# torch.library has no types.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
"""The depthwise 3 x 3 convolution of tokens as an operator of torch for CUDA, where torch's own is slow.

cuDNN has no fast kernel for one channel a group in channels-last order (``wgrad2d_grouped_direct_kernel`` takes many
times what it takes to read the numbers, pytorch issue 34977), and first copies what is a part of a wider tensor.
Where Triton is installed, kernels of ours take its place (``depthwise_kernels``); elsewhere it is torch's own.
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.nn.operator import differentiable, operator


def as_grid(x: Tensor, height: int, width: int) -> Tensor:
    """[B, H W, D] -> [B, D, H, W], a view that is a channels-last picture."""
    return torch.unflatten(x, 1, (height, width)).permute(0, 3, 1, 2)


def as_tokens(grid: Tensor) -> Tensor:
    """[B, D, H, W] -> [B, H W, D]."""
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


@functools.cache
def _kernels() -> ModuleType | None:
    try:
        return importlib.import_module("pochade.nn.depthwise_kernels")
    except ImportError:
        return None


@operator
def depthwise(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """The convolution, in the type of x whatever that of the weights; sums in float32 at least.

    Args:
        x: [B, H W, D]; its rows may be farther apart than D.
        weight: [D, 1, 3, 3].
        bias: [D].
        height: H.
        width: W.

    Returns:
        [B, H W, D].
    """
    kernels = _kernels() if x.is_cuda else None
    if kernels is not None:
        return kernels.forward(x, weight, bias, height, width)
    return _compose(x, weight, bias, height, width)


def _compose(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    grid = as_grid(x, height, width)
    found = F.conv2d(grid, weight.to(x.dtype), bias.to(x.dtype), padding=1, groups=len(weight))
    return as_tokens(found).contiguous()


@operator
def depthwise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels() if x.is_cuda else None
    if kernels is not None:
        return kernels.backward(grad, x, weight, height, width)
    return _compose_backward(grad, x, weight, height, width)


def _compose_backward(
    grad: Tensor, x: Tensor, weight: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    groups = len(weight)
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        as_grid(grad, height, width), as_grid(x, height, width), weight.to(x.dtype), [groups],
        [1, 1], [1, 1], [1, 1], False, [0, 0], groups, [True, True, True]
    )  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    return as_tokens(grad_x).contiguous(), grad_weight.to(wide).contiguous(), grad_bias.to(wide)


@torch.library.register_fake("pochade::depthwise")
def _(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("pochade::depthwise_backward")
def _(grad: Tensor, x: Tensor, weight: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape), weight.new_empty(weight.shape, dtype=wide), weight.new_empty(len(weight), dtype=wide)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.height, ctx.width = inputs
    ctx.bias_type = bias.dtype
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    if not any(ctx.needs_input_grad[1:3]):  # the adjoint is the same convolution, its weights turned about
        no_bias = weight.new_zeros(len(weight))
        return depthwise(grad, weight.flip(2, 3), no_bias, ctx.height, ctx.width), None, None, None, None
    backward = _compose_backward if torch.is_grad_enabled() else depthwise_backward
    grad_x, grad_weight, grad_bias = backward(grad, x, weight, ctx.height, ctx.width)
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(ctx.bias_type), None, None


differentiable(depthwise, _compose, _keep, _differentiate)
