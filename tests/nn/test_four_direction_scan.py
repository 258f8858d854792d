from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.export.parity import Input, check
from pochade.nn.four_direction_scan import FourDirectionScan, Selection, four_direction_scan_reference

DECAYS = ("scalar", "diagonal")


def make(
    decay: Any, dim: int = 6, inner: int = 12, dtype: torch.dtype = torch.float64, directions: int = 4
) -> FourDirectionScan:
    torch.manual_seed(0)
    module = FourDirectionScan(dim, inner, 3, decay, directions)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.to(dtype)


def tokens(height: int, width: int, dim: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, height * width, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        dtype
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(
    ("height", "width", "directions"), [(1, 1, 4), (3, 5, 4), (4, 4, 4), (9, 8, 4), (3, 5, 2), (3, 5, 1)]
)
def test_equals_a_loop_for_each_direction(decay: Any, height: int, width: int, directions: int) -> None:
    module, u = make(decay, directions=directions), tokens(height, width).requires_grad_()
    values = [
        f(u)
        for f in (lambda u: module(u, height, width), lambda u: four_direction_scan_reference(module, u, height, width))
    ]
    torch.testing.assert_close(*values, atol=1e-10, rtol=1e-10)
    wanted = [u, *module.parameters()]
    gradients = [torch.autograd.grad(v.square().sum(), wanted, retain_graph=True) for v in values]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    single = make(decay, dtype=torch.float32, directions=directions)
    found = single(u.detach().float(), height, width)
    torch.testing.assert_close(found, values[0].detach().float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("directions", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(3, 5), (9, 8)])
def test_the_form_of_exported_graphs(monkeypatch: pytest.MonkeyPatch, height: int, width: int, directions: int) -> None:
    module, u = make("scalar", inner=128, directions=directions), tokens(height, width)
    wanted = four_direction_scan_reference(module, u, height, width)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(module(u, height, width), wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("decay", DECAYS)
def test_turning_the_picture_exchanges_the_directions(decay: Any) -> None:
    """With one selection for all directions and a symmetric convolution, half a turn and a transpose commute."""
    module = make(decay)
    selection = module.selection
    with torch.no_grad():
        for parameter in (selection.project.weight, selection.A_log, selection.D):
            parameter.copy_(parameter.chunk(4)[0].repeat(4, *[1] * (parameter.ndim - 1)))
        selection.dt_bias.copy_(selection.dt_bias[:1].expand_as(selection.dt_bias))
        if selection.widen is not None:
            selection.widen.copy_(selection.widen[:1].expand_as(selection.widen))
        module.local.weight.fill_(0.2)
    u = tokens(4, 5)
    expected = module(u, 4, 5).unflatten(1, (4, 5))
    grid = u.unflatten(1, (4, 5))
    for turn in (lambda g: g.flip(1, 2), lambda g: g.transpose(1, 2)):
        turned = turn(grid)
        found = module(turned.flatten(1, 2), *turned.shape[1:3]).unflatten(1, turned.shape[1:3])
        torch.testing.assert_close(found, turn(expected), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("decay", "inner"), [("scalar", 640), ("diagonal", 96)])
def test_decays_before_training(decay: Any, inner: int) -> None:
    torch.manual_seed(0)
    selection = Selection(8, inner, 4, 5, decay)
    dt, A, B, C = selection.inputs(torch.zeros(1, 1, selection.project.out_features))
    steps = 4 * (10 if decay == "scalar" else 96)
    assert dt.shape == (1, 1, steps)
    assert B.shape == C.shape == (1, 1, 4, 5)
    assert 0.9e-3 < dt.min() < 0.01 < dt.max() < 0.11
    quarter = ((dt < 10**-1.5).float().mean(), 0.75)  # log-uniform: 0.001 to 0.0316 is three quarters of it
    assert abs(float(quarter[0]) - quarter[1]) < 0.2
    if decay == "scalar":
        assert A.shape == (40,)
        assert -16 <= A.min() < -8 < A.max() <= -1
    else:
        torch.testing.assert_close(A, -torch.arange(1.0, 6).expand(4 * 96, 5))
    assert all(getattr(p, "no_weight_decay", False) for p in (selection.dt_bias, selection.A_log, selection.D))


def test_head_width_is_what_divides() -> None:
    for inner, heads in ((640, 10), (96, 3), (12, 3), (7, 7)):
        assert Selection(4, inner, 1, 2, "scalar").A_log.shape == (heads,), inner


@pytest.mark.parametrize("decay", DECAYS)
def test_half_precision_stays_near(decay: Any) -> None:
    module, u = make(decay, dtype=torch.float32), tokens(4, 4, dtype=torch.float32)
    exact = module(u, 4, 4)
    half = module.bfloat16()(u.bfloat16(), 4, 4)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # a warning of torch's exporter about its own code
@pytest.mark.parametrize("decay", DECAYS)
def test_exports(decay: Any, tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scan = make(decay, dtype=torch.float32)

        def forward(self, u: Tensor) -> Tensor:
            return self.scan(u, 3, 5)

    module = Fixed().eval()
    torch.onnx.export(
        module, (torch.randn(2, 15, 6),), tmp_path / "scan.onnx", dynamo=True, opset_version=20, verbose=False
    )
    inputs = (Input("u", (15, 6)),)
    check(tmp_path / "scan.onnx", module, inputs, batches=(2,), tolerance=1e-5)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(PochadeError, match="decay: 'matrix' given"):
        FourDirectionScan(4, 8, 2, "matrix")  # pyright: ignore[reportArgumentType]
    with pytest.raises(PochadeError, match="height, width"):
        make("scalar")(tokens(3, 4), 3, 5)


def test_one_direction_reaches_what_follows_alone_and_two_reach_the_row_before() -> None:
    u = tokens(2, 3)[:1]
    reached = {}
    for directions in (1, 2):
        module = make("scalar", directions=directions)
        module.local.weight.data.zero_()  # nothing but the scan carries on
        module.local.weight.data[:, :, 1, 1] = 1
        jacobian = torch.autograd.functional.jacobian(lambda v, module=module: module(v, 2, 3).sum(-1)[0], u)
        reached[directions] = jacobian[:, 0].abs().sum(-1) > 1e-12
    assert torch.equal(reached[1], torch.ones(6, 6).tril().bool())
    assert bool(reached[2].all())
    with pytest.raises(PochadeError, match="directions: 3 given, allowed are 1, 2 and 4"):
        make("scalar", directions=3)
