"""Time, and how it modulates the blocks: adaLN-Zero (2212.09748, section 3.2)."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.cpu import inference
from pochade.nn.linear import Linear
from pochade.nn.norms import as_stream, layer_norm


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
        self.first = Linear(frequencies, dim)
        self.second = Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        embedded = sinusoid(t, self.frequencies).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(embedded)))


class IterationEmbedding(nn.Module):
    """Which pass of a recurrent core this is, i of r: a vector for each pass, to be added to the conditioning.

    Sinusoids of i and of 32 i / r, wavelengths 2 pi to about 400 passes: coarse enough for depths between and beyond
    those of training; then linear, SiLU, linear. The last pass has i / r = 1, whatever r.
    """

    def __init__(self, dim: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.first = Linear(2 * frequencies, dim)
        self.second = Linear(dim, dim)

    def forward(self, iterations: int) -> Tensor:
        """[r, D] for r = ``iterations``, at least 1; row i - 1 belongs to pass i."""
        weight = self.first.weight
        passes = torch.arange(1, iterations + 1, dtype=torch.float32, device=weight.device)
        counts = torch.stack((passes / 1000, 0.032 * passes / iterations), dim=1).flatten()
        waves = sinusoid(counts, self.frequencies, max_period=64.0).view(iterations, -1).to(weight.dtype)
        return self.second(F.silu(self.first(waves)))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [B, N, D] without weights of its own, then x (1 + scale) + shift, both [B, 1, D]."""
    if shift.shape == scale.shape == (x.shape[0], 1, x.shape[-1]) and inference.serves(x, shift, scale):
        return inference.modulated_norm(x, shift, scale)
    return torch.addcmul(shift, layer_norm(x), 1 + scale)


class Modulation(nn.Module):
    """Conditioning [B, D] -> ``vectors`` tensors [B, 1, D] of shifts, scales and gates.

    A model's initialisation sets ``linear`` to zero, so that every block starts as the identity.
    """

    def __init__(self, dim: int, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.linear = Linear(dim, vectors * dim)

    def forward(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(conditioning)).unsqueeze(1).chunk(self.vectors, dim=-1)


class GroupedModulation(nn.Module):
    """The modulation of all blocks of a network: shared for the most part, with a cheap part of each block's own.

    One MLP serves all blocks, h = SiLU(W_1 SiLU(c)); block l takes

        [shift, scale, gate, ...]_l = W_2 h + P_l h + b_l,

    P_l block-diagonal: each of ``groups`` groups of channels is projected from the same group of h. With V vectors and
    L blocks that is (1 + V + L V / groups) D^2 weights where a ``Modulation`` a block has L V D^2: a quarter for V = 9,
    L = 6, 16 groups. (adaLN-single, 2310.00426, section 2.3, is the limit P = 0.)

    P (``weight``) and b (``bias``) start at zero; a model's initialisation sets W_2 (``shared``) to zero as well, so
    that every block starts as the identity.

    Args:
        dim: D.
        vectors: V, vectors a block takes.
        blocks: L.
        groups: groups of channels, divides D.

    Raises:
        PochadeError: ``groups`` does not divide D.
    """

    def __init__(self, dim: int, vectors: int, blocks: int, groups: int = 16) -> None:
        super().__init__()
        if groups < 1 or dim % groups:
            raise PochadeError(f"groups: {groups} given, allowed are the divisors of dim, {dim}")
        self.vectors = vectors
        self.blocks = blocks
        self.groups = groups
        self.first = Linear(dim, dim)
        self.shared = Linear(dim, vectors * dim, bias=False)
        self.weight = nn.Parameter(torch.zeros(groups, dim // groups, blocks * vectors * dim // groups))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, vectors, dim))
        self.bias.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, conditioning: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """[B, D] -> for each block its ``vectors`` tensors [B, 1, D]."""
        hidden = F.silu(self.first(F.silu(conditioning)))
        own = torch.unflatten(hidden, 1, (self.groups, -1)).transpose(0, 1) @ self.weight
        own = torch.unflatten(own, 2, (self.blocks, self.vectors, -1)).permute(2, 1, 3, 0, 4).flatten(3)
        vectors = as_stream(own + torch.unflatten(self.shared(hidden), 1, (self.vectors, -1)) + self.bias)
        return tuple(block.chunk(self.vectors, dim=1) for block in vectors.unbind())


def grouped_modulation_reference(module: GroupedModulation, conditioning: Tensor) -> list[list[Tensor]]:
    """``GroupedModulation`` block by block, vector by vector, each P_l a dense D x D matrix."""
    hidden = F.silu(module.first(F.silu(conditioning)))
    weight = torch.unflatten(module.weight, 2, (module.blocks, module.vectors, -1))
    shared = module.shared(hidden).chunk(module.vectors, dim=-1)

    def own(block: int, vector: int) -> Tensor:
        dense = cast(Tensor, torch.block_diag(*weight[:, :, block, vector]))  # pyright: ignore[reportUnknownMemberType]
        return hidden @ dense + module.bias[block, :, vector]

    return [[(shared[v] + own(block, v)).unsqueeze(1) for v in range(module.vectors)] for block in range(module.blocks)]
