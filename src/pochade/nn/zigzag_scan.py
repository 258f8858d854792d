"""A selective scan along a path of the token grid, forth and back, and a convolution beside it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.convolution import DepthwiseConv, check_grid
from pochade.nn.cpu import inference
from pochade.nn.four_direction_scan import Decay, Selection
from pochade.nn.linear import Linear
from pochade.nn.norms import layer_norm
from pochade.nn.scan import selective_scan_reference
from pochade.nn.scan_orders import inverse_order, kept_orders, reorder, scan_order


class ZigzagScan(nn.Module):
    """Selective scans there and back along one path of the grid (2403.13802), a depthwise convolution beside.

    [x, z] = W_in u, x <- SiLU(x), dt, B and C of each direction from u, and

        out = W_out (norm(forth(x) + back(x) + conv(x)) * SiLU(z)),

    norm a layer norm with a learned scale: the three are added up at whatever size they have.

    Args:
        dim: D.
        inner: E, width of x and z.
        state_size: S.
        path: a name of ``scan_orders.scan_order``.
        decay: see ``Selection``.
        depthwise: whether there is the convolution. kernel: its rows and columns, odd.

    Raises:
        PochadeError: ``decay`` or ``path`` is unknown, or H W is not the number of tokens.
    """

    def __init__(
        self,
        dim: int,
        inner: int,
        state_size: int,
        path: str,
        decay: Decay = "scalar",
        depthwise: bool = True,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        scan_order(path, 1, 1)
        self.path = path
        self.inner = Linear(dim, 2 * inner, bias=False)
        self.selection = Selection(dim, inner, 2, state_size, decay)
        self.local = DepthwiseConv(inner, kernel) if depthwise else None
        self.norm = nn.Parameter(torch.ones(inner))
        self.out = Linear(inner, dim)

    def orders(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The path over an H x W grid and the way back to raster order, both [H W]."""
        if inference.serves(self.norm):
            order, inverse = kept_orders((self.path,), height, width)
            return order[0], inverse[0]
        order = scan_order(self.path, height, width, device=device)
        return order, inverse_order(order)

    def forward(self, u: Tensor, height: int, width: int, orders: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[B, H W, D] -> [B, H W, D].

        ``orders`` as the method of that name gives them: scans along different paths that are given theirs share their
        compiled code.
        """
        check_grid(u, height, width)
        x, gate = self.inner(u).chunk(2, dim=-1)
        x = F.silu(x)
        if self.selection.widen is None and inference.serves(x, self.norm):
            order, _ = kept_orders((self.path,), height, width)
            y = self.selection.along(x, self.selection(u), order)
            if self.local is not None and self.local.bias is not None:
                y = inference.depthwise(x, self.local.weight, self.local.bias, height, width, onto=y)
            return self.out(inference.gated_norm(y, self.norm, None, gate))
        order, inverse = self.orders(height, width, u.device) if orders is None else orders
        if self.selection.is_exported:
            y = self.selection.scan_paths(x, self.selection(u), [order, order.flip(0)])
            y = y + self._beside(x, height, width)
        else:
            selection = reorder(self.selection(u), order)
            y = reorder(self.selection.scan_both(reorder(x, order), selection), inverse)
            if self.local is not None:
                y = y + self.local(x, height, width)
        return self.out(layer_norm(y, self.norm) * F.silu(gate))

    def _beside(self, x: Tensor, height: int, width: int) -> Tensor:
        """What is added to ``Selection.scan_paths`` in exported graphs: the convolution, its middle with D in it."""
        skip = self.selection.skip()
        return x * skip if self.local is None else self.local(x, height, width, skip)


def zigzag_scan_reference(module: ZigzagScan, u: Tensor, height: int, width: int) -> Tensor:
    """``ZigzagScan`` with each scan a loop over the tokens of its path, the way back over the path reversed."""
    x, gate = module.inner(u).chunk(2, dim=-1)
    x = F.silu(x)
    order = scan_order(module.path, height, width)
    dt, A, B, C = module.selection.inputs(module.selection(u))
    y = torch.zeros_like(x) if module.local is None else module.local(x, height, width)
    for i, path in enumerate((order, order.flip(0))):
        parts = dt.chunk(2, dim=-1)[i], B[:, :, i], C[:, :, i]
        dt_path, B_path, C_path = (part[:, path] for part in parts)
        found, _ = selective_scan_reference(
            x[:, path], dt_path, A.chunk(2)[i], B_path, C_path, module.selection.D.chunk(2)[i]
        )
        y = y + found[:, inverse_order(path)]
    y = y - y.mean(-1, keepdim=True)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.norm
    return module.out(y * F.silu(gate))
