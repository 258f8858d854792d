"""The scans as compositions of torch operators: for every device, for export, and where no kernel serves.

No loop runs over the tokens of a graph, so that it does not grow with them, and nothing is divided by running
products, which underflow. Inside, channels are [G, R], group and channel in the group, and reversed scans are
forward ones of flipped tokens. Autocast is off here: it would round the factors of products, and states with them.
Signatures: ``contract``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.nn.norms import without_autocast
from pochade.nn.scan.contract import CHUNK, Gradients, Inputs, state_dtype

Solver = Callable[[Tensor, Tensor, Tensor], Tensor]
_STEP = 16
_SEGMENT = 4 * CHUNK  # tokens whose states [B, tokens, D, S] exist at once


def _recurrence(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """h_n = a_n h_{n-1} + b_n, all [B, N, D]: pieces of 16 tokens side by side, then their ends in the same way."""
    batch, tokens, width = a.shape
    if tokens <= _STEP:
        h, states = initial, list[Tensor]()
        for a_n, b_n in zip(a.unbind(1), b.unbind(1), strict=True):
            h = torch.addcmul(b_n, a_n, h)
            states.append(h)
        return torch.stack(states, 1)
    missing = -tokens % _STEP
    if missing:
        a = torch.cat((a, a.new_ones(batch, missing, width)), 1)
        b = torch.cat((b, b.new_zeros(batch, missing, width)), 1)
    product, local = torch.ones_like(initial)[:, None], torch.zeros_like(initial)[:, None]
    products, locals_ = list[Tensor](), list[Tensor]()
    for a_n, b_n in zip(*(torch.unflatten(v, 1, (-1, _STEP)).unbind(2) for v in (a, b)), strict=True):
        product, local = product * a_n, torch.addcmul(b_n, a_n, local)
        products.append(product)
        locals_.append(local)
    ends = _recurrence(product, local, initial)
    found = _before(initial, ends)[:, :, None]
    h = torch.addcmul(torch.stack(locals_, 2), torch.stack(products, 2), found)
    return h.flatten(1, 2)[:, :tokens]


def tree(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """As ``_recurrence``: pairs of tokens are joined, their ends found in the same way, from those the tokens between.

    Half as many operators or fewer, for an eighth more time (256 tokens, ONNX Runtime): right for a runtime that keeps
    6 kB for each operator of a graph.
    """
    batch, tokens, width = a.shape
    if tokens == 1:
        return b + a * initial[:, None]
    if tokens % 2:
        h = tree(a[:, :-1], b[:, :-1], initial)
        return torch.cat((h, b[:, -1:] + a[:, -1:] * h[:, -1:]), 1)
    (a_first, a_second), (b_first, b_second) = (v.reshape(batch, -1, 2 * width).chunk(2, 2) for v in (a, b))
    ends = tree(a_second * a_first, b_second + a_second * b_first, initial)
    between = b_first + a_first * _before(initial, ends)
    return torch.cat((between, ends), 2).reshape(batch, tokens, width)


def _before(initial: Tensor, h: Tensor) -> Tensor:
    """What every token of h [B, N, ...] found: initial [B, ...], then all of h but the last."""
    if h.shape[1] == 1:  # else of nothing, which some runtimes have no tensor for
        return initial[:, None]
    return torch.cat((initial[:, None], h[:, :-1]), 1)


def linear_forward(
    a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool, *, solve: Solver = _recurrence
) -> Tensor:
    dtype = state_dtype(a, b)
    start = torch.zeros_like(b[:, 0], dtype=dtype) if initial is None else initial.to(dtype)
    h = solve(_ordered(a.to(dtype), reverse), _ordered(b.to(dtype), reverse), start)
    return _ordered(h, reverse).to(torch.promote_types(a.dtype, b.dtype))


def linear_backward(
    grad: Tensor, a: Tensor, h: Tensor, initial: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(a, h)
    grad, a, h = (_ordered(v.to(dtype), reverse) for v in (grad, a, h))
    start = torch.zeros_like(h[:, 0]) if initial is None else initial.to(dtype)
    grad_b = _adjoint(a, grad, torch.zeros_like(start))
    grad_a = grad_b * _before(start, h)
    return _ordered(grad_a, reverse), _ordered(grad_b, reverse), a[:, 0] * grad_b[:, 0]


def _adjoint(a: Tensor, grad: Tensor, end: Tensor) -> Tensor:
    """l_n = a_{n+1} l_{n+1} + grad_n from the last token to the first, whose a_{n+1} l_{n+1} is ``end``."""
    following = torch.cat((a[:, 1:], torch.ones_like(a[:, :1])), 1)
    return _recurrence(following.flip(1), grad.flip(1), end).flip(1)


def _ordered(t: Tensor, reverse: bool) -> Tensor:
    return t.flip(1) if reverse else t


def selective_forward(
    inputs: Inputs, initial: Tensor | None, reverse: bool, *, segment: int = _SEGMENT
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(inputs.x):
        dtype = state_dtype(*inputs)
        x, dt, A, B, C = _grouped(inputs, dtype, reverse)
        tokens, groups = x.shape[1:3]
        zeros = x.new_zeros(*x[:, 0].shape, B.shape[3])
        start = zeros if initial is None else torch.unflatten(initial.to(dtype), 1, (groups, -1))
        if inputs.A.dim() == 1:
            y, final, checkpoints = _matrix_forward(x, dt, A, B, C, start)
        else:
            outputs, kept, final = list[Tensor](), list[Tensor](), start
            for first in range(0, tokens, segment):
                part = slice(first, first + segment)
                _, found, h = _states(x[:, part], dt[:, part], A, B[:, part], final)
                outputs.append((h @ C[:, part, :, :, None])[..., 0])
                kept.append(found[:, ::CHUNK])
                final = h[:, -1]
            y, checkpoints = torch.cat(outputs, 1), torch.cat(kept, 1)
        y = y.flatten(2)
        if inputs.D is not None:
            y = y + x.flatten(2) * inputs.D.to(dtype)
        return _ordered(y, reverse).to(inputs.x.dtype), final.flatten(1, 2), checkpoints.flatten(2, 3)


def selective_backward(
    grad_y: Tensor, grad_final: Tensor, inputs: Inputs, checkpoints: Tensor, reverse: bool
) -> Gradients:
    with without_autocast(inputs.x):
        dtype = checkpoints.dtype
        x, dt, A, B, C = _grouped(inputs, dtype, reverse)
        groups = B.shape[2]
        gy = torch.unflatten(_ordered(grad_y.to(dtype), reverse), 2, (groups, -1))
        carry = torch.unflatten(grad_final.to(dtype), 1, (groups, -1))
        kept = torch.unflatten(checkpoints, 2, (groups, -1))
        if inputs.A.dim() == 1:
            to_x, to_dt, to_A, to_B, to_C, carry = _matrix_backward(gy, carry, x, dt, A, B, C, kept)
        else:
            to_A, pieces = torch.zeros_like(A), list[list[Tensor]]()
            for first in reversed(range(0, x.shape[1], _SEGMENT)):
                part = slice(first, first + _SEGMENT)
                piece = x[:, part], dt[:, part], A, B[:, part], C[:, part]
                of_A, carry, *others = _segment_backward(gy[:, part], carry, *piece, kept[:, first // CHUNK])
                to_A = to_A + of_A
                pieces.insert(0, others)
            to_x, to_dt, to_B, to_C = (torch.cat(parts, 1) for parts in zip(*pieces, strict=True))
        to_x, to_dt = to_x.flatten(2), to_dt.flatten(2)
        to_D = (gy * x).sum((0, 1)).flatten()
        if inputs.D is not None:
            to_x = to_x + gy.flatten(2) * inputs.D.to(dtype)
        to_x, to_dt, to_B, to_C = (_ordered(t, reverse) for t in (to_x, to_dt, to_B, to_C))
        return Gradients(to_x, to_dt, to_A.reshape(inputs.A.shape), to_B, to_C, to_D, carry.flatten(1, 2))


def _grouped(inputs: Inputs, dtype: torch.dtype, reverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x [B, N, G, R], dt [B, N, G, R or heads / G], A [G, R, S] or [G, heads / G], B and C [B, N, G, S], in order."""
    groups = inputs.B.shape[2]
    x, dt, B, C = (_ordered(t.to(dtype), reverse) for t in (inputs.x, inputs.dt, inputs.B, inputs.C))
    A = torch.unflatten(inputs.A.to(dtype), 0, (groups, -1))
    return torch.unflatten(x, 2, (groups, -1)), torch.unflatten(dt, 2, (groups, -1)), A, B, C


# One decay a channel and state (Mamba-1): the states of a segment are written out, [B, n, G, R, S].


def _states(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decays, the states that the tokens find, and those that they leave."""
    decay = torch.exp(dt[..., None] * A)
    driven = (dt * x)[..., None] * B[:, :, :, None]
    h = _recurrence(decay.flatten(2), driven.flatten(2), start.flatten(1)).view_as(decay)
    return decay, _before(start, h), h


def _segment_backward(
    gy: Tensor, carry: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of A, of the state that the segment found, and of x, dt, B and C."""
    decay, found, h = _states(x, dt, A, B, start)
    driven = gy[..., None] * C[:, :, :, None]
    gradient = _adjoint(decay.flatten(2), driven.flatten(2), carry.flatten(1)).view_as(decay)
    to_exponent = gradient * found * decay
    to_dtx = (gradient @ B[..., None])[..., 0]
    to_B = ((dt * x)[:, :, :, None] @ gradient)[..., 0, :]
    to_C = (gy[:, :, :, None] @ h)[..., 0, :]
    to_dt = (to_exponent * A).sum(4) + to_dtx * x
    to_A = (to_exponent * dt[..., None]).sum((0, 1))
    return to_A, gradient[:, 0] * decay[:, 0], to_dtx * dt, to_dt, to_B, to_C


# One decay a head (Mamba-2, 2405.21060, section 6): matrix products in chunks of 64 tokens, states between them only.
# Letters: B batch, K chunk, G group, R head in the group, Q token in the chunk, P channel in the head, S state.


class _Chunks:
    """The tensors of the matrix form, [B, K, G, R, Q, ...] or [B, K, G, 1, Q, S] where heads share."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.tokens = x.shape[1]
        self.size = min(CHUNK, self.tokens)
        self.x = self.split(torch.unflatten(x, 3, (A.shape[1], -1)))
        self.dt = self.split(dt[..., None])
        self.key, self.query = self.split(B[:, :, :, None]), self.split(C[:, :, :, None])
        log_decay = self.dt * A[:, :, None, None]
        # Sums of the logarithms between two tokens, not differences of running sums: those cancel.
        later = torch.ones(self.size, self.size, dtype=torch.bool, device=x.device).tril(-1)
        between = (log_decay * later).cumsum(-2)
        self.decay = between.exp().tril()  # from token j (column) to token i (row)
        self.from_start = log_decay.cumsum(-2).exp()
        self.to_end = self.decay[..., -1:, :].transpose(-1, -2)
        self.value = self.dt * self.x
        self.scores = self.query @ self.key.transpose(-1, -2)

    def split(self, t: Tensor) -> Tensor:
        """[B, N, G, R, ...] -> [B, K, G, R, Q, ...]; tokens that complete the last chunk change nothing."""
        missing = -self.tokens % self.size
        if missing:
            t = torch.cat((t, t.new_zeros(t.shape[0], missing, *t.shape[2:])), 1)
        return torch.unflatten(t, 1, (-1, self.size)).permute(0, 1, 3, 4, 2, 5)

    def join(self, t: Tensor) -> Tensor:
        """The inverse of ``split``."""
        return t.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)[:, : self.tokens]

    def carry(self, driven: Tensor, start: Tensor) -> Tensor:
        """States [B, K, G, R, P, S] after each chunk, from what each adds and the one before the first."""
        whole = self.from_start[..., -1:, :].expand_as(driven)
        return _recurrence(whole.flatten(2), driven.flatten(2), start.flatten(1)).view_as(driven)

    def carry_back(self, driven: Tensor, end: Tensor) -> Tensor:
        """Gradients of the states before each chunk, from what each adds and that of the last state."""
        whole = self.from_start[..., -1:, :].expand_as(driven)
        before = _recurrence(whole.flatten(2).flip(1), driven.flatten(2).flip(1), end.flatten(1))
        return before.flip(1).view_as(driven)


def _matrix_forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    c = _Chunks(x, dt, A, B, C)
    state = torch.unflatten(start, 2, (A.shape[1], -1))
    ends = c.carry((c.to_end * c.value).transpose(-1, -2) @ c.key, state)
    found = _before(state, ends)
    y = (c.decay * c.scores) @ c.value + c.from_start * (c.query @ found.transpose(-1, -2))
    return c.join(y).flatten(3), ends[:, -1].flatten(2, 3), found.flatten(3, 4)


def _matrix_backward(
    gy: Tensor, grad_final: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, checkpoints: Tensor
) -> tuple[Tensor, ...]:
    c = _Chunks(x, dt, A, B, C)
    heads = A.shape[1]
    grad, found = c.split(torch.unflatten(gy, 3, (heads, -1))), torch.unflatten(checkpoints, 3, (heads, -1))
    end = torch.unflatten(grad_final, 2, (heads, -1))
    before = c.carry_back((c.from_start * grad).transpose(-1, -2) @ c.query, end)
    leaving = torch.cat((before[:, 1:], end[:, None]), 1)

    mixed = c.decay * (grad @ c.value.transpose(-1, -2))
    to_scores = mixed.sum(3, keepdim=True)
    value_from_end, grad_to_found = c.key @ leaving.transpose(-1, -2), grad @ found
    to_value = (c.decay * c.scores).transpose(-1, -2) @ grad + c.to_end * value_from_end
    to_query = to_scores @ c.key + (c.from_start * grad_to_found).sum(3, keepdim=True)
    to_key = to_scores.transpose(-1, -2) @ c.query + (c.to_end * (c.value @ leaving)).sum(3, keepdim=True)

    # Token m's decay enters what passes over it: pairs i >= m > j, the found state on its way to i >= m, values of
    # j < m on their way to the end, and the found state on its way through the whole chunk.
    pairs = (mixed * c.scores).tril(-1)
    over_rows = c.from_start * (grad_to_found * c.query).sum(-1, keepdim=True)
    over_ends = c.to_end * (value_from_end * c.value).sum(-1, keepdim=True)
    through = (c.from_start[..., -1:, :] * found * leaving).sum((-2, -1), keepdim=True)
    to_log = through + over_rows.flip(-2).cumsum(-2).flip(-2) + F.pad(over_ends.cumsum(-2)[..., :-1, :], (0, 0, 1, 0))
    to_log = to_log + F.pad(pairs.cumsum(-1).flip(-2).cumsum(-2).flip(-2).diagonal(-1, -2, -1), (1, 0))[..., None]

    to_x = to_value * c.dt
    to_dt = (to_value * c.x).sum(-1, keepdim=True) + to_log * A[:, :, None, None]
    to_A = (to_log * c.dt).sum((0, 1, 4, 5))
    return (
        c.join(to_x).flatten(3),
        c.join(to_dt)[..., 0],
        to_A,
        c.join(to_key)[:, :, :, 0],
        c.join(to_query)[:, :, :, 0],
        before[:, 0].flatten(2, 3),
    )
