"""In which order a recurrence meets the tokens of a grid.

An order is an int64 permutation of the raster indices ``row * W + column`` of an H x W grid: token ``order[k]`` comes
k-th. The left-right order is the raster itself.

Two grids side by side, ``[target | source]``, are one grid of H rows and 2 W columns in every respect: its orders are
``scan_order(name, H, 2 * W)``, and neighbours in a zigzag stay adjacent where it crosses from one grid to the other. A
path along rows meets both grids in every row, W tokens apart on average; a path along columns finishes one grid before
it enters the other, so that only a scan in both directions lets the target depend on the source.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pochade.errors import PochadeError, nearest
from pochade.nn.convolution import check_grid

DIRECTIONS = ("left-right", "right-left", "top-down", "bottom-up")
"""The orders of a four-direction scan (2401.10166): along rows, along columns, and both backwards."""

# name: (along columns, from the bottom, from the right)
_ZIGZAGS = {
    "rows-top-left": (False, False, False),
    "columns-bottom-right": (True, True, True),
    "rows-top-right": (False, False, True),
    "columns-bottom-left": (True, True, False),
    "rows-bottom-right": (False, True, True),
    "columns-top-left": (True, False, False),
    "rows-bottom-left": (False, True, False),
    "columns-top-right": (True, False, True),
}

ZIGZAGS = tuple(_ZIGZAGS)
"""The eight paths on which each token is adjacent to the one before (2403.13802): along rows or columns, from each
corner. So sorted that successive blocks change the axis, and four from the first or the fifth meet the four corners."""


def scan_order(name: str, height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """The order called ``name`` (of ``DIRECTIONS`` or ``ZIGZAGS``) of an H x W grid: [H W] int64.

    Raises:
        PochadeError: an unknown name, or a grid without rows or columns.
    """
    if name not in DIRECTIONS and name not in _ZIGZAGS:
        raise PochadeError(
            f"name: {name!r} given, allowed are {', '.join(DIRECTIONS + ZIGZAGS)}{nearest(name, DIRECTIONS + ZIGZAGS)}"
        )
    if height < 1 or width < 1:
        raise PochadeError(f"height, width: {height} x {width} given, each must be at least 1")
    grid = torch.arange(height * width, device=device).view(height, width)
    if name in DIRECTIONS:
        along_columns, backwards = name in DIRECTIONS[2:], name in DIRECTIONS[1::2]
        order = (grid.T if along_columns else grid).flatten()
        return order.flip(0) if backwards else order
    along_columns, from_bottom, from_right = _ZIGZAGS[name]
    grid = grid.flip([axis for axis, turned in enumerate((from_bottom, from_right)) if turned])
    if along_columns:
        grid = grid.T
    returning = torch.arange(grid.shape[0], device=device)[:, None] % 2 == 1
    return torch.where(returning, grid.flip(1), grid).flatten()


@functools.lru_cache(maxsize=64)
def kept_orders(names: Sequence[str], height: int, width: int) -> tuple[Tensor, Tensor]:
    """``scan_order`` of each name and the inverses, both [names, H W] on the CPU, computed once; not to be changed."""
    with torch.inference_mode(False):
        orders = [scan_order(name, height, width) for name in names]
        return torch.stack(orders), torch.stack([inverse_order(order) for order in orders])


def inverse_order(order: Tensor) -> Tensor:
    """The permutation [N] that undoes ``order`` [N]: ``reorder(reorder(x, order), inverse_order(order))`` is x."""
    places = torch.arange(order.shape[0], device=order.device)
    return (0 * places).scatter(0, order, places)  # phones' runtimes have no form of ``empty_like``


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """The tokens of x [B, N, D] in ``order`` [N] (int64, on the device of x): [B, N, D].

    Raises PochadeError where the order has another length.
    """
    if order.shape != x.shape[1:2]:
        raise PochadeError(f"order: shape {list(order.shape)} given, x {list(x.shape)} needs [{x.shape[1]}]")
    return x.index_select(1, order)


def both_axes(x: Tensor, height: int, width: int) -> Tensor:
    """x [B, N, D] in raster order -> [B, N, 2 D]: along rows, and along columns, side by side.

    Raises:
        PochadeError: N is not H W.
    """
    check_grid(x, height, width)
    return torch.cat((x, _transposed(x, height, width)), dim=-1)


def own_axes(x: Tensor, height: int, width: int) -> Tensor:
    """x [B, N, 2 D] in raster order -> [B, N, 2 D]: half of the channels along rows, the others along columns.

    Raises:
        PochadeError: N is not H W, or the channels are odd in number.
    """
    rows, columns = _halves(x, height, width)
    return torch.cat((rows, _transposed(columns, height, width)), dim=-1)


def merge_axes(y: Tensor, height: int, width: int) -> Tensor:
    """y [B, N, 2 D], laid out as ``both_axes`` gives it -> [B, N, D]: the sum of the two in raster order.

    Raises:
        PochadeError: N is not H W, or the channels are odd in number.
    """
    rows, columns = _halves(y, height, width)
    batch, _, dim = rows.shape
    down = columns.reshape(batch, width, height, dim).transpose(1, 2)
    return (rows.reshape(batch, height, width, dim) + down).flatten(1, 2)


def _halves(x: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    check_grid(x, height, width)
    if x.shape[-1] % 2:
        raise PochadeError(f"x: {x.shape[-1]} channels given, must be even in number")
    return x.chunk(2, dim=-1)


def _transposed(x: Tensor, height: int, width: int) -> Tensor:
    """The raster of an H x W grid -> the raster of its transpose, both [B, N, D]."""
    batch, _, dim = x.shape
    return x.reshape(batch, height, width, dim).transpose(1, 2).flatten(1, 2)
