"""Noise that is a function of its keys: each row the same in any batch, on any device, with no generator to carry."""

import math

import torch
from torch import Tensor

_MASK = 2**32 - 1
_STEP = 0x9E3779B9  # 2^32 divided by the golden ratio: keeps neighbouring counters apart


def row_keys(*parts: Tensor) -> Tensor:
    """A key [B] int64 in [0, 2^32) for each row, from the bits of what is in it.

    Args:
        parts: [B, ...] of any floating type, compared as float32.
    """
    values = torch.cat([part.detach().flatten(1).float() for part in parts], dim=1).contiguous()
    bits = values.view(torch.int32).long() & _MASK
    columns = torch.arange(bits.shape[1], device=bits.device) * _STEP
    return _mix((bits + columns) & _MASK).sum(1) & _MASK


def keyed_truncated_normal(keys: Tensor, rows: int, columns: int, *, deviation: float, bound: float = 3.0) -> Tensor:
    """Normal noise of ``deviation``, cut at ``bound`` deviations: [B] int64 keys -> [B, rows, columns] float32.

    Row i depends on keys[i] alone: a counter is hashed with the key to 24 uniform bits, which the quantile function
    of the normal distribution turns into noise. Not for secrets.
    """
    counter = torch.arange(rows * columns, device=keys.device)
    bits = _mix(_mix(counter + _STEP & _MASK) ^ _mix(keys)[:, None])
    uniform = ((bits >> 8).float() + 0.5) / 2**24
    normal = torch.erfinv((2 * uniform - 1) * math.erf(bound / math.sqrt(2)))
    return (normal * (math.sqrt(2) * deviation)).view(-1, rows, columns)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3, a bijection of 32-bit integers held in 64 bits."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)
