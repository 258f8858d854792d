# torch.library has no types.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
"""The scans as operators of torch: ``torch.compile`` and ``torch.export`` see one node, autograd its gradient.

Exporters that have no such node, ONNX's among them, get the composition of torch operators in its place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition  # pyright: ignore[reportUnknownVariableType]

from pochade.nn.operator import differentiable, operator
from pochade.nn.scan import composed, exported
from pochade.nn.scan.backends import form
from pochade.nn.scan.contract import Inputs, chunks, state_dtype


@operator
def linear_recurrence(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    return form(a.device).linear_forward(a, b, initial, reverse)


@operator
def linear_recurrence_backward(
    grad: Tensor, a: Tensor, h: Tensor, initial: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return form(a.device).linear_backward(grad, a, h, initial, reverse)


@operator
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return form(x.device).selective_forward(Inputs(x, dt, A, B, C, D), initial, reverse)


@operator
def selective_scan_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    checkpoints: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = Inputs(x, dt, A, B, C, D)
    return tuple(form(x.device).selective_backward(grad_y, grad_final, inputs, checkpoints, reverse))


scan_paths = operator(exported.scan_paths)


# Shapes without values, for tracing.


@torch.library.register_fake("pochade::scan_paths")
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("pochade::linear_recurrence")
def _(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    return torch.empty_like(b, dtype=torch.promote_types(a.dtype, b.dtype), memory_format=torch.contiguous_format)


@torch.library.register_fake("pochade::linear_recurrence_backward")
def _(grad: Tensor, a: Tensor, h: Tensor, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(a, h)
    return a.new_empty(a.shape, dtype=dtype), a.new_empty(a.shape, dtype=dtype), a.new_empty(a[:, 0].shape, dtype=dtype)


@torch.library.register_fake("pochade::selective_scan")
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, width = x.shape
    final = x.new_empty(batch, width, B.shape[3], dtype=state_dtype(x, dt, A, B, C, D))
    return x.new_empty(x.shape), final, final.new_empty(batch, chunks(tokens), *final.shape[1:])


@torch.library.register_fake("pochade::selective_scan_backward")
def _(
    grad_y: Tensor,
    grad_final: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    checkpoints: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = (x.shape, dt.shape, A.shape, B.shape, C.shape, x.shape[2:], grad_final.shape)
    return tuple(checkpoints.new_empty(shape) for shape in shapes)  # pyright: ignore[reportReturnType]


# Gradients.


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, initial, ctx.reverse = inputs
    ctx.types = a.dtype, b.dtype, None if initial is None else initial.dtype
    ctx.save_for_backward(a, output, initial)


def _differentiate_linear(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, h, initial = ctx.saved_tensors
    backward = composed.linear_backward if torch.is_grad_enabled() else linear_recurrence_backward
    gradients: tuple[Tensor, ...] = backward(grad, a, h, initial, ctx.reverse)
    return *(None if kind is None else g.to(kind) for g, kind in zip(gradients, ctx.types, strict=True)), None


differentiable(linear_recurrence, composed.linear_forward, _keep_linear, _differentiate_linear)


def _keep_selective(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, initial, ctx.reverse = inputs
    ctx.types = *(None if t is None else t.dtype for t in tensors), None if initial is None else initial.dtype
    ctx.save_for_backward(*tensors, initial, output[2])


def _differentiate_selective(ctx: Any, grad_y: Tensor, grad_final: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, initial, checkpoints = ctx.saved_tensors
    if torch.is_grad_enabled():
        inputs = Inputs(*tensors)
        checkpoints = composed.selective_forward(inputs, initial, ctx.reverse)[2]  # these depend on the inputs
        gradients = composed.selective_backward(grad_y, grad_final, inputs, checkpoints, ctx.reverse)
    else:
        gradients = selective_scan_backward(grad_y, grad_final, *tensors, checkpoints, ctx.reverse)
    return *(None if kind is None else g.to(kind) for g, kind in zip(gradients, ctx.types, strict=True)), None


def _compose_selective(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, initial, reverse = given
    return composed.selective_forward(Inputs(*tensors), initial, reverse)


differentiable(selective_scan, _compose_selective, _keep_selective, _differentiate_selective)


# vmap: one call for each item. Folding the items into the batch would sum the gradients of shared A and D over them.


def _mapped(name: str) -> None:
    called = getattr(torch.ops.pochade, name)

    def over_items(info: Any, dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        items = [
            called(*(v if d is None else v.select(d, item) for v, d in zip(arguments, dims, strict=True)))
            for item in range(info.batch_size)
        ]
        if isinstance(items[0], Tensor):
            return torch.stack(items), 0
        return tuple(torch.stack(parts) for parts in zip(*items, strict=True)), (0,) * len(items[0])

    torch.library.register_vmap(f"pochade::{name}", over_items)


for _name in ("linear_recurrence", "linear_recurrence_backward", "selective_scan", "selective_scan_backward"):
    _mapped(_name)


# The composition, for exporters.


def _linear_recurrence(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    return composed.linear_forward(a, b, initial, reverse, solve=composed.tree)


def _selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = Inputs(x, dt, A, B, C, D)
    if A.dim() == 1:
        return exported.selective_forward(inputs, initial, reverse)
    return composed.selective_forward(inputs, initial, reverse, segment=x.shape[1])


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.pochade.linear_recurrence.default: _linear_recurrence,
    torch.ops.pochade.selective_scan.default: _selective_scan,
    torch.ops.pochade.scan_paths.default: exported.scan_paths,
}
"""For ``ExportedProgram.run_decompositions``; ``torch.onnx.export`` finds them by itself."""
for _operator_of, _rule in DECOMPOSITIONS.items():
    register_decomposition(_operator_of)(_rule)
