"""Attention over picture tokens and over text. Axis letters: pochade.types."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.convolution import DepthwiseConv, check_grid
from pochade.nn.cpu import inference
from pochade.nn.linear import Linear
from pochade.nn.norms import rms_norm

MixerKind = Literal["softmax", "linear"]


def head_width(dim: int, heads: int) -> int:
    """d = D / heads. Raises PochadeError where it is no whole number."""
    if heads < 1 or dim % heads:
        raise PochadeError(f"heads: {heads} given, allowed are the divisors of dim, {dim}")
    return dim // heads


def split_heads(x: Tensor, heads: int, norm: nn.Module | None = None) -> Tensor:
    """[B, N, D] -> [B, heads, N, D / heads], each head of each token normed where there is a norm."""
    parts = torch.unflatten(x, -1, (heads, -1))
    # Normed before it is transposed: a runtime may move a transpose that follows, and finds the norm whole.
    return (parts if norm is None else norm(parts)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads d]."""
    return x.transpose(1, 2).flatten(2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention (1706.03762 eq. 1) of all heads, joined.

    Args:
        q: [B, heads, N, d].
        k: [B, heads, M, d].
        v: as k.
        mask: [B, M] or [B, N, M] bool, at least one True a row (None: all True).

    Returns:
        [B, N, heads d].
    """
    if (mask is None or mask.ndim == 2) and inference.serves(q, k, v):
        return inference.attention(q, k, v, mask)
    where = None if mask is None else mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=where))


class HeadNorm(nn.Module):
    """Root-mean-square norm of each head's queries or keys, with a learned scale (2302.05442, section 3.1)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in O(N): phi(q) (phi(k)^T v), divided by phi(q) sum phi(k); phi = elu + 1 (2006.16236 eq. 5).

    All [B, heads, N, d]. Sums run in float32 at least.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    query, key, value = _positive(q.to(dtype)), _positive(k.to(dtype)), v.to(dtype)
    state = key.transpose(-2, -1) @ value / key.shape[-2]
    total = key.mean(-2, keepdim=True).transpose(-2, -1)
    return ((query @ state) / (query @ total)).to(v.dtype)


def _positive(x: Tensor) -> Tensor:
    """phi: elu + 1."""
    if torch.compiler.is_exporting():  # ONNX Runtime's own takes three times as long
        return x.clamp(max=0).exp() + F.relu(x)
    return F.elu(x) + 1


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

    Raises:
        PochadeError: ``heads`` does not divide D, or H W is not the number of tokens.
    """

    def __init__(self, dim: int, heads: int, kind: MixerKind) -> None:
        super().__init__()
        width = head_width(dim, heads)
        self.heads = heads
        self.kind = kind
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.gate = Linear(dim, dim, bias=False) if kind == "linear" else None
        self.query_norm = HeadNorm(width)
        self.key_norm = HeadNorm(width)
        self.local = DepthwiseConv(dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        check_grid(x, height, width)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        query = split_heads(q, self.heads, self.query_norm)
        key = split_heads(k, self.heads, self.key_norm)
        value = split_heads(v, self.heads)
        linear = self.kind == "linear"
        attended = join_heads(linear_attention(query, key, value)) if linear else softmax_attention(query, key, value)
        mixed = attended + self.local(v, height, width)
        if self.gate is not None:
            mixed = mixed * F.silu(self.gate(x))
        return self.out(mixed)


def window_sides(length: int, window: int) -> tuple[int, int]:
    """How many windows of at most ``window`` cover ``length``, and their even side: 20 by 8 is 3 windows of 7."""
    count = -(-length // window)
    return count, -(-length // count)


def window_padding(length: int, window: int) -> int:
    """How far the last window hangs over: 20 by 8 is 3 windows of 7, one too far."""
    count, side = window_sides(length, window)
    return count * side - length


def split_windows(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """[B, H W, D] -> [B windows, h w, D], zeros where the last row or column of windows hangs over the grid."""
    h, (columns, w) = window_sides(height, window)[1], window_sides(width, window)
    below, right = window_padding(height, window), window_padding(width, window)
    grid = torch.unflatten(x, 1, (height, width))
    if below or right:
        grid = F.pad(grid, (0, 0, 0, right, 0, below))
    # Rows of windows are in the batch axis: runtimes of phones have tensors of five axes at most.
    windows = torch.unflatten(torch.unflatten(grid.flatten(0, 1), 1, (columns, w)), 0, (-1, h)).transpose(1, 2)
    return windows.flatten(2, 3).flatten(0, 1)


def join_windows(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """The inverse of ``split_windows``: [B windows, h w, D] -> [B, H W, D]."""
    (rows, h), (columns, w) = window_sides(height, window), window_sides(width, window)
    grid = torch.unflatten(torch.unflatten(x, 1, (h, w)), 0, (-1, columns)).transpose(1, 2)
    grid = torch.unflatten(grid.flatten(2, 3).flatten(0, 1), 0, (-1, rows * h))
    return grid[:, :height, :width].flatten(1, 2)


def window_attention_reference(q: Tensor, k: Tensor, v: Tensor, height: int, width: int, window: int) -> Tensor:
    """The attention of ``WindowAttention`` as an N x N matrix, zero between windows; all [B, heads, H W, d]."""
    row = torch.arange(height, device=q.device) // window_sides(height, window)[1]
    column = torch.arange(width, device=q.device) // window_sides(width, window)[1]
    label = (row[:, None] * width + column).flatten()
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.masked_fill(label[:, None] != label, -math.inf).softmax(-1) @ v


class WindowAttention(nn.Module):
    """Softmax self-attention within windows of the token grid that do not overlap: O(N window^2).

    A grid that ``window`` does not divide is cut into equally many, more even windows (20 x 20 by 8: nine of at most
    7 x 7, not four of 8 x 8 and five thin ones); tokens outside the grid are masked. A grid no larger than the window
    is one window: full attention.

    Args:
        dim: D.
        heads: number of heads, divides D.
        window: largest side of a window, in tokens.

    Raises:
        PochadeError: ``heads`` does not divide D, ``window`` is below 1, or H W is not the number of tokens.
    """

    def __init__(self, dim: int, heads: int, window: int = 8) -> None:
        super().__init__()
        width = head_width(dim, heads)
        if window < 1:
            raise PochadeError(f"window: {window} given, allowed are 1 and above")
        self.heads = heads
        self.window = window
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.query_norm = HeadNorm(width)
        self.key_norm = HeadNorm(width)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        check_grid(x, height, width)
        windows = split_windows(x, height, width, self.window)
        mask = None
        if window_padding(height, self.window) or window_padding(width, self.window):
            inside = split_windows(torch.ones_like(x[..., :1]), height, width, self.window) > 0
            mask = inside[..., 0]
        q, k, v = self.qkv(windows).chunk(3, dim=-1)
        query, key = split_heads(q, self.heads, self.query_norm), split_heads(k, self.heads, self.key_norm)
        mixed = softmax_attention(query, key, split_heads(v, self.heads), mask)
        return self.out(join_windows(mixed, height, width, self.window))


def multi_query_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of several query heads to one key and value head (1911.02150, section 3).

    ``q`` [B, N, heads, d], ``k`` and ``v`` [B, M, d] -> [B, N, heads d]. Tokens and heads are folded into one axis of
    rows, a view: nothing is copied, repeated or moved.
    """
    tokens = q.shape[1]
    rows = q.flatten(1, 2).unsqueeze(1)
    key, value = k.unsqueeze(1), v.unsqueeze(1)
    if inference.serves(q, k, v):
        mixed = inference.attention(rows, key, value)
    else:
        mixed = F.scaled_dot_product_attention(rows, key, value).squeeze(1)
    return torch.unflatten(mixed, 1, (tokens, -1)).flatten(2)


def multi_query_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``multi_query_attention`` head by head."""
    heads: list[Tensor] = []
    for query in q.unbind(2):
        scores = query @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, dim=-1)


class MultiQueryAttention(nn.Module):
    """Self-attention with one key and value head for all query heads: 2 D^2 + 2 D d weights instead of 4 D^2.

    Args:
        dim: D.
        heads: number of query heads, divides D.

    Raises:
        PochadeError: ``heads`` does not divide D.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        width = head_width(dim, heads)
        self.heads = heads
        self.query = Linear(dim, dim, bias=False)
        self.key_value = Linear(dim, 2 * width, bias=False)
        self.query_norm = HeadNorm(width)
        self.key_norm = HeadNorm(width)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        query = self.query_norm(torch.unflatten(self.query(x), -1, (self.heads, -1)))
        key, value = self.key_value(x).chunk(2, dim=-1)
        return self.out(multi_query_attention(query, self.key_norm(key), value))


class CrossAttention(nn.Module):
    """Attention from picture tokens to a context; keys and values are made once and reused over recursions.

    The output projection starts at zero.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        width = head_width(dim, heads)
        self.heads = heads
        self.query = Linear(dim, dim, bias=False)
        self.key_value = Linear(dim, 2 * dim, bias=False)
        self.query_norm = HeadNorm(width)
        self.key_norm = HeadNorm(width)
        self.out = Linear(dim, dim)

    def context(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, M, d] of context tokens [B, M, D]."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        return split_heads(key, self.heads, self.key_norm), split_heads(value, self.heads)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; ``mask`` [B, M] or [B, N, M] bool, at least one True a row (None: all True)."""
        query = split_heads(self.query(x), self.heads, self.query_norm)
        return self.out(softmax_attention(query, *context, mask))


def context_state(k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """S = softmax_M(K)^T V: each of the d features is a mean of the values (1812.01243).

    ``k``, ``v`` [B, heads, M, d], ``mask`` [B, M] bool -> [B, heads, d, d]. Padding weighs exactly nothing; a row
    without a real token gives zeros. Weights and sums in float32 at least.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    real = mask[:, None, :, None]
    weights = k.to(dtype).masked_fill(~real, torch.finfo(dtype).min).softmax(-2) * real
    return (weights.transpose(-2, -1) @ v.to(dtype)).to(v.dtype)


def read_state(q: Tensor, state: Tensor) -> Tensor:
    """softmax_d(Q) S: each query's own mean of the d rows of the state.

    ``q`` [B, N, heads, d], ``state`` [B, heads, d, d] -> [B, N, heads d].
    """
    weights = q.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return join_heads(weights.transpose(1, 2) @ state)


def linear_cross_attention_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """``read_state(q, context_state(k, v, mask))`` with the N x M matrix written out, text by text."""
    rows: list[Tensor] = []
    for query, key, value, real in zip(q, k, v, mask, strict=True):
        scores = query.transpose(0, 1).softmax(-1) @ key[:, real].softmax(-2).transpose(-2, -1)
        rows.append((scores @ value[:, real]).transpose(0, 1).flatten(1))
    return torch.stack(rows)


class LinearCrossAttention(nn.Module):
    """Cross-attention through a state of fixed size, at a cost for each picture token that no text length changes.

    Efficient attention (1812.01243) from picture to text: keys are soft-maxed over the text tokens, S = K^T V, and
    queries over their features, so that the N x M matrix that is never formed has rows that sum to one: the result is
    a mean of the values, whatever M and d. A sigmoid gate of the input then sets how much of it each token takes,

        out = W_o (g * (softmax(Q) S)),    g = sigmoid(W_g x);

    the caller's residual carries the input itself.

    Args:
        dim: D.
        heads: number of heads, divides D.
        interpolated: add (1 - g) * x to what W_o takes.

    Raises:
        PochadeError: ``heads`` does not divide D.
    """

    def __init__(self, dim: int, heads: int, *, interpolated: bool = False) -> None:
        super().__init__()
        width = head_width(dim, heads)
        self.heads, self.interpolated = heads, interpolated
        self.query = Linear(dim, dim, bias=False)
        self.gate = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim, bias=False)
        self.query_norm = HeadNorm(width)
        self.key_norm = HeadNorm(width)
        self.out = Linear(dim, dim)

    def context(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The state [B, heads, d, d] of text tokens [B, M, D] with ``mask`` [B, M] bool."""
        key_value = self.key_value(tokens)
        if inference.serves(key_value, self.key_norm.weight):
            return inference.text_state(key_value, mask, self.key_norm.weight)
        key, value = key_value.chunk(2, dim=-1)
        return context_state(split_heads(key, self.heads, self.key_norm), split_heads(value, self.heads), mask)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]; ``state`` from ``context``."""
        queries, gate = self.query(x), self.gate(x)
        if not self.interpolated and inference.serves(queries, self.query_norm.weight):
            return self.out(inference.read_state(queries, self.query_norm.weight, state, gate))
        query = self.query_norm(torch.unflatten(queries, -1, (self.heads, -1)))
        gate, read = torch.sigmoid(gate), read_state(query, state)
        return self.out(torch.lerp(x, read, gate) if self.interpolated else gate * read)


def scaled_init(linear: nn.Linear) -> None:
    """Truncated normal of deviation 1 / sqrt(inputs), zero bias."""
    nn.init.trunc_normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
    if linear.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        nn.init.zeros_(linear.bias)
