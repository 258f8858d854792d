"""The selective scan with one decay a head (Mamba-2, 2405.21060) in the form of exported graphs: forward, for any
batch, in tensors of five axes at most, since runtimes of phones have no more.

It is the matrix form of ``composed``, and the states between chunks are found in that form too, so that a graph does
not grow with the tokens. Two scans of the same tokens, forth and back, share the large products: they fill the two
halves of one matrix. No token is moved. Letters: B batch, G group, R head in the group, H = G R head, K chunk, Q token
in the chunk, P channel in the head, S state.
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


class _States(NamedTuple):
    """What a scan found before each chunk and at its end: [B H, K, S, P] and [B H, S, P]."""

    before: Tensor
    final: Tensor


def selective_forward(inputs: Inputs, initial: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One scan: the function of that name in ``contract``."""
    y, (states,) = _scans([(inputs, reverse)], initial)
    batch = inputs.x.shape[0]

    def of_channels(state: Tensor) -> Tensor:
        """[B H, ..., S, P] -> [B, ..., D, S]."""
        parts = torch.unflatten(state.transpose(-1, -2), 0, (batch, -1)).movedim(1, -3)
        return parts.flatten(-3, -2)

    every = CHUNK // _chunk(inputs.x.shape[1])
    found = (states.before.flip(1) if reverse else states.before)[:, :: max(every, 1)]
    return y, of_channels(states.final), of_channels(found)


def both_directions(forth: Inputs, back: Inputs) -> Tensor:
    """The sum of two scans of one x, from the first token to the last and from the last to the first: [B, N, D]."""
    y, _ = _scans([(forth, False), (back, True)], None)
    return y


def _chunk(tokens: int) -> int:
    """About as many tokens in a chunk as there are chunks: both are squared."""
    return min(max(_SHORTEST, 1 << round(math.log2(tokens) / 2)), CHUNK, tokens)


def _scans(scans: Sequence[tuple[Inputs, bool]], initial: Tensor | None) -> tuple[Tensor, list[_States]]:
    """The sum of ``scans`` of one x, each with whether it is reversed; all of them start from ``initial``."""
    x = scans[0][0].x
    dtype = state_dtype(*scans[0][0])
    tokens, groups, heads = x.shape[1], scans[0][0].B.shape[2], scans[0][0].A.shape[0]
    size = _chunk(tokens)
    missing = -tokens % size
    front = scans[0][1] and len(scans) == 1  # chunks of a reversed scan are counted from its start

    def split(t: Tensor) -> Tensor:
        """[B, N, A, W] -> [B, A, K, Q, W]; a token that is added changes no state."""
        if missing:
            t = F.pad(t, (0, 0, 0, 0, missing, 0) if front else (0, 0, 0, 0, 0, missing))
        return torch.unflatten(t.to(dtype).transpose(1, 2), 2, (-1, size))

    value = split(torch.unflatten(x, 2, (heads, -1))).flatten(0, 1)
    start = None
    if initial is not None:
        start = torch.unflatten(initial.to(dtype), 1, (heads, -1)).flatten(0, 1).transpose(1, 2)
    weights, queries, states = list[Tensor](), list[Tensor](), list[_States]()
    for (_, dt, A, B, C, _), reverse in scans:
        ones = torch.ones(size, size, dtype=dtype, device=x.device)
        # What a token (row) finds: of the tokens before it (columns) and itself, in the order of the scan.
        found, before, last = (ones.triu(), ones.triu(1), 0) if reverse else (ones.tril(), ones.tril(-1), size - 1)
        step = split(dt[..., None]).transpose(-1, -2)
        log_decay = step * A.to(dtype)[:, None, None, None]
        # Running sums as products with a triangle, for few runtimes are fast at sums along an axis, and as sums of what
        # lies between two tokens: differences of running sums would lose digits.
        log_kept = log_decay @ found.T
        decay = ((found * log_decay) @ before).exp()
        key, query = split(B), split(C)
        scores = (query @ key.transpose(-1, -2)) * found

        def by_group(t: Tensor) -> Tensor:
            """[B, H, ...] -> [B G, R, ...]."""
            return t.reshape(-1, heads // groups, *t.shape[2:])

        def by_state(factor: Tensor, t: Tensor) -> Tensor:
            """[B, H, K, 1, Q] and [B, G, K, Q, S] -> their product [B H, K, Q, S]."""
            return (by_group(factor.transpose(-1, -2)) * t.flatten(0, 1)[:, None]).flatten(0, 1)

        weights.append(by_group(decay * step) * scores.flatten(0, 1)[:, None])
        to_end = decay[..., last : last + 1, :] * step
        added = by_state(to_end, key).transpose(-1, -2) @ value
        states.append(_between(added, log_kept[..., 0, last].flatten(0, 1), start, reverse))
        queries.append(by_state(log_kept.exp(), query))
    total = weights[0] if len(weights) == 1 else weights[0] + weights[1]
    y = total.flatten(0, 1) @ value
    if initial is not None or tokens > size:  # else there is nothing to find
        y = y + torch.cat(queries, -1) @ torch.cat([s.before for s in states], -2)
    y = torch.unflatten(y, 0, (-1, heads)).flatten(2, 3).transpose(1, 2).flatten(2)
    if missing:
        y = y[:, missing:] if front else y[:, :tokens]
    skips = [inputs.D for inputs, _ in scans if inputs.D is not None]
    if skips:
        y = y + x * (skips[0] if len(skips) == 1 else skips[0] + skips[1]).to(dtype)
    return y.to(x.dtype), states


def _between(added: Tensor, log_kept: Tensor, start: Tensor | None, reverse: bool) -> _States:
    """The states that a scan finds before each chunk, of what each adds [B H, K, S, P] and keeps [B H, K]."""
    count = added.shape[1]
    ones = torch.ones(count, count, dtype=added.dtype, device=added.device)
    earlier, last = (ones.triu(1), 0) if reverse else (ones.tril(-1), count - 1)
    passed = log_kept[:, None] * earlier
    decay = (passed @ earlier).exp() * earlier
    before = torch.unflatten(decay @ added.flatten(2), 2, added.shape[2:])
    if start is not None:
        before = before + passed.sum(2)[..., None, None].exp() * start[:, None]
    final = log_kept[:, last, None, None].exp() * before[:, last] + added[:, last]
    return _States(before, final)
