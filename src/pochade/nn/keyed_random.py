"""Random numbers that are a function of their keys: each row the same in any batch, on any device, with no generator.

A row's 64-bit key is hashed with the number of its stream to two words, and each column's counter is hashed with both
to 32 bits. The bits are the same on every device; what is computed from them agrees to a few units in the last place.
Numbers of one key and one stream are made of the same bits: quantities that are to be independent need streams of
their own. Not for secrets.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_MASK = 2**32 - 1
_STEP = 0x9E3779B9  # 2^32 divided by the golden ratio: keeps neighbouring counters apart
_STEP_64 = 0x9E3779B97F4A7C15
# The 32-bit hash "triple32" of C. Wellons' search (github.com/skeeto/hash-prospector), without its last shift.
_ROUNDS = ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB))
_SHUFFLE_ROUNDS = 24
_BLOCK = 2**15
"""Numbers that a thread works on at once on a CPU: they stay in its cache, and below this torch uses one thread."""


def sample_keys(seed: int, positions: Tensor) -> Tensor:
    """Keys [B] int64 in [0, 2^63) of the samples at ``positions`` [B] int64 of the run with ``seed``."""
    start = _mix_64(torch.tensor(_signed(seed, 64), device=positions.device))
    return _mix_64(positions * _signed(_STEP_64, 64) + start) & (2**63 - 1)


def keyed_uniform(keys: Tensor, columns: int, stream: int = 0) -> Tensor:
    """Uniform numbers [B, columns] float32 in [0, 1), multiples of 2^-24, from keys [B] int64."""
    out = torch.empty(len(keys), columns, device=keys.device)
    for block, bits in _blocks(keys, out, stream):
        block.copy_(bits).mul_(2**-24).add_(0.5)
    return out


def keyed_normal(keys: Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Standard normal numbers [B, *shape] float32 from keys [B] int64, at most 5.42 in size.

    The quantile function of the normal distribution at the midpoints of 2^24 equal intervals.
    """
    out = torch.empty(len(keys), math.prod(shape), device=keys.device)
    for block, bits in _blocks(keys, out, stream):
        block.copy_(bits).add_(0.5).mul_(2**-23).erfinv_().mul_(math.sqrt(2))
    return out.view(-1, *shape)


def keyed_integers(keys: Tensor, high: Tensor | int, stream: int = 0) -> Tensor:
    """Integers [B] int64 in [0, ``high``), from keys [B] int64; ``high`` is from 1 to 2^40, or [B] int64 such."""
    return (_row_hash(keys, stream) & (2**63 - 1)) % high


def permuted(seed: int, positions: Tensor, length: int) -> Tensor:
    """Entry ``p % length`` of a permutation of [0, length) that belongs to ``seed`` and the epoch ``p // length``.

    The swap-or-not shuffle (Hoang, Morris and Rogaway 2012, "An enciphering scheme based on a card shuffle"): in each
    round x and K - x (mod length) change places or not, for a random K, by a random bit of the larger of the two.

    Args:
        positions: [B] int64, not negative.
        length: from 1 to 2^40.
    """
    epoch_keys = sample_keys(seed ^ _STEP_64, positions // length)
    rounds = torch.arange(2 * _SHUFFLE_ROUNDS, device=positions.device)[:, None]
    places, choices = _mix_64(epoch_keys + rounds * _signed(_STEP_64, 64)).chunk(2)
    places = (places & (2**63 - 1)) % length
    entries = positions % length
    for place, choice in zip(places, choices, strict=True):
        partner = (place - entries) % length
        bits = (torch.maximum(entries, partner) + choice) * _signed(0xBF58476D1CE4E5B9, 64)
        bits = (bits ^ (bits >> 32)) * _signed(0x94D049BB133111EB, 64)
        entries = torch.where(bits < 0, partner, entries)
    return entries


def row_keys(*parts: Tensor) -> Tensor:
    """A key [B] int64 in [0, 2^32) for each row, from the bits of what is in it.

    Args:
        parts: [B, ...] of any floating type, compared as float32.
    """
    values = torch.cat([part.detach().flatten(1).float() for part in parts], dim=1).contiguous()
    bits = values.view(torch.int32).long() & _MASK
    columns = torch.arange(bits.shape[1], device=bits.device) * _STEP
    return _mix_32((bits + columns) & _MASK).sum(1) & _MASK


def keyed_truncated_normal(keys: Tensor, rows: int, columns: int, *, deviation: float, bound: float = 3.0) -> Tensor:
    """Normal noise of ``deviation``, cut at ``bound`` deviations: [B] int64 keys -> [B, rows, columns] float32.

    Models were trained with these numbers: their hash is another than that of ``keyed_normal``, and stays.
    """
    counter = torch.arange(rows * columns, device=keys.device)
    bits = _mix_32(_mix_32(counter + _STEP & _MASK) ^ _mix_32(keys)[:, None])
    uniform = ((bits >> 8).float() + 0.5) / 2**24
    normal = torch.erfinv((2 * uniform - 1) * math.erf(bound / math.sqrt(2)))
    return (normal * (math.sqrt(2) * deviation)).view(-1, rows, columns)


def _signed(value: int, bits: int) -> int:
    """``value`` modulo 2^bits as the two's complement integer that torch takes."""
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def _mix_32(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3, a bijection of 32-bit integers held in 64 bits."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


def _mix_64(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (variant 13 of D. Stafford), a bijection of int64."""
    x = (x ^ (x >> 30 & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ (x >> 27 & (2**37 - 1))) * _signed(0x94D049BB133111EB, 64)
    return x ^ (x >> 31 & (2**33 - 1))


def _row_hash(keys: Tensor, stream: int) -> Tensor:
    """64 bits [B] int64 of a row's key and a stream."""
    return _mix_64(_mix_64(keys) + _signed((stream + 1) * _STEP_64, 64))


def _blocks(keys: Tensor, out: Tensor, stream: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of ``out`` [B, N] that together are all of it, each with 24 random bits, int32 in [-2^23, 2^23).

    On a CPU a block is small enough to stay in the caches; a view's bits are overwritten by those of the next.
    """
    count, columns = out.shape
    if not out.numel():
        return
    limit = _BLOCK * torch.get_num_threads() if out.device.type == "cpu" else out.numel()
    width = min(columns, limit)
    height = min(count, limit // width)
    words = _row_hash(keys, stream)
    # Taken apart by shifts, as a view would follow the order of bytes of the machine.
    low, high = (word.to(torch.int32)[:, None] for word in (((words & _MASK) ^ 2**31) - 2**31, words >> 32))
    counters = torch.arange(columns, dtype=torch.int32, device=keys.device) * _signed(_STEP, 32)
    memory = torch.empty(2, height * width, dtype=torch.int32, device=keys.device)
    for top in range(0, count, height):
        for left in range(0, columns, width):
            block = out[top : top + height, left : left + width]
            bits, scratch = (part[: block.numel()].view(block.shape) for part in memory)
            torch.add(counters[left : left + width], low[top : top + height], out=bits)
            for number, (shift, factor) in enumerate(_ROUNDS):
                torch.bitwise_right_shift(bits, shift, out=scratch)
                bits ^= scratch.bitwise_and_(2 ** (32 - shift) - 1)  # the shift of int32 drags the sign along
                bits *= _signed(factor, 32)
                if number == 0:
                    bits += high[top : top + height]
            bits >>= 8
            yield block, bits
