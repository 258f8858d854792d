"""Mixing over the token grid by distance: separable Manhattan decay. Axis letters: pochade.types."""

import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.linear import Linear
from pochade.nn.norms import without_autocast

_PART = 2**18
"""Numbers mixed at a time where no gradient is kept: what a processor's cache holds."""


class ManhattanMixer(nn.Module):
    """A projection of the values, then for each head the mean of all tokens weighted by gamma^(|dr| + |dc|).

    The spatial decay of RMT (2309.11523, section 3.1) alone, without queries and keys, each row of weights divided by
    its sum; every token sees the whole grid. The decay is the sigmoid of a learned logit. It starts where the reach
    1 / (1 - gamma) runs evenly in octaves from 2 tokens (the first head) to 32 (the last).

    Args:
        dim: D, a multiple of ``heads``.
        heads: number of heads.

    Raises:
        PochadeError: D is not a multiple of the heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise PochadeError(f"dim: {dim} given, must be a positive multiple of heads, {heads}")
        self.value = Linear(dim, dim, bias=False)
        self.gamma_logit = nn.Parameter(torch.log(2 ** torch.linspace(1, 5, heads) - 1))
        self.gamma_logit.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def gamma(self) -> Tensor:
        """The decay from one token to the next, [heads], in (0, 1)."""
        return self.gamma_logit.sigmoid()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        return manhattan_decay(self.value(x), self.gamma(), height, width)


def manhattan_decay(x: Tensor, gamma: Tensor, height: int, width: int) -> Tensor:
    """y_n = sum_m D_nm x_m, D_nm = gamma^(|r_n - r_m| + |c_n - c_m|) / (its sum over m): [B, H W, D] -> [B, H W, D].

    The matrix is the Kronecker product of one over rows and one over columns (2309.11523, section 3.2), each divided
    by its own row sums, so that the cost is O(N (H + W)). Computes in float32 at least; the output has the type of x.

    Args:
        x: [B, H W, D]; D is cut into equal, adjacent parts, one a head.
        gamma: [heads] in [0, 1], one decay a head.
        height: H.
        width: W.

    Raises:
        PochadeError: ``x`` is not [B, H W, D], or D not a multiple of the heads.
    """
    heads = gamma.shape[0]
    if x.ndim != 3 or x.shape[1] != height * width or x.shape[2] % heads:
        given = f"{list(x.shape)} given for a grid of {height} x {width}"
        raise PochadeError(f"x: {given}, must be [B, {height * width}, multiple of {heads} heads]")
    dtype = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x):
        along_height, along_width = (_axis_decay(gamma.to(dtype), n) for n in (height, width))
        grid = x.to(dtype).view(-1, height, width, heads, x.shape[2] // heads).permute(3, 2, 0, 1, 4)
        step = heads
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            step = min(heads, max(1, heads * _PART // max(1, x.numel())))
        mixed: list[Tensor] = []
        for start in range(0, heads, step):
            part = slice(start, start + step)
            # The axis to sum over stands beside the head, so that it takes one matrix product a head.
            by_column = _product(along_width[part], grid[part])
            by_row = _product(along_height[part], by_column.permute(0, 3, 2, 1, 4))
            mixed.append(by_row.permute(2, 1, 3, 0, 4))
        return torch.cat(mixed, dim=3).reshape(x.shape).to(x.dtype)


def manhattan_decay_reference(x: Tensor, gamma: Tensor, height: int, width: int) -> Tensor:
    """``manhattan_decay`` with the N x N matrix written out."""
    token = torch.arange(height * width, device=x.device)
    row, column = token // width, token % width
    distance = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    weights = gamma[:, None, None] ** distance
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.cat([w @ part for w, part in zip(weights, x.chunk(len(gamma), dim=-1), strict=True)], dim=-1)


def _axis_decay(gamma: Tensor, size: int) -> Tensor:
    """gamma^|i - j| divided by its sum over j, as a soft-max of its logarithm: [heads] -> [heads, size, size]."""
    place = torch.arange(size, device=gamma.device, dtype=gamma.dtype)
    logarithm = gamma.clamp_min(torch.finfo(gamma.dtype).tiny).log()
    return torch.softmax((place[:, None] - place).abs() * logarithm[:, None, None], dim=-1)


def _product(matrices: Tensor, x: Tensor) -> Tensor:
    """[heads, n, n] times [heads, n, ...] -> [heads, n, ...]."""
    return (matrices @ x.flatten(2)).view(x.shape)
