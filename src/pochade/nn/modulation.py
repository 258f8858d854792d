"""Time, and how it steers the blocks: adaLN-Zero (2212.09748, section 3.2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(t: Tensor, dim: int, *, max_period: float = 10_000.0) -> Tensor:
    """[B] in [0, 1] -> [B, dim] float32: cosines and sines of 1000 t at geometric frequencies (1706.03762)."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(max_period) / half))
    angles = 1000.0 * t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimestepEmbedding(nn.Module):
    """t [B] in [0, 1] -> [B, D]: sinusoid, linear, SiLU, linear."""

    def __init__(self, dim: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.first = nn.Linear(frequencies, dim)
        self.second = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        embedded = sinusoid(t, self.frequencies).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(embedded)))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [B, N, D] without weights of its own, then x (1 + scale) + shift, both [B, 1, D]."""
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=1e-6), 1 + scale)


class Modulation(nn.Module):
    """Conditioning [B, D] -> ``vectors`` tensors [B, 1, D] of shifts, scales and gates.

    A model's initialisation sets ``linear`` to zero, so that every block starts as the identity.
    """

    def __init__(self, dim: int, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.linear = nn.Linear(dim, vectors * dim)

    def forward(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(conditioning)).unsqueeze(1).chunk(self.vectors, dim=-1)
