"""What a reference picture adds to a network: an attention of its own beside that to the text."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.attention import CrossAttention
from pochade.nn.norms import LayerNorm

TOKENS = 4
"""Tokens that are made of each feature vector."""
NEVER = 1e-3
"""Deviations up to this share of 1 + |mean| are those of rounding to float16."""


@dataclass(frozen=True)
class Reference:
    """What the attentions read of a reference."""

    tokens: Tensor
    """[B, TOKENS R, D]."""
    strength: Tensor
    """[B, 1, 1], by which what they read is multiplied; 0 in rows without a reference."""


class ReferenceBranch(nn.Module):
    """Decoupled attention to the features of a reference picture (2308.06721 eq. 5), one for each block:

        Z = Attention(Q, K, V) + s Attention(Q', K', V'),

    the first term being the block's own look at its text, the second ``forward``. It has queries and an output of its
    own, and a network's initialisation sets that output to zero, so that at first the reference changes nothing. What
    a picture's features have in common with all others' says nothing of it: each is taken as its distance from the
    mean over the training set, in deviations (``standardise``). A row that is zero everywhere has no reference:
    nothing is added to it.

    Args:
        features: D_ref, at least 1. dim: D. heads: attention heads, divide D. blocks: how many look at it.

    Raises:
        PochadeError: an argument is out of range.
    """

    mean: Tensor
    rate: Tensor

    def __init__(self, features: int, dim: int, heads: int, blocks: int) -> None:
        super().__init__()
        if features < 1:
            raise PochadeError(f"reference_dim: {features} given, allowed is 0 and more")
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("rate", torch.ones(features))
        self.project = nn.Linear(features, TOKENS * dim)
        self.norm = LayerNorm(dim)
        self.attentions = nn.ModuleList(CrossAttention(dim, heads) for _ in range(blocks))

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Takes over mean and deviation [D_ref] of the features of a training set; what never varies there counts 0."""
        self.mean.copy_(mean)
        varies = deviation > NEVER * (1 + mean.abs())
        self.rate.copy_(torch.where(varies, 1 / deviation, 0))

    def read(self, features: Tensor, scale: Tensor | None) -> Reference:
        """Of features [B, R, D_ref] and the strength that is asked for, [B] (None: 1 everywhere)."""
        there = (features != 0).flatten(1).any(1).to(self.mean.dtype)
        x = (features.to(self.mean.dtype) - self.mean) * self.rate
        tokens = self.norm(torch.unflatten(self.project(x), 2, (TOKENS, -1)).flatten(1, 2))
        strength = there if scale is None else there * scale.to(there.dtype)
        return Reference(tokens, strength[:, None, None])

    def forward(self, x: Tensor, block: int, reference: Reference) -> Tensor:
        """What is added to the look of that block, of its queries' input x [B, N, D]: [B, N, D]."""
        attention = cast(CrossAttention, self.attentions[block])
        found = attention(x, attention.context(reference.tokens))
        return found * reference.strength.to(found.dtype)
