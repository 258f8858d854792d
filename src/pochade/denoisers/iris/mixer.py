"""GRFM, the token mixer of IRIS: by frequency, by recurrence and by distance, fused by a learned gate."""

import math

import torch
from torch import Tensor, nn

from pochade.nn.linear import Linear
from pochade.nn.manhattan import ManhattanMixer
from pochade.nn.norms import LayerNorm
from pochade.nn.scan import rg_lru
from pochade.nn.spectral import SpectralMixer

SPECTRAL_BLOCKS = 8
SHORTEST_DECAY, LONGEST_DECAY = 0.9, 0.999


class BidirectionalRGLRU(nn.Module):
    """The RG-LRU (2402.19427 eq. 1-4) over the tokens in raster order, both ways, joined by a projection.

    Each direction has its own gates and decays. At first a runs over the channels from 0.9 to 0.999, evenly in
    log(1 - a), if ``recurrence_gate`` is zero, that is the gate one half: a model's initialisation sets it so.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.recurrence_gate = Linear(dim, 2 * dim)
        self.input_gate = Linear(dim, 2 * dim)
        reach = torch.linspace(math.log(1 - SHORTEST_DECAY), math.log(1 - LONGEST_DECAY), dim, dtype=torch.float64)
        slope = -torch.log1p(-reach.exp()) / (8 * 0.5)
        self.decay = nn.Parameter(torch.log(torch.expm1(slope)).float().repeat(2, 1))
        self.decay.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self.join = Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        # One scan over both halves of the channels, the second back to front: half the steps of two scans, and half
        # the nodes of an exported graph.
        recurrence = _turn_second(torch.sigmoid(self.recurrence_gate(x)))
        inputs = _turn_second(torch.sigmoid(self.input_gate(x)))
        both = rg_lru(torch.cat((x, x.flip(1)), dim=-1), recurrence, inputs, self.decay.flatten())
        return self.join(_turn_second(both))


def _turn_second(x: Tensor) -> Tensor:
    """[B, N, 2 D] with the tokens of the second half of the channels in reverse order."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first, second.flip(1)), dim=-1)


class GRFM(nn.Module):
    """Gated recurrent Fourier mixer: [B, H W, D] -> [B, H W, D].

    g = sigmoid(W_g x), out = W_o norm(g * spectral(x) + (1 - g) * recurrent(x) + alpha * spatial(x)): AFNO
    (2111.13587), RG-LRU (2402.19427) and separable Manhattan decay (2309.11523). alpha is learned for each channel,
    from 0.1.

    Args:
        dim: D, a multiple of 8 (blocks of the spectral path).
        heads: decays of the spatial path, divide D.

    Raises:
        PochadeError: D is not a multiple of 8 or of ``heads``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.spectral = SpectralMixer(dim, SPECTRAL_BLOCKS)
        self.recurrent = BidirectionalRGLRU(dim)
        self.spatial = ManhattanMixer(dim, heads)
        self.gate = Linear(dim, dim)
        self.alpha = nn.Parameter(torch.full((dim,), 0.1))
        self.norm = LayerNorm(dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        fused = torch.lerp(self.recurrent(x), self.spectral(x, height, width), gate)
        return self.out(self.norm(torch.addcmul(fused, self.alpha, self.spatial(x, height, width))))
