# What torch says of its dispatch has no types.
# pyright: reportUnknownMemberType=false
"""Parts of networks that a CPU computes in one compiled loop each where no gradient is wanted.

A step of a small network on few tokens takes as long as its operators are many: what a composition of torch operators
computes in twenty calls is one call here. Training, compiled and exported graphs, autocast, other devices and other
types, and networks without scans, keep the composition, which is also what tests compare with. Axis letters:
pochade.types.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from pochade.nn.operator import is_transformed
from pochade.nn.scan.backends import backend


@functools.cache
def _compiled(name: str = "loops") -> tuple[Any, Any]:
    """The loops of a module, and the threads that run them."""
    loops, threads = (importlib.import_module(f"pochade.nn.cpu.{part}") for part in (name, "threads"))
    return loops, threads.threads


P = ParamSpec("P")
R = TypeVar("R")

_torch: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_within: ContextVar[bool] = ContextVar("within", default=False)


def by_loops(forward: Callable[P, R]) -> Callable[P, R]:
    """Decorates the forward pass of a network with scans: what `serves` finds within it is computed by loops.

    Others would load Numba for these loops alone, which takes longer than they save in a picture.
    """

    @functools.wraps(forward)
    def decorated(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        before = _within.set(True)
        try:
            return forward(*args, **kwargs)
        finally:
            _within.reset(before)

    return decorated


def serves(x: Tensor, *weights: Tensor) -> bool:
    """Whether the functions below compute what is wanted of x and ``weights``: values alone, of plain tensors of one
    type, float32 or float64, on a CPU with Numba, in a network that is ``by_loops``."""
    return (
        not torch.is_grad_enabled()
        and all(type(one) in (Tensor, nn.Parameter) for one in (x, *weights))
        and x.dtype in (torch.float32, torch.float64)
        and x.device.type == "cpu"
        and all(one.dtype == x.dtype for one in weights)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and _within.get()
        and not torch.is_autocast_enabled("cpu")
        and not _torch._len_torch_dispatch_stack()  # what counts operations, tensors without values
        and not is_transformed()
        and backend("cpu") == "numba"
    )


def hyper_read(
    streams: Tensor, alpha: Tensor, beta: Tensor, weight: Tensor, alpha_scale: Tensor, beta_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """What a layer reads of streams [B, n, N, D] by dynamic hyper-connections (``nn.hyper_connections``): [B, N, D],
    and for ``hyper_write`` what each stream gives to all and takes of the layer, [B, N, n, n + 1]."""
    loops, threads = _compiled()
    streams, sizes, units = _streams(streams, loops.TILE)
    batch, n, tokens, width = streams.shape
    read, connections = streams.new_empty(batch, tokens, width), streams.new_empty(batch, tokens, n, n + 1)
    given = streams, alpha, beta, weight, alpha_scale, beta_scale, read, connections
    threads.run(loops.hyper_read, given, (sizes,), units, 0.25 * streams.numel())
    return read, connections


def hyper_write(streams: Tensor, connections: Tensor, layer: Tensor) -> Tensor:
    """The streams [B, n, N, D] after a layer that gave [B, N, D]; those of a token lie side by side."""
    loops, threads = _compiled()
    streams, sizes, units = _streams(streams, loops.TILE)
    batch, n, tokens, width = streams.shape
    out = streams.new_empty(batch, tokens, n, width)
    given = streams, connections, layer.contiguous(), out
    threads.run(loops.hyper_write, given, (sizes,), units, 0.15 * out.numel())
    return out.transpose(1, 2)


def _streams(streams: Tensor, tile: int) -> tuple[Tensor, tuple[int, ...], int]:
    streams = streams if streams.stride(3) == 1 else streams.contiguous()
    batch, n, tokens, width = streams.shape
    return streams, (batch * tokens, tokens, width, n, *streams.stride()[:3]), -(-batch * tokens // tile)


def path_scan(
    x: Tensor,
    selection: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    order: Tensor,
    states: int,
    divisor: int,
) -> Tensor:
    """The sum of selective scans of x [B, N, E] with a decay a head, along paths of the grid.

    Args:
        x: [B, N, E].
        selection: [B, N, G P] with dt, B and C of each of G scans in turn, before softplus; P = heads + 2 S.
        dt_bias: [G, heads].
        A_log: [G heads].
        D: [G E].
        order: [G / 2, N] int64, the tokens as each path meets them; scan 2 i follows path i and scan 2 i + 1 the same
            from its end. One scan follows one path.
        states: S.
        divisor: by which the sum is divided.

    Returns:
        [B, N, E], in the order of x.
    """
    loops, threads = _compiled()
    x, selection = _even(x), selection.contiguous()
    batch, tokens, width = x.shape
    groups, heads = dt_bias.shape
    y = x.new_empty(batch, tokens, width)
    sizes = tokens, width, heads, states, groups, x.stride(1), divisor, order.data_ptr()
    units, work = batch * heads * -(-(width // heads) // loops.LANES), 0.03 * x.numel() * groups * states
    threads.run(loops.path_scan, (x, selection, dt_bias, A_log, D, y), (sizes,), units, work)
    return y


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    height: int,
    width: int,
    *,
    silu: bool = False,
    onto: Tensor | None = None,
) -> Tensor:
    """The convolution of each channel alone with zeros around the grid, and SiLU of it; added ``onto`` [B, H W, D] in
    place where that is given.

    Args:
        x: [B, H W, D].
        weight: [D, 1, k, k], k odd.
        bias: [D].
    """
    loops, threads = _compiled()
    x = _even(x)
    batch, tokens, channels = x.shape
    y = x.new_empty(batch, tokens, channels) if onto is None else onto
    sizes = height, width, channels, weight.shape[-1], x.stride(1), silu, onto is not None
    threads.run(loops.depthwise, (x, weight, bias, y), (sizes,), batch * -(-channels // loops.LANES), 0.15 * x.numel())
    return y


def gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """a SiLU(g) with [a, g] the 3 x 3 convolution of SiLU(x), of each channel alone.

    Args:
        x: [B, H W, 2 D] without gaps; overwritten by its SiLU.
        weight: [2 D, 1, 3, 3].
        bias: [2 D].

    Returns:
        [B, H W, D].
    """
    loops, threads = _compiled()
    batch, tokens, channels = x.shape
    y = x.new_empty(batch, tokens, channels // 2)
    sizes, units = (height, width, channels // 2), batch * -(-(channels // 2) // loops.LANES)
    threads.run(loops.gated_depthwise, (x, weight, bias, y), (sizes,), units, 0.25 * x.numel())
    return y


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [B, N, D], then x (1 + scale) + shift, both [B, 1, D]."""
    loops, threads = _compiled()
    x, shift, scale = _even(x), _even(shift), _even(scale)
    batch, tokens, width = x.shape
    y = x.new_empty(batch, tokens, width)
    sizes = batch * tokens, tokens, width, x.stride(1), shift.stride(0), scale.stride(0)
    units = -(-batch * tokens // loops.TILE)
    threads.run(loops.modulated_norm, (x, shift, scale, y), (sizes,), units, 0.2 * x.numel())
    return y


def gated_norm(y: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor, x: Tensor | None = None) -> Tensor:
    """norm(y) SiLU(gate) or, with x, g norm(y) + (1 - g) x, g = sigmoid(gate).

    Args:
        y: [B, N, E] without gaps.
        weight: [E], the scale of the layer norm.
        bias: [E], its shift; with x alone.
        gate: [B, N, E].
        x: [B, N, E] without gaps.
    """
    loops, threads = _compiled()
    gate, out = _even(gate), torch.empty_like(y)
    rows, width = y.shape[0] * y.shape[1], y.shape[2]
    given = y if x is None else x, weight, weight if bias is None else bias, gate, y, out
    units = -(-rows // loops.TILE)
    threads.run(loops.gated_norm, given, ((rows, width, gate.stride(1), x is not None),), units, 0.3 * y.numel())
    return out


def reason(
    y: Tensor,
    gate: Tensor,
    weights: Sequence[Tensor],
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    threshold: float,
    *,
    may_halt: bool,
    is_last: bool,
) -> None:
    """What is left of a step of LiRA's reasoning loop once its scan is done.

    Args:
        y: [B, N, R], what the scan gave.
        gate: [B, N, R].
        weights: weight and bias of the candidate's first product [H, R], its second one [R, H], of what is kept
            [R, 2 R] and of the halting [1, R].
        state: what the step changes: r [B, R], the thought [B, R], which share of it is left [B], and the steps that
            were taken [B].
        threshold: once so much is taken all is.
        may_halt: whether the weights of the halting say what this step takes; it takes nothing where they do not.
        is_last: whether it takes all that is left.
    """
    loops, threads = _compiled()
    y, gate = y.contiguous(), _even(gate)
    batch, tokens, width = y.shape
    sizes = tokens, width, len(weights[0]), gate.stride(1), may_halt, is_last
    threads.run(loops.reason, (y, gate, *weights, *state), (sizes, 1 - threshold), batch, 0.3 * y.numel() + 1e4)


def text_state(key_value: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """softmax_M(K)^T V of keys, normed in each head, and values of text tokens (1812.01243).

    Args:
        key_value: [B, M, 2 D] without gaps, keys and values side by side.
        mask: [B, M] bool; what is False counts nowhere.
        weight: [d], the scale of the norm of keys; d = D / heads.

    Returns:
        [B, heads, d, d].
    """
    loops, threads = _compiled("attention_loops")
    batch, tokens, both = key_value.shape
    width, mask = len(weight), mask.contiguous()
    heads = both // 2 // width
    state = key_value.new_empty(batch, heads, width, width)
    keys, values = key_value.chunk(2, dim=2)
    sizes = tokens, heads, width, both, mask.data_ptr()
    work = 0.1 * state.numel() * tokens
    threads.run(loops.text_state, (keys, values, weight, state), (sizes,), batch * heads, work)
    return state


def read_state(query: Tensor, weight: Tensor, state: Tensor, gate: Tensor) -> Tensor:
    """sigmoid(gate) softmax_d(Q) S of queries [B, N, D] that are normed in each head and scaled by ``weight`` [d],
    ``state`` [B, heads, d, d] and ``gate`` [B, N, D]: [B, N, D]."""
    loops, threads = _compiled("attention_loops")
    query, state, gate = query.contiguous(), state.contiguous(), gate.contiguous()
    y, rows, tokens = torch.empty_like(query), query.shape[0] * query.shape[1], query.shape[1]
    sizes, units = (rows, tokens, state.shape[1], len(weight)), -(-rows // loops.TILE)
    work = 0.05 * query.numel() * len(weight)
    threads.run(loops.read_state, (query, weight, state, gate, y), (sizes,), units, work)
    return y


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention with the heads joined: q [B, heads, N, d], k and v [B, heads, M, d], mask [B, M] bool, at least
    one True a row (None: all True) -> [B, N, heads d]."""
    loops, threads = _compiled("attention_loops")
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    batch, heads, rows, width = q.shape
    y = q.new_empty(batch, rows, heads, width)
    real = None if mask is None else mask.contiguous()
    sizes = heads, rows, k.shape[2], width, real is not None, 0 if real is None else real.data_ptr()
    strides = tuple(t.stride()[:3] for t in (q, k, v, y.transpose(1, 2)))
    units, work = batch * heads * -(-rows // loops.LANES), 0.03 * q.numel() * k.shape[2]
    threads.run(loops.attention, (q, k, v, y), (sizes, strides), units, work)
    return y.flatten(2)


def _even(x: Tensor) -> Tensor:
    """x [B, N, D], or a copy, with the numbers of a token side by side and tokens as far apart as samples need."""
    even = x.stride(2) == 1 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if even else x.contiguous()


def compile_ahead() -> None:
    """Compiles all loops for float32, which the first calls would otherwise do, half a second or so each."""
    x, one, kernel = torch.ones(1, 1, 2), torch.ones(1, 1), torch.ones(2, 1, 3, 3)
    order, two = torch.zeros(1, 1, dtype=torch.int64), torch.ones(2)
    read, connections = hyper_read(x[None], torch.ones(1, 2), one[0], torch.ones(3, 2), one[0], one[0])
    hyper_write(x[None], connections, read)
    path_scan(x, torch.ones(1, 1, 3), one, one[0], two, order, 1, 1)
    gated_depthwise(x.clone(), kernel, depthwise(x, kernel, two, 1, 1)[0, 0], 1, 1)
    square, wide = torch.ones(2, 2), torch.ones(2, 4)
    weights, state = (square, two, square, two, wide, two, square, two), (one, one.clone(), one[0], one[0].clone())
    reason(x, x, weights, state, 1.0, may_halt=False, is_last=True)
    gated_norm(modulated_norm(x, x, x), two, None, x)
    attention(x[None], x[None], x[None])
    read_state(x, two, text_state(torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), two), x)
