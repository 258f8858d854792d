"""The scans on a CPU, by loops that Numba compiles at the first call and keeps on disk (``cpu_loops``).

A unit of work is one row of the batch and a block of at most ``LANES`` neighbouring channels. Its states stay in
the nearest cache while it walks through the tokens. A composition of torch operators writes and reads whole tensors
between its steps; these loops read every input once and write every output once. Signatures and shapes: ``contract``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pochade.nn.cpu.threads import threads
from pochade.nn.cpu.vectors import LANES
from pochade.nn.scan import cpu_loops as loops
from pochade.nn.scan.contract import Gradients, Inputs, chunks, state_dtype


class _Sizes(NamedTuple):
    """Of the tensors of a selective scan, which kernels get as rows of numbers."""

    batch: int
    tokens: int
    width: int
    groups: int
    states: int
    spans: int
    """Runs of neighbouring channels that have B and C in common and, where it is one number a head, dt."""

    @property
    def blocks(self) -> int:
        """Of ``LANES`` channels at most, in a span."""
        return -(-(self.width // self.spans) // LANES)

    @property
    def units(self) -> int:
        return self.batch * self.spans * self.blocks


def _ready(dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.to(dtype).contiguous() for t in tensors)


def linear_forward(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    batch, tokens, width = a.shape
    start = a.new_zeros(batch, width) if initial is None else initial
    ready = _ready(state_dtype(a, b), a, b, start)
    h = torch.empty_like(ready[0])
    units = batch * -(-width // LANES)
    threads.run(loops.linear_forward, (*ready, h), (tokens, width, reverse), units, 0.3 * a.numel())
    return h.to(torch.promote_types(a.dtype, b.dtype))


def linear_backward(
    grad: Tensor, a: Tensor, h: Tensor, initial: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, width = a.shape
    start = a.new_zeros(batch, width) if initial is None else initial
    ready = _ready(state_dtype(a, h), grad, a, h, start)
    grad_a, grad_b, grad_initial = (torch.empty_like(t) for t in ready[1:])
    units = batch * -(-width // LANES)
    found = (grad_a, grad_b, grad_initial)
    threads.run(loops.linear_backward, (*ready, *found), (tokens, width, reverse), units, 0.6 * a.numel())
    return found


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype, sizes, diagonal = state_dtype(*inputs), _sizes(inputs), inputs.A.dim() == 2
    start = inputs.x.new_zeros(sizes.batch, sizes.width, sizes.states) if initial is None else initial
    ready = _ready(dtype, *_complete(inputs), start)
    y, final = torch.empty_like(ready[0]), torch.empty_like(ready[-1])
    checkpoints = final.new_empty(sizes.batch, chunks(sizes.tokens), sizes.width, sizes.states)
    work = inputs.x.numel() * sizes.states * (0.14 if diagonal else 0.045)
    found = (y, final, checkpoints)
    threads.run(loops.selective_forward, (*ready, *found), (tuple(sizes), reverse, diagonal), sizes.units, work)
    return y.to(inputs.x.dtype), final, checkpoints


def selective_backward(
    grad_y: Tensor, grad_final: Tensor, inputs: Inputs, checkpoints: Tensor, reverse: bool
) -> Gradients:
    dtype, sizes, diagonal = checkpoints.dtype, _sizes(inputs), inputs.A.dim() == 2
    ready = _ready(dtype, grad_y, grad_final, *_complete(inputs), checkpoints)
    # Sums over channels come a block of lanes at a time: no two threads write to one place, and the result does not
    # depend on their number.
    to_x = torch.empty_like(ready[0])
    to_dt = torch.empty_like(ready[3]) if diagonal else to_x.new_empty(sizes.blocks, *inputs.dt.shape)
    to_B, to_C = ready[0].new_empty(2, sizes.spans // sizes.groups * sizes.blocks, *inputs.B.shape)
    to_A, to_initial = torch.empty_like(ready[1]), torch.empty_like(ready[1])
    to_D = to_x.new_empty(sizes.batch, sizes.width)
    work = inputs.x.numel() * sizes.states * (0.27 if diagonal else 0.15)
    found = (to_x, to_dt, to_A, to_B, to_C, to_D, to_initial)
    threads.run(loops.selective_backward, (*ready, *found), (tuple(sizes), reverse, diagonal), sizes.units, work)
    of_A = to_A.sum(0)
    if not diagonal:
        to_dt = to_dt.sum(0)
        of_A = torch.unflatten(of_A.sum(1), 0, (sizes.spans, -1)).sum(1)
    return Gradients(to_x, to_dt, of_A, to_B.sum(0), to_C.sum(0), to_D.sum(0), to_initial)


def _sizes(inputs: Inputs) -> _Sizes:
    batch, tokens, width = inputs.x.shape
    groups, states = inputs.B.shape[2:]
    return _Sizes(batch, tokens, width, groups, states, groups if inputs.A.dim() == 2 else len(inputs.A))


def _complete(inputs: Inputs) -> tuple[Tensor, ...]:
    """The inputs with D."""
    x, dt, A, B, C, D = inputs
    return x, dt, A, B, C, x.new_zeros(x.shape[2]) if D is None else D


def compile_ahead() -> None:
    """Compiles all loops for float32, which the first calls would otherwise do, a second or so each."""
    x = torch.ones(1, 1, 1)
    linear_backward(x, x, linear_forward(x, x, None, False), None, False)
    inputs = Inputs(x, x, -x[0], x[None], x[None], None)
    y, final, checkpoints = selective_forward(inputs, None, False)
    selective_backward(y, final, inputs, checkpoints, False)
