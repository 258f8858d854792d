"""Operators whose form in ONNX is chosen here: shorter than the exporter's, or one that ONNX Runtime has a kernel for.

All of it is in the standard's operators. A root-mean-square norm as it is written here is one node in ONNX Runtime; as
the exporter writes it, seven.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

_HIDDEN = -3.4028234663852886e38
"""Added to the scores of what a mask hides: the lowest float32, so that no score is infinite. Half a network's inputs
may be hidden, but never all that one token attends to: each attends to itself, or the network adds a token that is
always there."""

_FEW = 4
"""Of an axis whose sum or mean is written as sums."""


def translations() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export``: operator of torch -> a function that writes it."""
    from onnxscript import opset20

    op: Any = opset20

    def number(value: float) -> Any:
        return op.Constant(value_float=value)

    def rms_norm(x: Any, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis (1910.07467 eq. 4)."""
        squares = op.ReduceMean(op.Pow(x, number(2.0)), op.Constant(value_ints=[-1]), keepdims=1)
        root = op.Sqrt(op.Add(squares, number(eps or 0.0)))
        scale = op.Constant(value_floats=[1.0] * int(shape[-1])) if weight is None else weight
        return op.Mul(op.Div(x, root), scale)

    def attention(
        q: Any,
        k: Any,
        v: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        """Two products and a softmax, without the care for tokens that attend to nothing, which no network here has."""
        if dropout_p or is_causal or enable_gqa:
            raise NotImplementedError("attention: dropout, causal masks and shared heads")
        factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        scores = op.MatMul(op.Mul(q, number(factor)), op.Transpose(k, perm=[0, 1, 3, 2]))
        if attn_mask is not None:
            boolean = attn_mask.dtype.name == "BOOL"
            scores = op.Add(scores, op.Where(attn_mask, number(0.0), number(_HIDDEN)) if boolean else attn_mask)
        return op.MatMul(op.Softmax(scores, axis=-1), v)

    def lerp(start: Any, end: Any, weight: Any) -> Any:
        return op.Add(start, op.Mul(weight, op.Sub(end, start)))

    def softplus(x: Any) -> Any:
        """log(1 + e^x) up to x = 30, where float32 has x from then on: ONNX Runtime's own takes three times as long."""
        below = op.Log(op.Add(op.Exp(op.Min(x, number(30.0))), number(1.0)))
        return op.Max(x, below)

    def mean(x: Any, dim: Sequence[int] | None, keepdim: bool = False, dtype: Any = None) -> Any:
        """Of an axis of a few numbers as sums, five times as fast as the reduction, and of tokens as a product, four to
        ten times as fast."""
        if dtype is not None or dim is None:
            raise NotImplementedError("mean: without axes, or in another type")
        axes, last = op.Constant(value_ints=list(dim)), len(x.shape) - 1
        axis = dim[0] % len(x.shape) if len(dim) == 1 else last
        count = x.shape[axis]
        if axis == last or not isinstance(count, int):
            return op.ReduceMean(x, axes, keepdims=int(keepdim))
        if count > _FEW:
            if axis != last - 1:
                return op.ReduceMean(x, axes, keepdims=int(keepdim))
            total = op.MatMul(
                op.Unsqueeze(op.Constant(value_floats=[1 / count] * count), op.Constant(value_ints=[0])), x
            )
            return total if keepdim else op.Squeeze(total, axes)
        bounds = [op.Constant(value_ints=[index]) for index in range(count + 1)]
        total = op.Slice(x, bounds[0], bounds[1], axes)
        for start, end in pairwise(bounds[1:]):
            total = op.Add(total, op.Slice(x, start, end, axes))
        total = op.Mul(total, number(1 / count))
        return total if keepdim else op.Squeeze(total, axes)

    def einsum(equation: str, operands: Sequence[Any]) -> Any:
        """A sum over an axis of a few numbers as so many products and sums: ten times as fast as its small matrices."""
        sides, _, output = equation.replace(" ", "").partition("->")
        summed = set("".join(sides.split(","))) - set(output)
        letters = sides.split(",")
        plain = len(summed) == 1 and all(len(side) == len(output) and summed < set(side) for side in letters)
        axis = summed.pop() if plain else ""
        count = operands[0].shape[letters[0].index(axis)] if plain else None
        if not isinstance(count, int) or count > _FEW:
            return op.Einsum(*operands, equation=equation)

        def term(index: int) -> Any:
            """The product for one number of the axis, whose place the axis takes that an operand has not."""
            factors: list[Any] = []
            for side, operand in zip(letters, operands, strict=True):
                place = op.Constant(value_ints=[side.index(axis)])
                bounds = (op.Constant(value_ints=[value]) for value in (index, index + 1))
                part = op.Slice(operand, *bounds, place)
                order = [side.index(letter if letter in side else axis) for letter in output]
                factors.append(part if order == sorted(order) else op.Transpose(part, perm=order))
            return op.Mul(*factors)

        total = term(0)
        for index in range(1, count):
            total = op.Add(total, term(index))
        return total

    aten = torch.ops.aten
    return {
        aten.einsum.default: einsum,
        aten.rms_norm.default: rms_norm,
        aten.scaled_dot_product_attention.default: attention,
        aten.lerp.Tensor: lerp,
        aten.mean.dim: mean,
        aten.softplus.default: softplus,
    }
