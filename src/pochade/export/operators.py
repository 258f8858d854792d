"""Operators whose form in ONNX is chosen here: shorter than the exporter's, or one that ONNX Runtime has a kernel for.

A root-mean-square norm as it is written here is one node in ONNX Runtime; as the exporter writes it, seven. All of it
is in the standard's operators but for scans, which have a kernel in ONNX Runtime's own domain; without it they are
composed, as other runtimes want.
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

_STATES = 16
"""Of their multiples the kernel of scans has fast loops: states are padded with zeros to one."""

_FEW = 4
"""Of an axis whose sum or mean is written as sums."""


def translations(standard: bool) -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export``: operator of torch -> a function that writes it, in the standard's operators alone or
    not."""
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

    def scan_paths(
        x: Any,
        selection: Any,
        dt_bias: Any,
        A_log: Any,
        orders: Any,
        inverses: Any,
        ways: int,
        state_size: int,
    ) -> Any:
        """Each scan and head is a sequence of its own of linear attention with decays: heads side by side lie far apart
        in memory, and 1,024 tokens took 2.5 times as long."""
        del ways
        tokens, width = x.shape[1:]
        scans, heads = dt_bias.shape

        def whole(*values: int) -> Any:
            return op.Constant(value_ints=values)

        def rows(t: Any, each: int, numbers: Any, part: Any) -> Any:
            """The rows ``numbers * each + part`` of t [B, .., ..], as its first axes are one."""
            index = op.Reshape(op.Add(op.Mul(numbers, whole(each)), part), whole(-1))
            return op.Gather(t, index, axis=1)

        def sequences(t: Any, *axes: int) -> Any:
            return op.Reshape(t, whole(-1, tokens, *axes))

        head, scan = (op.Unsqueeze(whole(*range(count)), whole(1)) for count in (heads, scans))
        value = op.Reshape(x, whole(0, tokens * heads, width // heads))
        value = rows(value, heads, op.Unsqueeze(orders, whole(1)), head)
        own = rows(op.Reshape(selection, whole(0, tokens * scans, -1)), scans, orders, scan)
        ends = (heads, heads + state_size, heads + 2 * state_size)
        dt, read, write = (op.Slice(own, whole(a), whole(b), whole(2)) for a, b in pairwise((0, *ends)))
        if missing := -state_size % _STATES:
            read, write = (op.Pad(t, whole(0, 0, 0, 0, 0, missing)) for t in (read, write))
        dt = op.Reshape(dt, whole(0, scans, tokens, heads))
        dt = softplus(op.Add(dt, op.Unsqueeze(dt_bias, whole(1))))
        dt = op.Unsqueeze(op.Transpose(dt, perm=[0, 1, 3, 2]), whole(4))
        decay = op.Mul(dt, op.Neg(op.Exp(op.Reshape(A_log, whole(scans, heads, 1, 1)))))
        read, write = (op.Reshape(t, whole(0, scans, 1, tokens, -1)) for t in (read, write))
        key, query = op.Mul(dt, read), op.Expand(write, whole(1, scans, heads, 1, 1))
        states = state_size + missing
        y, _ = linear_attention(
            sequences(query, states),
            sequences(key, states),
            sequences(value, width // heads),
            None,
            sequences(decay, 1),
            q_num_heads=1,
            kv_num_heads=1,
            scale=1.0,
            update_rule="gated",
        )
        y = op.Reshape(y, whole(-1, scans * heads * tokens, width // heads))
        total = None
        for i in range(scans):
            number = op.Unsqueeze(op.Gather(inverses, op.Constant(value_int=i), axis=0), whole(1))
            first = [(i * heads + h) * tokens for h in range(heads)]
            found = rows(y, 1, number, whole(*first))
            total = found if total is None else op.Add(total, found)
        return op.Reshape(total, whole(0, tokens, width))

    aten = torch.ops.aten
    own = {}
    if not standard:
        linear_attention = _linear_attention()
        own[torch.ops.pochade.scan_paths.default] = scan_paths
    return own | {
        aten.einsum.default: einsum,
        aten.rms_norm.default: rms_norm,
        aten.scaled_dot_product_attention.default: attention,
        aten.lerp.Tensor: lerp,
        aten.mean.dim: mean,
        aten.softplus.default: softplus,
    }


def _linear_attention() -> Any:
    """``LinearAttention`` of ONNX Runtime's own domain (since 1.25, fast since 1.30): S <- exp(g) S + k v^T, y = q S.

    The standard has the same operator since opset 27, for which ONNX Runtime has no kernel, but a loop over the tokens.
    """
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    Parameter, Attribute, kinds = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    optional = OpSchema.FormalParameterOption.Optional
    given = [Parameter(name, "T") for name in ("query", "key", "value")]
    given += [Parameter(name, "T", param_option=optional) for name in ("past_state", "decay")]
    attributes = {
        "q_num_heads": kinds.INT,
        "kv_num_heads": kinds.INT,
        "scale": kinds.FLOAT,
        "update_rule": kinds.STRING,
    }
    schema = OpSchema(
        "LinearAttention",
        "com.microsoft",
        1,
        inputs=given,
        outputs=[Parameter(name, "T") for name in ("output", "present_state")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[Attribute(name, kind) for name, kind in attributes.items()],
    )
    return Op(Opset(schema.domain, schema.since_version), schema.name, schema)
