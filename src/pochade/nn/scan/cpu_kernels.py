# pyright: basic
"""The scans on a CPU: loops over the tokens, compiled by Numba at the first call and kept on disk.

A unit of work is one row of the batch and a block of at most ``LANES`` neighbouring channels. Its states stay in
the nearest cache while it walks through the tokens, and the innermost loop, over the lanes, becomes vector
instructions. A composition of torch operators writes and reads whole tensors between its steps; these loops read
every input once and write every output once.

The rows that an inner loop works on lie in one small array, a constant distance apart, because LLVM vectorises
only what it can prove not to overlap. Signatures and shapes: ``contract``.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import float32, int32, njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from pochade.nn.scan.contract import CHUNK, Gradients, Inputs, chunks, state_dtype

LANES = 64
_WORTH_A_THREAD = 100_000  # nanoseconds of work; waking a thread takes about 50,000

_EXACT: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_SUMS: dict[str, Any] = _EXACT | {"fastmath": {"contract", "reassoc"}}


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Numba's ``njit`` whose work is kept on disk, where there is a folder to keep it in."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(**options, cache=True)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


# The C library's exponential is a call for every element. Written out it becomes vector instructions: halved and
# doubled into [-ln 2 / 2, ln 2 / 2] (Cody and Waite), then a polynomial; 2.5e-7 relative at most.

_LOG2_E = float32(1.4426950408889634)
_LN2_HIGH = float32(0.693359375)
_LN2_LOW = float32(-2.12194440e-4)
_SMALLEST = float32(-87.33654)  # the logarithm of the smallest normal number
_LARGEST = float32(88.0)
_HALF = float32(0.5)
_T2, _T3, _T4, _T5, _T6 = (float32(1 / math.factorial(n)) for n in range(2, 7))
_ONE = float32(1)
_ZERO = float32(0)


@intrinsic
def _float_of_bits(typing_context: Any, bits: Any) -> Any:  # called with the bits alone
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _exp(x: Any) -> Any:
    return math.exp(x)


def _vector_exp(x: Any) -> Any:
    inside = _SMALLEST if x < _SMALLEST else (_LARGEST if x > _LARGEST else x)
    doublings = np.floor(inside * _LOG2_E + _HALF)
    r = inside - doublings * _LN2_HIGH
    r = r - doublings * _LN2_LOW
    p = ((((_T6 * r + _T5) * r + _T4) * r + _T3) * r + _T2) * r * r + r + _ONE
    power = _float_of_bits(int32((int32(doublings) + int32(127)) << int32(23)))  # pyright: ignore[reportCallIssue]
    return _ZERO if x < _SMALLEST else p * power


@overload(_exp, jit_options=_EXACT)  # pyright: ignore[reportArgumentType]
def _choose_exp(x: Any) -> Any:
    return _vector_exp if x == types.float32 else _exp


@compiled(**_EXACT)
def _linear_forward(a, b, initial, reverse, h, first, last):
    tokens, width = a.shape[1:]
    per_row = (width + LANES - 1) // LANES
    for unit in range(first, last):
        i = unit // per_row
        c0 = unit % per_row * LANES
        c1 = min(c0 + LANES, width)
        state = np.empty(c1 - c0, a.dtype)
        for d in range(c1 - c0):
            state[d] = initial[i, c0 + d]
        for k in range(tokens):
            n = tokens - 1 - k if reverse else k
            a_n, b_n, h_n = a[i, n, c0:c1], b[i, n, c0:c1], h[i, n, c0:c1]
            for d in range(c1 - c0):
                v = a_n[d] * state[d] + b_n[d]
                state[d] = v
                h_n[d] = v


@compiled(**_EXACT)
def _linear_backward(grad, a, h, initial, reverse, grad_a, grad_b, grad_initial, first, last):
    tokens, width = a.shape[1:]
    per_row = (width + LANES - 1) // LANES
    for unit in range(first, last):
        i = unit // per_row
        c0 = unit % per_row * LANES
        c1 = min(c0 + LANES, width)
        carried = np.zeros(c1 - c0, a.dtype)
        for k in range(tokens - 1, -1, -1):
            n = tokens - 1 - k if reverse else k
            before = n + 1 if reverse else n - 1
            a_n, g_n = a[i, n, c0:c1], grad[i, n, c0:c1]
            h_before = initial[i, c0:c1] if k == 0 else h[i, before, c0:c1]
            ga_n, gb_n = grad_a[i, n, c0:c1], grad_b[i, n, c0:c1]
            for d in range(c1 - c0):
                v = g_n[d] + carried[d]
                carried[d] = v * a_n[d]
                ga_n[d] = v * h_before[d]
                gb_n[d] = v
        for d in range(c1 - c0):
            grad_initial[i, c0 + d] = carried[d]


# Rows of a block's arrays: those of a token, and those of each of the S states.
_X, _DT, _DTX, _Y, _DECAY, _D, _GRAD_Y, _GRAD_DTX, _GRAD_DT, _GRAD_D = range(10)
_STATE, _A, _GRAD_STATE, _GRAD_A, _GRAD_A_TOTAL = range(5)


@compiled(**_EXACT)
def _place(unit, width, groups):
    """Row of the batch, group, block in the group, first and last channel of a unit of work."""
    span = width // groups
    per_group = (span + LANES - 1) // LANES
    i, r = divmod(unit, per_group * groups)
    group, block = divmod(r, per_group)
    c0 = group * span + block * LANES
    return i, group, block, c0, min(c0 + LANES, (group + 1) * span)


@compiled(**_EXACT)
def _load(x_n, dt_n, A, diagonal, per_head, c0, c1, lanes):
    """x, dt and dt x of one token's channels and, where it serves all their states, the decay."""
    x_n = x_n[c0:c1]
    for d in range(c1 - c0):
        lanes[_X, d] = x_n[d]
    if diagonal:
        dt_n = dt_n[c0:c1]
        for d in range(c1 - c0):
            lanes[_DT, d] = dt_n[d]
    else:
        c = c0
        while c < c1:
            head = c // per_head
            end = min(c1, (head + 1) * per_head)
            step = dt_n[head]
            decay = _exp(step * A[head, 0])
            steps, decays = lanes[_DT, c - c0 :], lanes[_DECAY, c - c0 :]
            for d in range(end - c):
                steps[d] = step
                decays[d] = decay
            c = end
    for d in range(LANES):
        lanes[_DTX, d] = lanes[_X, d] * lanes[_DT, d]


@compiled(**_EXACT)
def _selective_forward(x, dt, A, B, C, D, initial, reverse, diagonal, y, final, checkpoints, first, last):
    tokens, width = x.shape[1:]
    groups, states = B.shape[2:]
    per_head = width // dt.shape[2]
    for unit in range(first, last):
        i, g, _, c0, c1 = _place(unit, width, groups)
        lanes = np.zeros((10, LANES), x.dtype)
        rows = np.zeros((states, 5, LANES), x.dtype)
        for d in range(c1 - c0):
            lanes[_D, d] = D[c0 + d]
            for s in range(states):
                rows[s, _STATE, d] = initial[i, c0 + d, s]
                if diagonal:
                    rows[s, _A, d] = A[c0 + d, s]
        for k in range(tokens):
            n = tokens - 1 - k if reverse else k
            if k % CHUNK == 0:
                for d in range(c1 - c0):
                    for s in range(states):
                        checkpoints[i, k // CHUNK, c0 + d, s] = rows[s, _STATE, d]
            _load(x[i, n], dt[i, n], A, diagonal, per_head, c0, c1, lanes)
            for d in range(LANES):
                lanes[_Y, d] = lanes[_D, d] * lanes[_X, d]
            for s in range(states):
                row, b, c = rows[s], B[i, n, g, s], C[i, n, g, s]
                if diagonal:
                    for d in range(LANES):
                        lanes[_DECAY, d] = _exp(lanes[_DT, d] * row[_A, d])
                for d in range(LANES):
                    v = lanes[_DECAY, d] * row[_STATE, d] + lanes[_DTX, d] * b
                    row[_STATE, d] = v
                    lanes[_Y, d] += c * v
            y_n = y[i, n, c0:c1]
            for d in range(c1 - c0):
                y_n[d] = lanes[_Y, d]
        for d in range(c1 - c0):
            for s in range(states):
                final[i, c0 + d, s] = rows[s, _STATE, d]


@compiled(**_SUMS)
def _selective_backward(
    grad_y,
    grad_final,
    x,
    dt,
    A,
    B,
    C,
    D,
    checkpoints,
    reverse,
    diagonal,
    grad_x,
    grad_dt,
    grad_A,
    grad_B,
    grad_C,
    grad_D,
    grad_initial,
    first,
    last,
):
    tokens, width = x.shape[1:]
    groups, states = B.shape[2:]
    per_head = width // dt.shape[2]
    before = np.empty((CHUNK, states, LANES), x.dtype)  # the states that the tokens of a chunk found
    for unit in range(first, last):
        i, g, block, c0, c1 = _place(unit, width, groups)
        size = c1 - c0
        lanes = np.zeros((10, LANES), x.dtype)
        rows = np.zeros((states, 5, LANES), x.dtype)
        for d in range(size):
            lanes[_D, d] = D[c0 + d]
            for s in range(states):
                rows[s, _GRAD_STATE, d] = grad_final[i, c0 + d, s]
                rows[s, _A, d] = A[c0 + d, s] if diagonal else A[(c0 + d) // per_head, 0]
        for chunk in range((tokens - 1) // CHUNK, -1, -1):
            begin, end = chunk * CHUNK, min(tokens, (chunk + 1) * CHUNK)
            for d in range(size):
                for s in range(states):
                    rows[s, _STATE, d] = checkpoints[i, chunk, c0 + d, s]
            for k in range(begin, end):
                n = tokens - 1 - k if reverse else k
                _load(x[i, n], dt[i, n], A, diagonal, per_head, c0, c1, lanes)
                for s in range(states):
                    row, found, b = rows[s], before[k - begin, s], B[i, n, g, s]
                    if diagonal:
                        for d in range(LANES):
                            lanes[_DECAY, d] = _exp(lanes[_DT, d] * row[_A, d])
                    for d in range(LANES):
                        found[d] = row[_STATE, d]
                        row[_STATE, d] = lanes[_DECAY, d] * row[_STATE, d] + lanes[_DTX, d] * b
            for k in range(end - 1, begin - 1, -1):
                n = tokens - 1 - k if reverse else k
                _load(x[i, n], dt[i, n], A, diagonal, per_head, c0, c1, lanes)
                gy_n = grad_y[i, n, c0:c1]
                for d in range(size):
                    lanes[_GRAD_Y, d] = gy_n[d]
                for d in range(LANES):
                    lanes[_GRAD_DTX, d] = 0
                    lanes[_GRAD_DT, d] = 0
                for s in range(states):
                    row, found, b, c = rows[s], before[k - begin, s], B[i, n, g, s], C[i, n, g, s]
                    to_b = to_c = x.dtype.type(0)
                    if diagonal:
                        for d in range(LANES):
                            lanes[_DECAY, d] = _exp(lanes[_DT, d] * row[_A, d])
                    for d in range(LANES):
                        gradient = row[_GRAD_STATE, d] + c * lanes[_GRAD_Y, d]
                        to_b += gradient * lanes[_DTX, d]
                        to_c += lanes[_GRAD_Y, d] * (lanes[_DECAY, d] * found[d] + lanes[_DTX, d] * b)
                        carried = gradient * lanes[_DECAY, d]
                        to_exponent = carried * found[d]
                        lanes[_GRAD_DTX, d] += gradient * b
                        lanes[_GRAD_DT, d] += to_exponent * row[_A, d]
                        row[_GRAD_A, d] += to_exponent * lanes[_DT, d]
                        row[_GRAD_STATE, d] = carried
                    grad_B[block, i, n, g, s] = to_b
                    grad_C[block, i, n, g, s] = to_c
                gx_n, gdt_n = grad_x[i, n, c0:c1], grad_dt[i, n, c0:c1]
                for d in range(size):
                    gx_n[d] = lanes[_GRAD_DTX, d] * lanes[_DT, d] + lanes[_D, d] * lanes[_GRAD_Y, d]
                    gdt_n[d] = lanes[_GRAD_DTX, d] * lanes[_X, d] + lanes[_GRAD_DT, d]
                for d in range(LANES):
                    lanes[_GRAD_D, d] += lanes[_GRAD_Y, d] * lanes[_X, d]
            # Sums over a chunk, then over the chunks: in float32 a long sum loses less that way.
            for d in range(size):
                grad_D[i, c0 + d] += lanes[_GRAD_D, d]
                lanes[_GRAD_D, d] = 0
                for s in range(states):
                    rows[s, _GRAD_A_TOTAL, d] += rows[s, _GRAD_A, d]
                    rows[s, _GRAD_A, d] = 0
        for d in range(size):
            for s in range(states):
                grad_initial[i, c0 + d, s] = rows[s, _GRAD_STATE, d]
                grad_A[i, c0 + d, s] = rows[s, _GRAD_A_TOTAL, d]


class _Threads:
    """Threads that share the units of a kernel, as many as torch uses.

    Not Numba's own: those stop the program when two Python threads call at once, or after a fork.
    """

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.size = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.pool = None

    def run(self, kernel: Callable[..., None], arguments: tuple[Any, ...], units: int, nanoseconds: float) -> None:
        """Calls ``kernel(*arguments, first, last)`` over ranges that cover ``units``; ``nanoseconds`` is a guess."""
        threads = min(torch.get_num_threads(), units, 1 + int(nanoseconds / _WORTH_A_THREAD))
        if threads < 2:
            kernel(*arguments, 0, units)
            return
        if self.pool is None or self.size < threads - 1:
            self.pool, self.size = ThreadPoolExecutor(threads - 1, "pochade-scan"), threads - 1
        edges = [units * share // threads for share in range(threads + 1)]
        others = [self.pool.submit(kernel, *arguments, *edges[j : j + 2]) for j in range(1, threads)]
        kernel(*arguments, *edges[:2])
        for other in others:
            other.result()


_threads = _Threads()


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    # Tensor.numpy() would keep the storage of a weight from being freed, as FSDP does after a step.
    return tuple(np.from_dlpack(t.detach()) for t in tensors)


def _ready(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.to(dtype).contiguous() for t in tensors)


def _units(batch: int, width: int, groups: int) -> int:
    return batch * groups * -(-(width // groups) // LANES)


def linear_forward(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    dtype = state_dtype(a, b)
    decay, driven = _ready(dtype, a, b)
    h = torch.empty_like(driven)
    start = a.new_zeros(a.shape[0], a.shape[2]) if initial is None else initial
    arrays = _arrays(decay, driven, *_ready(dtype, start))
    units = _units(a.shape[0], a.shape[2], 1)
    _threads.run(_linear_forward, (*arrays, reverse, h.numpy()), units, 0.3 * a.numel())
    return h.to(torch.promote_types(a.dtype, b.dtype))


def linear_backward(
    grad: Tensor, a: Tensor, h: Tensor, initial: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(a, h)
    start = a.new_zeros(a.shape[0], a.shape[2]) if initial is None else initial
    inputs = _ready(dtype, grad, a, h, start)
    grad_a, grad_b, grad_initial = (torch.empty_like(t) for t in inputs[1:])
    arrays = _arrays(*inputs)
    outputs = _arrays(grad_a, grad_b, grad_initial)
    units = _units(a.shape[0], a.shape[2], 1)
    _threads.run(_linear_backward, (*arrays, reverse, *outputs), units, 0.6 * a.numel())
    return grad_a, grad_b, grad_initial


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(*inputs)
    batch, tokens, width = inputs.x.shape
    groups, states = inputs.B.shape[2:]
    diagonal = inputs.A.dim() == 2
    start = inputs.x.new_zeros(batch, width, states) if initial is None else initial
    ready = _ready(dtype, *_complete(inputs), start)
    y, final = torch.empty_like(ready[0]), torch.empty_like(ready[-1])
    checkpoints = final.new_empty(batch, chunks(tokens), width, states)
    arrays = (*_arrays(*ready), reverse, diagonal, *_arrays(y, final, checkpoints))
    work = inputs.x.numel() * states * (0.4 if diagonal else 0.15)
    _threads.run(_selective_forward, arrays, _units(batch, width, groups), work)
    return y.to(inputs.x.dtype), final, checkpoints


def selective_backward(
    grad_y: Tensor, grad_final: Tensor, inputs: Inputs, checkpoints: Tensor, reverse: bool
) -> Gradients:
    dtype = checkpoints.dtype
    batch, _, width = inputs.x.shape
    groups = inputs.B.shape[2]
    diagonal = inputs.A.dim() == 2
    ready = _ready(dtype, grad_y, grad_final, *_complete(inputs), checkpoints)
    # Sums over channels come a block of lanes at a time: no two threads write to one place, and the result does not
    # depend on their number.
    blocks = _units(1, width, groups) // groups
    to_x, to_dt = torch.empty_like(ready[0]), torch.empty_like(ready[0])
    to_B, to_C = ready[0].new_empty(2, blocks, *inputs.B.shape)
    to_A, to_initial = torch.empty_like(ready[1]), torch.empty_like(ready[1])
    to_D = to_x.new_zeros(batch, width)
    arrays = (*_arrays(*ready), reverse, diagonal, *_arrays(to_x, to_dt, to_A, to_B, to_C, to_D, to_initial))
    work = inputs.x.numel() * inputs.B.shape[3] * (1.2 if diagonal else 0.5)
    _threads.run(_selective_backward, arrays, _units(batch, width, groups), work)
    of_A = to_A.sum(0)
    if not diagonal:
        heads = inputs.A.shape[0]
        to_dt = to_dt.unflatten(2, (heads, -1)).sum(3)
        of_A = of_A.sum(1).unflatten(0, (heads, -1)).sum(1)
    return Gradients(to_x, to_dt, of_A, to_B.sum(0), to_C.sum(0), to_D.sum(0), to_initial)


def _complete(inputs: Inputs) -> tuple[Tensor, ...]:
    """The inputs with A [heads or D, S or 1] and D."""
    x, dt, A, B, C, D = inputs
    return x, dt, A.reshape(A.shape[0], -1), B, C, x.new_zeros(x.shape[2]) if D is None else D


def compile_ahead() -> None:
    """Compiles all loops for float32, which the first calls would otherwise do, a second or so each."""
    x = torch.ones(1, 1, 1)
    linear_backward(x, x, linear_forward(x, x, None, False), None, False)
    inputs = Inputs(x, x, -x[0], x[None], x[None], None)
    y, final, checkpoints = selective_forward(inputs, None, False)
    selective_backward(y, final, inputs, checkpoints, False)
