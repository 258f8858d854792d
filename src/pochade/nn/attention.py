"""Attention over picture tokens and over text. Axis letters: pochade.types."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MixerKind = Literal["softmax", "linear"]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, D] -> [B, heads, N, D / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def join_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads d]."""
    return x.transpose(1, 2).flatten(2)


class HeadNorm(nn.Module):
    """Root-mean-square norm of each head's queries or keys, with a learned scale (2302.05442, section 3.1)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-6)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in O(N): phi(q) (phi(k)^T v), divided by phi(q) sum phi(k); phi = elu + 1 (2006.16236 eq. 5).

    All [B, heads, N, d]. Sums run in float32 at least.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    query, key, value = (F.elu(q.to(dtype)) + 1, F.elu(k.to(dtype)) + 1, v.to(dtype))
    state = key.transpose(-2, -1) @ value / key.shape[-2]
    total = key.mean(-2, keepdim=True).transpose(-2, -1)
    return ((query @ state) / (query @ total)).to(v.dtype)


def linear_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``linear_attention`` with the N x N matrix written out."""
    scores = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)
    return (scores / scores.sum(-1, keepdim=True)) @ v


class SpatialMixer(nn.Module):
    """Self-attention over a token grid with a depthwise 3 x 3 convolution of the values beside it.

    ``softmax`` costs O(N^2); ``linear`` costs O(N) and gates its output with SiLU of the input (as in gated linear
    attention, 2312.06635, without decay: a picture has no direction).

    Args:
        dim: D.
        heads: number of heads, divides D.
        kind: "softmax" or "linear"; fixed for the life of the module.
    """

    def __init__(self, dim: int, heads: int, kind: MixerKind) -> None:
        super().__init__()
        self.heads = heads
        self.kind = kind
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.gate = nn.Linear(dim, dim, bias=False) if kind == "linear" else None
        self.query_norm = HeadNorm(dim // heads)
        self.key_norm = HeadNorm(dim // heads)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        query = self.query_norm(split_heads(q, self.heads))
        key = self.key_norm(split_heads(k, self.heads))
        value = split_heads(v, self.heads)
        mix = linear_attention if self.kind == "linear" else F.scaled_dot_product_attention
        mixed = join_heads(mix(query, key, value))
        grid = v.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # channels last: no copy
        mixed = mixed + self.local(grid).permute(0, 2, 3, 1).flatten(1, 2)
        if self.gate is not None:
            mixed = mixed * F.silu(self.gate(x))
        return self.out(mixed)


class CrossAttention(nn.Module):
    """Attention from picture tokens to a context; keys and values are made once and reused over recursions.

    The output projection starts at zero.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.query_norm = HeadNorm(dim // heads)
        self.key_norm = HeadNorm(dim // heads)
        self.out = nn.Linear(dim, dim)

    def context(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, M, d] of context tokens [B, M, D]."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        return self.key_norm(split_heads(key, self.heads)), split_heads(value, self.heads)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]; ``mask`` [B, M] bool, at least one True a row."""
        query = self.query_norm(split_heads(self.query(x), self.heads))
        mixed = F.scaled_dot_product_attention(query, *context, attn_mask=mask[:, None, None, :])
        return self.out(join_heads(mixed))


def scaled_init(linear: nn.Linear) -> None:
    """Truncated normal of deviation 1 / sqrt(inputs), zero bias."""
    nn.init.trunc_normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
    if linear.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        nn.init.zeros_(linear.bias)
