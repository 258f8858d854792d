from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.nn.scan_orders import ZIGZAGS, scan_order
from pochade.nn.zigzag_scan import ZigzagScan, zigzag_scan_reference

GRIDS = ((1, 1), (3, 5), (4, 4), (7, 2))


def make(stirred: bool = True, **changes: Any) -> ZigzagScan:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"dim": 6, "inner": 12, "state_size": 3, "path": "rows-top-left"}
    module = ZigzagScan(**{**settings, **changes})
    if stirred:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def tokens(grid: tuple[int, int], batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, grid[0] * grid[1], 6, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("decay", ["scalar", "diagonal"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("path", ["rows-top-left", "columns-bottom-right"])
def test_equals_the_loop_over_the_path(decay: Any, grid: tuple[int, int], path: str):
    module = make(decay=decay, path=path).double()
    results: list[list[Tensor]] = []
    for function in (module, lambda u, h, w: zigzag_scan_reference(module, u, h, w)):
        u = tokens(grid).requires_grad_()
        y = function(u, *grid)
        loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
        results.append([y, *torch.autograd.grad(loss, [u, *module.parameters()])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


def test_equals_the_loop_in_single_precision_and_without_the_convolution():
    module = make(depthwise=False)
    u = tokens((5, 7), dtype=torch.float32)
    torch.testing.assert_close(module(u, 5, 7), zigzag_scan_reference(module, u, 5, 7), atol=1e-5, rtol=1e-5)
    assert not any("local" in name for name, _ in module.named_parameters())


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("grid", [(3, 5), (7, 9)])
def test_the_form_of_exported_graphs(monkeypatch: pytest.MonkeyPatch, depthwise: bool, grid: tuple[int, int]):
    module, u = make(depthwise=depthwise, path="columns-bottom-right", inner=128).double(), tokens(grid)
    wanted = zigzag_scan_reference(module, u, *grid)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(module(u, *grid), wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("path", ZIGZAGS)
def test_every_token_reaches_every_other(path: str):
    module, u = make(path=path).double(), tokens((3, 4), batch=1)
    reached = torch.autograd.functional.jacobian(lambda v: module(v, 3, 4).sum(-1)[0], u)
    assert (reached[:, 0].abs().sum(-1) > 1e-12).all()


def test_half_a_turn_of_the_picture_takes_a_path_to_that_from_the_opposite_corner():
    module = make(path="rows-top-left", depthwise=False).double()
    turned = make(path="rows-bottom-right", depthwise=False).double()
    turned.load_state_dict(module.state_dict())
    u = tokens((3, 4))
    torch.testing.assert_close(turned(u.flip(1), 3, 4).flip(1), module(u, 3, 4), atol=1e-12, rtol=0)


def test_two_directions_have_their_own_decays_and_steps():
    """With the backward direction closed (C = 0), no token depends on a later one, but for the convolution."""
    module = make(depthwise=False).double()
    rank, state = module.selection.widths[0], 3
    with torch.no_grad():
        module.selection.project.weight[-state:] = 0
        module.selection.D[12:] = 0
    u = tokens((3, 4), batch=1)
    order = scan_order("rows-top-left", 3, 4)
    reached = torch.autograd.functional.jacobian(lambda v: module(v, 3, 4).sum(-1)[0], u)[:, 0].abs().sum(-1)
    along = reached[order][:, order]
    assert along.triu(1).eq(0).all()
    assert (along.tril() > 1e-12).sum() == 12 * 13 / 2
    assert module.selection.project.weight.shape[0] == 2 * (rank + 2 * state)


def test_decays_steps_and_skips_are_not_decayed():
    for decay in ("scalar", "diagonal"):
        module = make(decay=decay, stirred=False)
        exempt = {n for n, p in module.named_parameters() if p.ndim < 2 or getattr(p, "no_weight_decay", False)}
        assert {"selection.A_log", "selection.D", "selection.dt_bias", "norm", "out.bias", "local.bias"} <= exempt
        assert not {"inner.weight", "selection.project.weight", "out.weight"} & exempt


def test_half_precision_keeps_the_states_in_float32():
    """4,096 tokens with decays near one: sums in bfloat16 would stand still."""
    module = make(stirred=False, depthwise=False, path="columns-top-left").eval()
    u = tokens((64, 64), batch=1, dtype=torch.float32)
    with torch.no_grad():
        exact = module(u, 64, 64)
        with torch.autocast("cpu", torch.bfloat16):
            near = module(u, 64, 64).float()
    assert (near - exact).abs().max() < 0.06 * exact.abs().max()


def test_wrong_arguments_are_named():
    for changes, message in (({"path": "spiral"}, "name: 'spiral'"), ({"decay": "complex"}, "decay: 'complex'")):
        with pytest.raises(PochadeError, match=message):
            make(**changes)
    with pytest.raises(PochadeError, match="height, width: 2 and 3"):
        make()(torch.zeros(1, 5, 6), 2, 3)
