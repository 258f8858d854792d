"""The selective scan with one decay a head (Mamba-2, 2405.21060) in the form of exported graphs: forward, for any
batch, in tensors of five axes at most, since runtimes of phones have no more.

It is the matrix form of ``composed``, in few operators: what a runtime takes for each counts as much as the arithmetic.
The states between chunks are found in that form too, so that a graph does not grow with the tokens; the exponents of
all decays in a chunk are a product with a constant matrix of zeros and ones; and what a chunk finds of its own tokens
and of the states before it, in both directions, is one product. Letters: B batch, W scan (forth, back), G group, R head
in the group, H = G R head, K chunk, Q token in the chunk, P channel in the head, S state.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.nn.scan.contract import CHUNK, Inputs, state_dtype

_SHORTEST = 16
"""Chunk that a runtime still multiplies fast."""
_LONGEST = 32
"""Chunk whose matrix of exponents, of W 2 Q^3 numbers, is still small."""
_LEAST_STEP = 1e-30
"""Of what has a logarithm; a smaller step adds nothing."""


class Scans(NamedTuple):
    """Scans of the same tokens, with the tokens last: dt [B, W, H, N], A [W, H], B and C [B, W, G, S, N]."""

    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


class _States(NamedTuple):
    """What a scan found before each chunk and at its end: [B, H, K, S, P] and [B, H, S, P]."""

    before: Tensor
    final: Tensor


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One scan: the function of that name in ``contract``."""
    x, dt, A, B, C, D = inputs
    dtype = state_dtype(*inputs)
    start = None
    if initial is not None:
        start = torch.unflatten(initial.to(dtype), 1, (A.shape[0], -1)).transpose(2, 3)
    scans = Scans(*(v.to(dtype) for v in (dt.mT[:, None], A[None], *(v.movedim(1, -1)[:, None] for v in (B, C)))))
    y, states = _scan(x.to(dtype), scans, [reverse], start)
    assert states is not None
    if D is not None:
        y = y + x * D.to(dtype)

    def of_channels(state: Tensor) -> Tensor:
        """[B, H, ..., S, P] -> [B, ..., D, S]."""
        return state.mT.movedim(1, -3).flatten(-3, -2)

    every = CHUNK // _chunk(x.shape[1])
    found = (states.before.flip(2) if reverse else states.before)[:, :, :: max(every, 1)]
    return y.to(x.dtype), of_channels(states.final), of_channels(found)


def both_directions(x: Tensor, scans: Scans) -> Tensor:
    """The sum of two scans of x [B, N, D], from the first token to the last and from the last to the first, without
    what skips them: [B, N, D]."""
    return _scan(x, scans, [False, True], None)[0]


def _chunk(tokens: int) -> int:
    """About as many tokens in a chunk as there are chunks: both are squared."""
    return min(max(_SHORTEST, 1 << round(math.log2(tokens) / 2)), _LONGEST, tokens)


def _scan(x: Tensor, scans: Scans, reverse: Sequence[bool], start: Tensor | None) -> tuple[Tensor, _States | None]:
    """The sum of scans of x; they start from ``start`` [B, H, S, P]. Where there is one alone, with its states."""
    dt, rates, reads, writes = scans
    tokens, heads, groups, ways = x.shape[1], rates.shape[1], reads.shape[2], len(reverse)
    size = _chunk(tokens)
    missing = -tokens % size
    front = ways == 1 and reverse[0]  # chunks of a reversed scan are counted from its start
    if missing:  # a token that is added changes no state
        padding = (missing, 0) if front else (0, missing)
        dt, reads, writes = (F.pad(t, padding) for t in (dt, reads, writes))
        x = F.pad(x, (0, 0, *padding))
    count = x.shape[1] // size
    inside, ends, found, earlier = (constant.to(x) for constant in _constants(size, count, reverse))

    value = torch.unflatten(x, 2, (heads, -1)).transpose(1, 2).reshape(-1, heads * count, size, x.shape[2] // heads)
    key, query = (torch.unflatten(t.flatten(0, 2), 2, (count, size)).transpose(1, 2) for t in (reads, writes))

    # What a token leaves of the state and what it takes of its input, as logarithms [B, W, H K, 2 Q].
    log_decay = torch.unflatten(dt * rates[..., None], 3, (count, size))
    log_step = torch.unflatten(dt.clamp_min(_LEAST_STEP).log(), 3, (count, size))
    logs = torch.cat((log_decay, log_step), -1).flatten(2, 3)
    decay = (logs @ inside).exp().reshape(-1, heads // groups, count * size * size)
    scores = (key.mT @ query).reshape(-1, ways, groups * count, size * size) * found
    weights = decay * scores.reshape(-1, 1, count * size * size)
    # From a token (row) to one that finds it (column).
    *others, total = weights.reshape(-1, ways, heads * count, size, size).unbind(1)
    weights = sum(others, start=total)
    if count == 1 and ways > 1:  # there are no states to find
        return _joined(weights.mT @ value, heads, tokens, front), None

    def of_scans(factor: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """A factor [B, W, H K, Q] of t [B W G, K, S, Q] -> their product, of each scan [B, H K, S, Q]."""
        factor = factor.reshape(-1, heads // groups, count, 1, size)
        product = (factor * t.unsqueeze(1)).reshape(-1, ways, heads * count, *t.shape[2:])
        return product.unbind(1)

    to_end, kept = (logs @ ends).exp().chunk(2, dim=-1)
    added = [torch.unflatten(of_scan @ value, 1, (heads, count)).flatten(3) for of_scan in of_scans(to_end, key)]
    # The same between chunks: decays [B, H, K, K] from the chunk (column) that adds, states [B, H, K, S P].
    passed = log_decay.sum(-1)[..., None, :] * earlier
    between = ((passed @ earlier).exp() * earlier).unbind(1)
    before = [decays @ states for decays, states in zip(between, added, strict=True)]
    if start is not None:
        before = [passed[:, 0].sum(-1, keepdim=True).exp() * start.flatten(2)[:, :, None] + before[0]]

    def by_state(t: Tensor) -> Tensor:
        """[B, H, ..., S P] -> [B, H, ..., S, P]."""
        return torch.unflatten(t, -1, (-1, value.shape[3]))

    left = torch.cat((weights, *of_scans(kept, query)), 2)
    right = torch.cat((value, *(by_state(states).flatten(1, 2) for states in before)), 2)
    y = _joined(left.mT @ right, heads, tokens, front)
    if ways > 1:
        return y, None
    last = 0 if reverse[0] else count - 1
    final = log_decay[:, 0, :, last].sum(-1, keepdim=True).exp() * before[0][:, :, last] + added[0][:, :, last]
    return y, _States(by_state(before[0]), by_state(final))


def _joined(y: Tensor, heads: int, tokens: int, front: bool) -> Tensor:
    """[B, H K, Q, P] -> [B, N, D] without what was added to fill a chunk."""
    y = torch.unflatten(y, 1, (heads, -1)).flatten(2, 3).transpose(1, 2).flatten(2)
    if y.shape[1] == tokens:
        return y
    return y[:, -tokens:] if front else y[:, :tokens]


def _constants(size: int, count: int, reverse: Sequence[bool]) -> tuple[Tensor, ...]:
    """Zeros and ones, stacked over scans: which logarithms add up to which decay.

    For ``logs`` [.., 2 Q]: of what token r (rows of Q x Q) adds to what q finds, [W, 2 Q, Q Q], and [W, 2 Q, 2 Q], of
    what it adds to the state at the end of the chunk, and what it finds of the state before it. Products with sums of
    what lies between two tokens: differences of running sums would lose digits. Then [W, 1, Q Q], which q finds which
    r, and [W, 1, K, K], which chunk (row) comes after which.
    """
    inside, ends, found, earlier = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    token, chunk = (torch.ones(length).cumsum(0) for length in (size, count))  # LiteRT cannot count otherwise
    own = (token[:, None] == token).to(token)
    for reversed_ in reverse:
        finds = (token[:, None] >= token).to(token)  # q (row) of k
        strictly = (token[:, None] > token).to(token)
        chunks = (chunk[:, None] > chunk).to(token)
        if reversed_:
            finds, strictly, chunks = finds.T, strictly.T, chunks.T
        decays = strictly[:, :, None] * finds.T[:, None]  # [k, r, q]: k after r, up to q
        steps = own[:, :, None].expand(size, size, size)
        whole = torch.cat((decays, steps))
        last = 0 if reversed_ else size - 1
        ends.append(torch.cat((whole[:, :, last], torch.cat((finds.T, torch.zeros(size, size)))), 1))
        inside.append(whole.flatten(1))
        found.append(finds.T.reshape(1, -1))
        earlier.append(chunks[None])
    return tuple(torch.stack(constants) for constants in (inside, ends, found, earlier))
