"""The selective scan with one decay a head (Mamba-2, 2405.21060) in the form of exported graphs: forward, for any
batch, in tensors of five axes at most, since runtimes of phones have no more.

It is the matrix form of ``composed``, in few operators: what a runtime takes for each counts as much as the arithmetic.
The states between chunks are found in that form too, so that a graph does not grow with the tokens; the exponents of
all decays in a chunk are a product with a constant matrix of zeros and ones. Of two directions, one fills the half of a
chunk's matrix below the diagonal and the other that above. Letters: B batch, W scan (forth, back), G group, R head in
the group, H = G R head, K chunk, Q token in the chunk, P channel in the head, S state.
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
"""Chunk whose matrix of exponents, of 4 Q^3 numbers, is still small."""
_LEAST_STEP = 1e-30
"""Of what has a logarithm; a smaller step adds nothing."""


class Scans(NamedTuple):
    """Scans of the same tokens, with the tokens last: dt [B, G, W, R, N], A [G, W, R], B and C [B, G, W, S, N]."""

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
    heads, groups = A.shape[0], B.shape[2]
    start = None
    if initial is not None:
        start = torch.unflatten(initial.to(dtype), 1, (heads, -1)).transpose(2, 3)
    steps = torch.unflatten(dt.to(dtype).mT, 1, (groups, 1, -1))
    read, write = (v.to(dtype).permute(0, 2, 3, 1)[:, :, None] for v in (B, C))
    scans = Scans(steps, A.to(dtype).reshape(groups, 1, -1), read, write)
    y, states = _scan(heads_first(x.to(dtype), heads), scans, [reverse], start)
    assert states is not None
    y = y.transpose(1, 2).flatten(2)
    if D is not None:
        y = y + x * D.to(dtype)

    def of_channels(state: Tensor) -> Tensor:
        """[B, H, ..., S, P] -> [B, ..., D, S]."""
        return state.mT.movedim(1, -3).flatten(-3, -2)

    every = CHUNK // _chunk(x.shape[1], B.shape[3])
    found = (states.before.flip(2) if reverse else states.before)[:, :, :: max(every, 1)]
    return y.to(x.dtype), of_channels(states.final), of_channels(found)


def scan_paths(
    x: Tensor,
    selection: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    orders: Tensor,
    inverses: Tensor,
    ways: int,
    state_size: int,
) -> Tensor:
    """The sum of scans of x along paths, without D.

    Args:
        x: [B, N, E] in raster order.
        selection: [B, N, G P] in raster order, of each scan dt, B and C.
        dt_bias: [G, R], added to dt before softplus. A_log: [G R], logarithms of -A.
        orders: [G, N], in which order each scan meets the tokens. inverses: [G, N], the way back.
        ways: 2 where each second scan goes the path of the one before it from its end, else 1.
        state_size: S.

    Returns:
        [B, N, E] in raster order.
    """
    heads = dt_bias.shape[1]
    paths, returns = orders[::ways].unbind(0), inverses[::ways].unbind(0)
    parts = zip(selection.chunk(len(paths), dim=2), paths, strict=True)
    own = torch.cat([part.index_select(1, order) for part, order in parts], 2).mT
    widths = [heads, state_size, state_size]
    dt, read, write = torch.split(torch.unflatten(own, 1, (len(paths), ways, -1)), widths, dim=3)
    bias, rates = (torch.unflatten(v.flatten(), 0, (len(paths), ways, heads)) for v in (dt_bias, A_log))
    scans = Scans(F.softplus(dt + bias[..., None]), -torch.exp(rates), read, write)
    return back(_scan(along(x, paths, heads), scans, (False, True)[:ways], None)[0], returns)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """[B, N, D] -> [B, H, N, P]."""
    return torch.unflatten(x, 2, (heads, -1)).transpose(1, 2)


def along(x: Tensor, orders: Sequence[Tensor], heads: int) -> Tensor:
    """The values of x [B, N, D] with its tokens in each of the orders [N]: [B, orders heads, N, P].

    Tokens and heads are moved at once, which reads and writes them once.
    """
    head = torch.arange(heads, device=x.device)[:, None]
    places = torch.cat([(order * heads + head).flatten() for order in orders])
    moved = torch.unflatten(x, 2, (heads, -1)).flatten(1, 2).index_select(1, places)
    return torch.unflatten(moved, 1, (len(orders) * heads, -1))


def back(value: Tensor, inverses: Sequence[Tensor]) -> Tensor:
    """The inverse of ``along``, given the inverses of its orders, summed over these: [B, N, D]."""
    heads, tokens = value.shape[1] // len(inverses), value.shape[2]
    rows = value.flatten(1, 2)

    def of_path(path: int, inverse: Tensor) -> Tensor:
        head = torch.arange(path * heads, (path + 1) * heads, device=value.device)
        moved = rows.index_select(1, (head * tokens + inverse[:, None]).flatten())
        return torch.unflatten(moved, 1, (tokens, -1)).flatten(2)

    first, *others = (of_path(path, inverse) for path, inverse in enumerate(inverses))
    return sum(others, start=first)


def _chunk(tokens: int, states: int) -> int:
    """Tokens in a chunk: their number is squared, and so is that of chunks, each of which has ``states``."""
    return min(max(_SHORTEST, 2 ** round(math.log2(tokens * states / 8) / 2)), _LONGEST, tokens)


def _scan(value: Tensor, scans: Scans, reverse: Sequence[bool], start: Tensor | None) -> tuple[Tensor, _States | None]:
    """The sum of scans of values; they start from ``start`` [B, H, S, P]. Where there is one alone, with its states."""
    dt, rates, reads, writes = scans
    tokens, heads, groups, ways = value.shape[2], value.shape[1], rates.shape[0], len(reverse)
    size = _chunk(tokens, ways * reads.shape[3])
    missing = -tokens % size
    front = ways == 1 and reverse[0]  # chunks of a reversed scan are counted from its start
    if missing:  # a token that is added changes no state
        padding = (missing, 0) if front else (0, missing)
        dt, reads, writes = (F.pad(t, padding) for t in (dt, reads, writes))
        value = F.pad(value, (0, 0, *padding))
    count = value.shape[2] // size
    value = value.reshape(-1, heads * count, size, value.shape[3])
    constants = _constants(size, count, reverse)
    inside, ends, finds, own, earlier = (constant.to(value) for constant in constants)

    # Logarithms of what a token leaves of the state (A dt) and of what it takes of its input (dt).
    log_decay = torch.unflatten((dt * rates[..., None]).flatten(0, 1), 3, (count, size))
    log_step = torch.unflatten(dt.clamp_min(_LEAST_STEP).log().flatten(0, 1), 3, (count, size))
    logs = torch.cat((log_decay, log_step), 1).permute(0, 2, 3, 1, 4).reshape(-1, heads * count, 2 * ways * size)

    def in_chunks(t: Tensor) -> Tensor:
        """[B, G, W, S, N] -> [B G, K W, S, Q]."""
        return torch.unflatten(t.flatten(0, 1), 3, (count, size)).permute(0, 3, 1, 2, 4).flatten(1, 2)

    key, query = in_chunks(reads), in_chunks(writes)
    decay = (logs @ inside).exp().reshape(-1, heads // groups, count * size * size)
    weights = _weights(decay, key, query, dt, finds, own)
    y = weights @ value
    if count == 1 and ways > 1:  # there are no states to find
        return _joined(y, heads, tokens, front), None

    def of_heads(factor: Tensor, t: Tensor) -> Tensor:
        """A factor [B, H K, W Q] of t [B G, K W, S, Q] -> their product [B, H K, W S, Q]."""
        product = factor.reshape(-1, heads // groups, count * ways, 1, size) * t.unsqueeze(1)
        return product.reshape(-1, heads * count, ways * t.shape[2], size)

    to_end, kept = (logs @ ends).exp().chunk(2, dim=-1)
    added = (of_heads(to_end, key) @ value).reshape(-1, heads, count * ways, key.shape[2] * value.shape[3])
    # The same between chunks: decays [B, H, K W, K W] from the chunk (column) that adds.
    whole = log_decay.sum(-1).permute(0, 2, 3, 1).reshape(-1, heads, 1, count * ways)
    passed = whole * earlier
    before = ((passed @ earlier).exp() * earlier) @ added
    if start is not None:
        before = before + passed.sum(-1, keepdim=True).exp() * start.flatten(2).unsqueeze(2)

    found = before.reshape(-1, heads * count, ways * key.shape[2], value.shape[3])
    y = _joined(y + of_heads(kept, query).mT @ found, heads, tokens, front)
    if ways > 1:
        return y, None
    last = 0 if reverse[0] else count - 1
    final = whole[:, :, 0, last, None].exp() * before[:, :, last] + added[:, :, last]
    return y, _States(*(torch.unflatten(t, -1, (-1, value.shape[3])) for t in (before, final)))


def _weights(decay: Tensor, key: Tensor, query: Tensor, dt: Tensor, finds: Tensor, own: Tensor) -> Tensor:
    """Of what a token (row) of a chunk finds of each other, for ``decay`` [B G, R, K Q Q]: [B, H K, Q, Q]."""
    ways, heads, size = dt.shape[2], dt.shape[1] * dt.shape[3], own.shape[0]
    forth, *back = torch.unflatten(query.mT @ key, 1, (-1, ways)).unbind(2)
    scores = torch.where(finds > 0, forth, back[0]) if back else forth * finds
    weights = (decay * scores.flatten(1).unsqueeze(1)).reshape(-1, heads * scores.shape[1], size, size)
    if not back:
        return weights
    # What a token finds of itself on the way back.
    itself = torch.unflatten((key * query).sum(2), 1, (-1, ways))[:, :, 1].flatten(1).unsqueeze(1)
    itself = itself * dt[:, :, 1].flatten(0, 1)
    return weights + itself.reshape(-1, heads * scores.shape[1], size, 1) * own


def _joined(y: Tensor, heads: int, tokens: int, front: bool) -> Tensor:
    """[B, H K, Q, P] -> [B, H, N, P] without what was added to fill a chunk."""
    y = torch.unflatten(y, 1, (heads, -1)).flatten(2, 3)
    if y.shape[2] == tokens:
        return y
    return y[:, :, -tokens:] if front else y[:, :, :tokens]


def _constants(size: int, count: int, reverse: Sequence[bool]) -> tuple[Tensor, ...]:
    """Zeros and ones: which logarithms add up to which decay.

    For ``logs`` [.., 2 W Q], decays and then steps of each scan: of what token q (rows of Q x Q) finds of r,
    [2 W Q, Q Q], and of what a token adds to the state at the end of the chunk and finds of the state before it,
    [2 W Q, 2 W Q]. They are sums of what lies between two tokens: differences of running sums would lose digits. Then
    where q finds r in the first scan, [Q, Q], the diagonal [Q, Q], and which chunk (row) comes after which in the same
    scan, [K W, K W].
    """
    token, chunk = (torch.ones(length).cumsum(0) for length in (size, count))  # LiteRT cannot count otherwise
    decays, steps, finds = list[Tensor](), list[Tensor](), list[Tensor]()
    for way, reversed_ in enumerate(reverse):
        place = -token if reversed_ else token
        own = (place[:, None] == place).to(token)
        finds.append((place[:, None] >= place).to(token))  # q (row) of r
        up_to = finds[way].T
        decays.append(up_to[:, :, None] * (1 - up_to)[:, None])  # [k, q, r]: k after r, up to q
        steps.append(own[:, None] * (finds[way] - own if way else finds[way]))  # the diagonal is the first scan's
    inside = torch.cat(decays + steps).flatten(1)

    def of_ways(t: Tensor) -> tuple[Tensor, Tensor]:
        """Where in its scan and in which scan an item is: [W, items]."""
        signs = torch.stack([-torch.ones_like(t) if reversed_ else torch.ones_like(t) for reversed_ in reverse])
        return t * signs, signs

    place, sign = (t.flatten() for t in of_ways(token))
    same = (sign[:, None] == sign).to(token)
    later, own = same * (place[:, None] > place), same * (place[:, None] == place)
    ends = torch.cat((torch.cat((later, own)), torch.cat((same - later, torch.zeros_like(own)))), 1)
    place, sign = (t.T.flatten() for t in of_ways(chunk))
    earlier = (sign[:, None] == sign).to(token) * (place[:, None] > place)
    return inside, ends, finds[0], (token[:, None] == token).to(token), earlier
