"""A selective scan of the token grid in four directions, and what makes the scan selective."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.convolution import DepthwiseConv, check_grid
from pochade.nn.cpu import inference
from pochade.nn.layout import with_own_layout
from pochade.nn.linear import Linear
from pochade.nn.norms import LayerNorm, layer_norm
from pochade.nn.scan import Inputs, bidirectional_scan, operators, selective_scan, selective_scan_reference
from pochade.nn.scan_orders import (
    DIRECTIONS,
    both_axes,
    inverse_order,
    kept_orders,
    merge_axes,
    own_axes,
    scan_order,
)

Decay = Literal["scalar", "diagonal"]

HEAD_WIDTH = 64
"""Channels that share a decay where it is scalar; fewer where 64 does not divide the width."""


class Selection(nn.Module):
    """dt, B and C made of the tokens, with learned A and D: all that a selective scan reads beside x.

    [dt, B, C] = W u for each of G groups of E channels, then dt <- softplus(dt + b). ``diagonal`` widens dt from rank
    E / 32 to all channels first (2312.00752, section 3.6). Before training softplus(b) is log-uniform in [0.001, 0.1],
    -A uniform in [1, 16] (scalar) or 1 to S (diagonal), and D is one.

    Args:
        dim: width of the tokens u.
        inner: E.
        groups: G, each with dt, B, C, A and D of its own.
        state_size: S.
        decay: "scalar", a decay for each head of 64 channels (2405.21060), or "diagonal", one for each channel and
            state (2312.00752).

    Raises:
        PochadeError: ``decay`` is unknown.
    """

    def __init__(self, dim: int, inner: int, groups: int, state_size: int, decay: Decay) -> None:
        super().__init__()
        if decay not in ("scalar", "diagonal"):
            raise PochadeError(f"decay: {decay!r} given, allowed are 'scalar' and 'diagonal'")
        heads = inner // math.gcd(inner, HEAD_WIDTH)
        rank = heads if decay == "scalar" else math.ceil(inner / 32)
        self.widths = [rank, state_size, state_size]
        self.groups = groups
        self.project = Linear(dim, groups * sum(self.widths), bias=False)
        if decay == "scalar":
            self.widen = None
            decays = torch.empty(groups * heads).uniform_(1, 16)
        else:
            self.widen = nn.Parameter(torch.empty(groups, rank, inner).uniform_(-(rank**-0.5), rank**-0.5))
            decays = torch.arange(1.0, state_size + 1).repeat(groups * inner, 1)
        dt = torch.exp(
            torch.empty(groups, heads if decay == "scalar" else inner).uniform_(math.log(1e-3), math.log(0.1))
        )
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log = nn.Parameter(decays.log())
        self.D = nn.Parameter(torch.ones(groups * inner))
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter.no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, u: Tensor) -> Tensor:
        """Tokens [B, N, dim] -> dt (not yet widened), B and C of each group in turn: [B, N, G P]."""
        return self.project(u)

    def inputs(self, selection: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``selection``, its tokens perhaps reordered group by group -> dt, A, B, C as ``selective_scan`` takes them.

        dt and A in float32 at least: a decay near one has no digits left in half precision.
        """
        wide = torch.promote_types(selection.dtype, torch.float32)
        dt, B, C = torch.split(torch.unflatten(selection, -1, (self.groups, -1)), self.widths, dim=-1)
        if self.widen is not None:
            dt = torch.einsum("bngr,gre->bnge", dt, with_own_layout(self.widen).to(dt.dtype))
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)).flatten(2)
        return dt, -torch.exp(self.A_log.to(wide)), B, C

    def along(self, x: Tensor, selection: Tensor, order: Tensor, divisor: int = 1) -> Tensor:
        """The sum of all scans of x [B, N, E] by ``selection`` [B, N, G P] over ``divisor``, in raster order both, with
        a scalar decay, where ``inference`` serves; ``order`` [G / 2, N] has the path of each two of them."""
        given = x, selection, self.dt_bias, self.A_log, self.D, order
        return inference.path_scan(*given, self.widths[2], divisor)

    def scan(self, x: Tensor, selection: Tensor) -> Tensor:
        """x [B, N, G E] and ``selection`` [B, N, G P] -> y [B, N, G E], from the first token to the last."""
        if self.groups == 1 and self.widen is None and inference.serves(x, self.dt_bias):
            return self.along(x, selection, kept_orders(DIRECTIONS[:1], 1, x.shape[1])[0])
        if self.groups == 1 and self.is_exported:
            return self.scan_paths(x, selection, [scan_order(DIRECTIONS[0], 1, x.shape[1])]) + x * self.D
        return selective_scan(x, *self.inputs(selection), self.D)

    def scan_both(self, x: Tensor, selection: Tensor) -> Tensor:
        """x [B, N, G / 2 E] and ``selection`` [B, N, G P] -> y [B, N, G / 2 E], each E channels scanned by two groups:
        by the first from the first token to the last, by the second from the last to the first."""
        pairs = (self.groups // 2, 2, -1)
        dt, A, B, C = self.inputs(selection)
        steps = torch.unflatten(dt, 2, pairs)
        rates, skips = (torch.unflatten(v, 0, pairs) for v in (A, self.D))

        def way(back: int) -> Inputs:
            own, skip = rates[:, back].flatten(0, 1), skips[:, back].flatten()
            return Inputs(x, steps[:, :, :, back].flatten(2), own, B[:, :, back::2], C[:, :, back::2], skip)

        return bidirectional_scan(way(0), way(1))

    @property
    def is_exported(self) -> bool:
        """Whether a graph is being exported, and ``scan_paths`` has a form for the decays."""
        return torch.compiler.is_exporting() and self.widen is None

    def skip(self) -> Tensor:
        """By what all groups together multiply x: [E]."""
        return torch.unflatten(self.D, 0, (self.groups, -1)).sum(0)

    def scan_paths(self, x: Tensor, selection: Tensor, orders: Sequence[Tensor]) -> Tensor:
        """The sum of all scans of x [B, N, E] by ``selection`` [B, N, G P], in raster order both, without D, for
        exported graphs; ``orders``, G times [N], has that of each scan, the way back after the way there."""
        inverses = torch.stack([inverse_order(order) for order in orders])
        ways = min(self.groups, 2)
        given = x, selection, self.dt_bias, self.A_log, torch.stack(list(orders)), inverses
        return operators.scan_paths(*given, ways, self.widths[2])


class FourDirectionScan(nn.Module):
    """Selective scans along rows and columns, forth and back (2401.10166), between shared projections.

    [x, z] = W_in u, x <- SiLU(depthwise 3 x 3 (x)); four scans of x, each with its own dt, B, C, A and D, as groups of
    one; their mean y, normalised, is mixed with x by a gate:

        out = W_out (g y + (1 - g) x),    g = sigmoid(z).

    Args:
        dim: D.
        inner: E, width of x and z.
        state_size: S.
        decay: see ``Selection``.
        directions: how many of ``DIRECTIONS`` there are: all 4, the 2 along rows, or 1, forth along rows.

    Raises:
        PochadeError: ``decay`` is unknown, ``directions`` is not 1, 2 or 4, or H W is not the number of tokens.
    """

    def __init__(
        self, dim: int, inner: int, state_size: int, decay: Decay = "scalar", directions: int = len(DIRECTIONS)
    ) -> None:
        super().__init__()
        if directions not in (1, 2, 4):
            raise PochadeError(f"directions: {directions!r} given, allowed are 1, 2 and 4")
        self.directions = directions
        self.inner = Linear(dim, 2 * inner, bias=False)
        self.local = DepthwiseConv(inner)
        self.selection = Selection(inner, inner, directions, state_size, decay)
        self.norm = LayerNorm(inner)
        self.out = Linear(inner, dim, bias=False)

    def forward(self, u: Tensor, height: int, width: int) -> Tensor:
        """[B, H W, D] -> [B, H W, D]."""
        check_grid(u, height, width)
        x, gate = self.inner(u).chunk(2, dim=-1)
        served = self.selection.widen is None and inference.serves(x, self.norm.weight)
        if served and self.local.bias is not None:
            x = inference.depthwise(x, self.local.weight, self.local.bias, height, width, silu=True)
            order, _ = kept_orders(DIRECTIONS[: self.directions : 2], height, width)
            y = self.selection.along(x, self.selection(x), order, self.directions)
            return self.out(inference.gated_norm(y, self.norm.weight, self.norm.bias, gate, x))
        x = F.silu(self.local(x, height, width))
        y = self._scan(x, self.selection(x), height, width)
        # The norm of a mean is that of the sum with its epsilon times the square of their number.
        y = layer_norm(y, self.norm.weight, self.norm.bias, self.norm.eps * self.directions**2)
        return self.out(torch.lerp(x, y, torch.sigmoid(gate)))

    def _scan(self, x: Tensor, selection: Tensor, height: int, width: int) -> Tensor:
        """The sum of the scans of x [B, N, E] by ``selection`` [B, N, directions P], all in raster order.

        Rows and columns are scanned forth at once, then back at once: no token is moved but into columns and out again.
        """
        if self.directions == 1:
            return self.selection.scan(x, selection)
        if self.selection.is_exported:
            orders = [scan_order(name, height, width, device=x.device) for name in DIRECTIONS[: self.directions]]
            return self.selection.scan_paths(x, selection, orders) + x * self.selection.skip()
        if self.directions == 2:
            return self.selection.scan_both(x, selection)
        y = self.selection.scan_both(both_axes(x, height, width), own_axes(selection, height, width))
        return merge_axes(y, height, width)


def four_direction_scan_reference(module: FourDirectionScan, u: Tensor, height: int, width: int) -> Tensor:
    """``FourDirectionScan`` direction by direction, each a loop over the tokens in its order."""
    x, gate = module.inner(u).chunk(2, dim=-1)
    x = F.silu(module.local(x, height, width))
    selection, total = module.selection(x), torch.zeros_like(x)
    dt, A, B, C = (
        v.chunk(module.directions, dim=axis)
        for v, axis in zip(module.selection.inputs(selection), (2, 0, 2, 2), strict=True)
    )
    for i, (name, D) in enumerate(zip(DIRECTIONS, module.selection.D.chunk(module.directions), strict=False)):
        order = scan_order(name, height, width)
        y, _ = selective_scan_reference(x[:, order], dt[i][:, order], A[i], B[i][:, order], C[i][:, order], D)
        total = total + y[:, inverse_order(order)]
    y = total / module.directions
    y = y - y.mean(-1, keepdim=True)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.norm.weight + module.norm.bias
    g = torch.sigmoid(gate)
    return module.out(g * y + (1 - g) * x)
