"""Scan orders: permutations, neighbours, inverses, and their forms by transpose and flip."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.scan_orders import (
    DIRECTIONS,
    ZIGZAGS,
    both_axes,
    inverse_order,
    merge_axes,
    own_axes,
    reorder,
    scan_order,
)

SIZES = [(1, 1), (1, 5), (4, 1), (2, 2), (3, 4), (4, 3), (5, 5), (2, 9)]


def numbered(height: int, width: int, dim: int = 3, batch: int = 2) -> Tensor:
    """[B, N, D] float64, every number another."""
    return torch.arange(batch * height * width * dim, dtype=torch.float64).view(batch, height * width, dim)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", DIRECTIONS + ZIGZAGS)
def test_an_order_meets_every_token_once_and_its_inverse_undoes_it(name: str, height: int, width: int) -> None:
    order = scan_order(name, height, width)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(height * width))
    x = numbered(height, width)
    assert torch.equal(reorder(reorder(x, order), inverse_order(order)), x)
    assert torch.equal(order[inverse_order(order)], torch.arange(height * width))


def test_the_directions_of_a_grid() -> None:
    orders = {name: scan_order(name, 2, 3).tolist() for name in DIRECTIONS}
    assert orders == {
        "left-right": [0, 1, 2, 3, 4, 5],
        "right-left": [5, 4, 3, 2, 1, 0],
        "top-down": [0, 3, 1, 4, 2, 5],
        "bottom-up": [5, 2, 4, 1, 3, 0],
    }


def test_a_zigzag_of_a_grid() -> None:
    assert scan_order("rows-top-right", 3, 3).tolist() == [2, 1, 0, 3, 4, 5, 8, 7, 6]
    assert scan_order("columns-bottom-left", 3, 2).tolist() == [4, 2, 0, 1, 3, 5]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", ZIGZAGS)
def test_each_token_of_a_zigzag_is_adjacent_to_the_one_before(name: str, height: int, width: int) -> None:
    order = scan_order(name, height, width)
    rows, columns = order // width, order % width
    assert (rows.diff().abs() + columns.diff().abs() == 1).all()


@pytest.mark.parametrize(("height", "width"), [s for s in SIZES if min(s) > 1])
def test_the_eight_zigzags_differ_and_start_where_their_names_say(height: int, width: int) -> None:
    orders = {name: scan_order(name, height, width).tolist() for name in ZIGZAGS}
    assert len({tuple(order) for order in orders.values()}) == len(ZIGZAGS) == 8
    for name, order in orders.items():
        axis, vertical, horizontal = name.split("-")
        assert order[0] == (height - 1) * width * (vertical == "bottom") + (width - 1) * (horizontal == "right")
        assert abs(order[1] - order[0]) == (1 if axis == "rows" else width)


def test_successive_zigzags_change_the_axis_and_four_meet_the_corners() -> None:
    axes = [name.split("-")[0] for name in ZIGZAGS]
    assert axes == ["rows", "columns"] * 4
    corners = [name.split("-", 1)[1] for name in ZIGZAGS]
    assert len(set(corners[:4])) == len(set(corners[4:])) == 4


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_axes_and_their_flips_are_the_four_directions(height: int, width: int) -> None:
    x = numbered(height, width)
    forth = both_axes(x, height, width)
    found = torch.cat((forth, forth.flip(1)), dim=-1).chunk(4, dim=-1)
    for name, part in zip(("left-right", "top-down", "right-left", "bottom-up"), found, strict=True):
        assert torch.equal(part, reorder(x, scan_order(name, height, width)))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_each_half_goes_along_its_own_axis(height: int, width: int) -> None:
    x = numbered(height, width, 6)
    parts = zip(("left-right", "top-down"), x.chunk(2, dim=-1), strict=True)
    expected = torch.cat([reorder(part, scan_order(name, height, width)) for name, part in parts], dim=-1)
    assert torch.equal(own_axes(x, height, width), expected)
    same = numbered(height, width)
    assert torch.equal(own_axes(torch.cat([same] * 2, -1), height, width), both_axes(same, height, width))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_merging_is_the_sum_of_both_axes_back_in_raster_order(height: int, width: int) -> None:
    y = torch.randn(2, height * width, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = y.chunk(2, dim=-1)
    back = reorder(columns, inverse_order(scan_order("top-down", height, width)))
    assert torch.equal(merge_axes(y, height, width), rows + back)
    x = numbered(height, width)
    assert torch.equal(merge_axes(both_axes(x, height, width), height, width), 2 * x)


def test_merging_is_the_adjoint_of_both_axes() -> None:
    """<both_axes(x), y> = <x, merge_axes(y)>: the gradients follow from one another."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 15, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randn(2, 15, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad((both_axes(x, 3, 5) * y).sum(), x)
    torch.testing.assert_close(gradient, merge_axes(y, 3, 5))
    assert torch.autograd.gradcheck(lambda y: merge_axes(y, 3, 5), y)
    order = scan_order("rows-top-left", 3, 5)
    assert torch.autograd.gradcheck(lambda x: reorder(x, order), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_orders_keep_the_type_and_serve_an_empty_batch(dtype: torch.dtype) -> None:
    x = numbered(2, 3).to(dtype)
    assert reorder(x, scan_order("rows-top-left", 2, 3)).dtype == both_axes(x, 2, 3).dtype == dtype
    assert merge_axes(both_axes(x, 2, 3), 2, 3).dtype == dtype
    empty = x[:0]
    assert both_axes(empty, 2, 3).shape == (0, 6, 6)
    assert merge_axes(both_axes(empty, 2, 3), 2, 3).shape == (0, 6, 3)


def beside(left: Tensor, right: Tensor, height: int) -> Tensor:
    """Two grids of H rows, each [B, N, D] in raster order -> the raster [B, 2 N, D] of both beside each other."""
    return torch.cat([grid.unflatten(1, (height, -1)) for grid in (left, right)], dim=2).flatten(1, 2)


@pytest.mark.parametrize("name", ZIGZAGS)
def test_a_zigzag_crosses_the_seam_of_a_pair_between_neighbours(name: str) -> None:
    """Every step, those from one grid to the other among them, joins tokens adjacent in the picture [left | right]."""
    height, width = 3, 4
    cells = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)
    left = torch.cat((cells, torch.zeros(height, width, 1, dtype=torch.int64)), dim=-1).flatten(0, 1)[None]
    right = left + torch.tensor([0, 0, 1])
    path = reorder(beside(left, right, height), scan_order(name, height, 2 * width))[0]
    assert len({tuple(token) for token in path.tolist()}) == 2 * height * width
    in_picture = path[:, :2] + path[:, 2:] * torch.tensor([0, width])
    assert (in_picture.diff(dim=0).abs().sum(1) == 1).all()
    crossings = path[:, 2].diff().abs().sum().item()
    assert crossings == (height if name.startswith("rows") else 1)


def test_bad_arguments_are_named() -> None:
    x = numbered(2, 3)
    with pytest.raises(PochadeError, match=r"name: 'top-dwn' given.*did you mean 'top-down'"):
        scan_order("top-dwn", 2, 3)
    with pytest.raises(PochadeError, match="height, width: 0 x 3 given"):
        scan_order("top-down", 0, 3)
    with pytest.raises(PochadeError, match=r"order: shape \[4\] given.* needs \[6\]"):
        reorder(x, scan_order("top-down", 2, 2))
    with pytest.raises(PochadeError, match="height, width: 2 and 2 given"):
        both_axes(x, 2, 2)
    with pytest.raises(PochadeError, match="height, width: 3 and 3 given"):
        merge_axes(x, 3, 3)
    with pytest.raises(PochadeError, match="x: 3 channels given"):
        merge_axes(x, 2, 3)
    with pytest.raises(PochadeError, match="x: 3 channels given"):
        own_axes(x, 2, 3)


class Scans(nn.Module):
    """A cumulative sum along both axes, and one along a zigzag over the picture beside itself."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        merged = merge_axes(both_axes(x, 3, 4).cumsum(1), 3, 4)
        order = scan_order("columns-bottom-right", 3, 8, device=x.device)
        path = reorder(beside(x, merged, 3), order).cumsum(1)
        return merged, reorder(path, inverse_order(order)).unflatten(1, (3, 2, 4))[:, :, 0].flatten(1, 2)


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # a warning of torch's exporter about its own code
def test_orders_export_and_compile(tmp_path: Path) -> None:
    x = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    expected = Scans()(x)
    path = tmp_path / "scans.onnx"
    torch.onnx.export(Scans().eval(), (x,), path, dynamo=True, opset_version=20, verbose=False, report=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for ours, theirs in zip(expected, session.run(None, {session.get_inputs()[0].name: x.numpy()}), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours)
    compiled = torch.compile(Scans(), backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(expected, compiled(x), strict=True):
        torch.testing.assert_close(theirs, ours)
