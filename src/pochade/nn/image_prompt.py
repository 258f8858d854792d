"""Image prompts (IP-Adapter, 2308.06721): a cross-attention of their own beside that to the text."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.attention import CrossAttention
from pochade.nn.linear import Linear
from pochade.nn.norms import LayerNorm

TOKENS = 4
"""Tokens that are made of each feature vector."""
NEVER = 1e-3
"""Deviations up to this share of 1 + |mean| are those of rounding to float16."""


@dataclass(frozen=True)
class ImagePromptTokens:
    """What the attentions read of an image prompt."""

    tokens: Tensor
    """[B, TOKENS R, D]."""
    scale: Tensor
    """[B, 1, 1], by which the output of the attention is multiplied; 0 in samples without an image prompt."""


class ImagePromptAttention(nn.Module):
    """Decoupled cross-attention to the features of an image prompt (2308.06721 eq. 5), one for each block:

        Z = Attention(Q, K, V) + s Attention(Q', K', V'),

    the first term being the block's own cross-attention to its text, the second ``forward``. It has queries and an
    output of its own, and a network's initialisation sets that output to zero, so that at first the image prompt
    changes nothing. Features are standardised by mean and deviation over the training set (``standardise``), since
    what all pictures have in common says nothing of one. A sample that is zero everywhere has no image prompt: nothing
    is added to it.

    Args:
        features: D_image, at least 1. dim: D. heads: attention heads, divide D. blocks: how many have this attention.

    Raises:
        PochadeError: an argument is out of range.
    """

    mean: Tensor
    rate: Tensor

    def __init__(self, features: int, dim: int, heads: int, blocks: int) -> None:
        super().__init__()
        if features < 1:
            raise PochadeError(f"image_prompt_dim: {features} given, allowed is 0 and more")
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("rate", torch.ones(features))
        self.project = Linear(features, TOKENS * dim)
        self.norm = LayerNorm(dim)
        self.attentions = nn.ModuleList(CrossAttention(dim, heads) for _ in range(blocks))

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Take over mean and deviation [D_image] of the features of a training set; constant ones count 0."""
        self.mean.copy_(mean)
        varies = deviation > NEVER * (1 + mean.abs())
        self.rate.copy_(torch.where(varies, 1 / deviation, 0))

    def read(self, features: Tensor, scale: Tensor | None) -> ImagePromptTokens:
        """Of features [B, R, D_image] and their scale [B] (None: 1 everywhere)."""
        there = (features != 0).flatten(1).any(1).to(self.mean.dtype)
        x = (features.to(self.mean.dtype) - self.mean) * self.rate
        tokens = self.norm(torch.unflatten(self.project(x), 2, (TOKENS, -1)).flatten(1, 2))
        scales = there if scale is None else there * scale.to(there.dtype)
        return ImagePromptTokens(tokens, scales[:, None, None])

    def forward(self, x: Tensor, block: int, prompt: ImagePromptTokens) -> Tensor:
        """What is added to the cross-attention of that block, of its queries' input x [B, N, D]: [B, N, D]."""
        attention = cast(CrossAttention, self.attentions[block])
        found = attention(x, attention.context(prompt.tokens))
        return found * prompt.scale.to(found.dtype)
