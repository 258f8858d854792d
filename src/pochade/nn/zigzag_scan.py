"""A selective scan along a path of the token grid, forth and back, and a convolution beside it."""

# torch leaves the types of some methods open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.convolution import DepthwiseConv, check_grid
from pochade.nn.scan import selective_scan, selective_scan_reference
from pochade.nn.scan_orders import inverse_order, reorder, scan_order

Decay = Literal["scalar", "diagonal"]

_SLOWEST, _FASTEST = 1e-3, 1e-1
"""Steps dt before training are spread between these (2312.00752, section 3.6)."""


class ZigzagScan(nn.Module):
    """Bidirectional selective scan along one path of the grid (2403.13802), with a depthwise 3 x 3 convolution beside.

    [x, z, dt, B, C] = W_in u, dt, B and C once for each of the two directions, then x' = SiLU(x) and

        y = scan(x') + reversed scan(x') + D x' + conv(x'),    out = W_out (norm(y) * SiLU(z)),

    norm a root-mean-square norm with a learned scale (2405.21060, section 7). Each direction has its own A.

    Args:
        dim: D.
        inner: E, width of x and z.
        heads: parts of x with a decay of their own where ``decay`` is "scalar"; divides E.
        state_size: S.
        path: a name that ``scan_orders.scan_order`` knows.
        decay: "scalar", one decay a head (2405.21060), or "diagonal", one a channel and state (2312.00752).
        depthwise: whether there is the convolution.

    Raises:
        PochadeError: ``heads`` does not divide E, ``decay`` is unknown, or H W is not the number of tokens.
    """

    def __init__(
        self,
        dim: int,
        inner: int,
        heads: int,
        state_size: int,
        path: str,
        decay: Decay = "scalar",
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        if decay not in ("scalar", "diagonal"):
            raise PochadeError(f"decay: {decay!r} given, allowed are 'scalar' and 'diagonal'")
        if heads < 1 or inner % heads:
            raise PochadeError(f"heads: {heads} given, allowed are the divisors of inner, {inner}")
        rank = heads if decay == "scalar" else math.ceil(dim / 16)
        steps = heads if decay == "scalar" else inner
        self.path = path
        self.widths = [inner, inner, *[rank, state_size, state_size] * 2]
        self.inner = nn.Linear(dim, sum(self.widths), bias=False)
        self.expand_dt = nn.ModuleList(nn.Linear(rank, inner, bias=False) for _ in range(2 * (decay == "diagonal")))
        dt = torch.exp(torch.rand(2, steps) * math.log(_FASTEST / _SLOWEST) + math.log(_SLOWEST))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        if decay == "scalar":
            self.A_log = nn.Parameter(torch.empty(2, heads).uniform_(1, 16).log())
        else:
            self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(2, inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.local = DepthwiseConv(inner) if depthwise else None
        self.norm = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, dim)
        for parameter in (self.dt_bias, self.A_log, self.D, self.norm):
            parameter.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, u: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        check_grid(u, height, width)
        x, gate, selection = self.inner(u).split([*self.widths[:2], sum(self.widths[2:])], dim=-1)
        x = F.silu(x)
        order = scan_order(self.path, height, width, device=u.device)
        along = reorder(x, order)
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        parts = reorder(selection, order).split(self.widths[2:], dim=-1)
        forth = selective_scan(along, self._steps(parts[0], 0), A[0], parts[1], parts[2], self.D)
        back = selective_scan(along, self._steps(parts[3], 1), A[1], parts[4], parts[5], reverse=True)
        y = reorder(forth + back, inverse_order(order))
        if self.local is not None:
            y = y + self.local(x, height, width)
        return self.out(F.rms_norm(y, (y.shape[-1],), self.norm.to(y.dtype), 1e-6) * F.silu(gate))

    def _steps(self, dt: Tensor, direction: int) -> Tensor:
        """dt > 0, [B, N, heads] or [B, N, E], in float32 at least: steps of 1e-3 have no digits left below it."""
        if len(self.expand_dt):
            dt = self.expand_dt[direction](dt)
        wide = torch.promote_types(dt.dtype, torch.float32)
        return F.softplus(dt.to(wide) + self.dt_bias[direction].to(wide))


def zigzag_scan_reference(module: ZigzagScan, u: Tensor, height: int, width: int) -> Tensor:
    """``ZigzagScan`` with the scans as loops over the tokens of the path, the way back over the path reversed."""
    x, gate, *parts = module.inner(u).split(module.widths, dim=-1)
    x = F.silu(x)
    order = scan_order(module.path, height, width)
    y = x * module.D
    for direction, way in enumerate((order, order.flip(0))):
        dt, B, C = (part[:, way] for part in parts[3 * direction : 3 * direction + 3])
        if len(module.expand_dt):
            dt = module.expand_dt[direction](dt)
        dt = F.softplus(dt + module.dt_bias[direction])
        found, _ = selective_scan_reference(x[:, way], dt, -module.A_log[direction].exp(), B, C)
        y = y + torch.zeros_like(y).index_copy(1, way, found)
    if module.local is not None:
        y = y + module.local(x, height, width)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.norm
    return module.out(y * F.silu(gate))
