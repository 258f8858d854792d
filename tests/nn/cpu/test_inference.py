"""What a CPU computes in one loop where no gradient is wanted is what the composition of torch operators computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("numba")

from pochade.denoisers.lira import LiRADenoiser
from pochade.denoisers.lira.reasoning import ReasoningLoop
from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.nn.attention import LinearCrossAttention, multi_query_attention, softmax_attention, split_heads
from pochade.nn.convolution import DepthwiseConv
from pochade.nn.cpu import inference, loops
from pochade.nn.cpu.vectors import LANES
from pochade.nn.feedforward import MixFeedForward
from pochade.nn.four_direction_scan import FourDirectionScan, Selection
from pochade.nn.hyper_connections import HyperConnection
from pochade.nn.linear import Linear
from pochade.nn.modulation import modulated_norm
from pochade.nn.scan import use_backend
from pochade.nn.zigzag_scan import ZigzagScan
from pochade.training.costs import OperationCounter
from pochade.types import Conditioning

GRIDS = ((1, 1), (3, 5), (9, 8))
WIDTHS = (6, LANES, LANES + 2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def stirred(module: nn.Module, dtype: torch.dtype, by: float = 0.3) -> Any:
    """The module as after some training: no parameter has its first value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return module.to(dtype)


def noise(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def check(
    function: Callable[[], Tensor], wanted: list[str], monkeypatch: pytest.MonkeyPatch, *, alone: bool = True
) -> None:
    """Values with and without gradients, of a part of a network ``alone`` or of a network, and that those without came
    from ``wanted``."""
    composed, called = function().detach(), list[str]()
    for name in set(wanted):
        own = getattr(inference, name)

        def called_by(*given: Any, name: str = name, own: Any = own, **options: Any) -> Any:
            called.append(name)
            return own(*given, **options)

        monkeypatch.setattr(inference, name, called_by)
    with torch.no_grad():
        found = inference.by_loops(function)() if alone else function()
    assert called == wanted
    assert found.shape == composed.shape
    scale = float(composed.abs().max())
    tolerance = 1e-12 if found.dtype == torch.float64 else 5e-6
    torch.testing.assert_close(found / scale, composed / scale, rtol=0, atol=tolerance)


every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_type
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_hyper_connections(streams: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = stirred(HyperConnection(width, streams, 1, dynamic=True), dtype)
    h = 5 + noise(2, streams, 37, width, dtype=dtype)  # norms leave nothing of what all numbers have in common
    for laid in (h, h.transpose(1, 2).contiguous().transpose(1, 2), h.transpose(2, 3).contiguous().transpose(2, 3)):
        check(lambda h=laid: connection(h, torch.tanh), ["hyper_read", "hyper_write"], monkeypatch)
        monkeypatch.undo()


@every_type
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("directions", [1, 2, 4])
def test_four_directions(
    directions: int, grid: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = stirred(FourDirectionScan(6, 2 * LANES + 4, 3, "scalar", directions), dtype)
    u = noise(2, grid[0] * grid[1], 6, dtype=dtype)
    check(lambda: module(u, *grid), ["depthwise", "path_scan", "gated_norm"], monkeypatch)


@every_type
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("path", ["rows-top-left", "columns-bottom-right"])
@pytest.mark.parametrize("kernel", [0, 3, 5])
def test_a_zigzag(
    kernel: int, path: str, grid: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = stirred(ZigzagScan(6, 12, 3, path, "scalar", bool(kernel), kernel or 3), dtype)
    u = noise(2, grid[0] * grid[1], 6, dtype=dtype)
    check(lambda: module(u, *grid), ["path_scan", *["depthwise"] * bool(kernel), "gated_norm"], monkeypatch)


@every_type
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_convolutions(width: int, grid: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = stirred(DepthwiseConv(width), dtype)
    wide = noise(2, grid[0] * grid[1], width + 3, dtype=dtype)
    check(lambda: convolution(wide[..., 2:-1], *grid), ["depthwise"], monkeypatch)
    feedforward, x = stirred(MixFeedForward(6, width), dtype), noise(2, grid[0] * grid[1], 6, dtype=dtype)
    check(lambda: feedforward(x, *grid), ["gated_depthwise"], monkeypatch)


@every_type
@pytest.mark.parametrize("width", WIDTHS)
def test_a_modulated_norm(width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = 5 + noise(2, 37, 2 * width, dtype=dtype)
    shift, scale = noise(2, 1, 3 * width, dtype=dtype, seed=2).chunk(3, dim=2)[1:]
    check(lambda: modulated_norm(x[..., :width].requires_grad_(), shift, scale), ["modulated_norm"], monkeypatch)


@every_type
@pytest.mark.parametrize("width", WIDTHS)
def test_text(width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = stirred(LinearCrossAttention(2 * width, 2), dtype)
    x, tokens = noise(2, 37, 2 * width, dtype=dtype), noise(2, 9, 2 * width, dtype=dtype, seed=2)
    mask = torch.arange(9) < torch.tensor([[9], [0]])  # one row without a real token
    check(lambda: attention(x, attention.context(tokens, mask)), ["text_state", "read_state"], monkeypatch)


@every_type
@pytest.mark.parametrize("width", [5, 32])
@pytest.mark.parametrize(("tokens", "others"), [(1, 1), (LANES + 3, 9), (37, 270)])
def test_attention(tokens: int, others: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    q = 3 * noise(2, tokens, 3, width, dtype=dtype).transpose(1, 2)
    k, v = noise(2, others, 6 * width, dtype=dtype, seed=2).chunk(2, dim=2)
    key, value = split_heads(k, 3), split_heads(v, 3)
    late = torch.arange(others) >= torch.tensor([[0], [others - 1]])  # all but the last are hidden in the second row
    for mask in (None, late):
        check(lambda mask=mask: softmax_attention(q, key, value, mask), ["attention"], monkeypatch)
        monkeypatch.undo()
    shared = k[..., :width], v[..., :width]
    check(lambda: multi_query_attention(q.transpose(1, 2), *shared), ["attention"], monkeypatch)
    each = noise(2, tokens, others, dtype=dtype) > 0
    check(lambda: softmax_attention(q, key, value, each | late[:, None]), [], monkeypatch)


@every_type
@pytest.mark.parametrize("depth", [None, 5])
@pytest.mark.parametrize(("threshold", "halting"), [(0.7, True), (1.0, True), (0.7, False)])
@pytest.mark.parametrize("width", [1, 5, LANES, LANES + 2])
def test_reasoning(
    width: int,
    threshold: float,
    halting: bool,
    depth: int | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = stirred(ReasoningLoop(6, width, 3, "scalar", 4, threshold, 2.5, halting), dtype, 0.1).eval()
    x, embedding = noise(4, 7, 6, dtype=dtype), noise(4, 6, dtype=dtype, seed=2)
    steps = loop(x, embedding, depth)[1]
    calls = depth or int(steps.max())
    check(lambda: torch.cat([*loop(x, embedding, depth)[0], steps]), ["path_scan", "reason"] * calls, monkeypatch)
    monkeypatch.undo()
    with torch.no_grad():
        assert torch.equal(inference.by_loops(loop.forward)(x, embedding, depth)[1], steps)


def test_reasoning_with_an_adapter_is_not_by_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x[..., : self.out_features]

    loop = stirred(ReasoningLoop(6, 5, 3, "scalar", 4, 1.0, 2.5, True), torch.float32).eval()
    loop.keep.__class__ = Adapted
    x, embedding = noise(4, 7, 6, dtype=torch.float32), noise(4, 6, dtype=torch.float32, seed=2)
    check(lambda: loop(x, embedding)[0], ["path_scan"] * 4, monkeypatch)


@every_type
def test_one_scan(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stirred(Selection(6, 12, 1, 3, "scalar"), dtype)
    u, x = noise(2, 37, 6, dtype=dtype), noise(2, 37, 12, dtype=dtype, seed=2)
    check(lambda: module.scan(x, module(u)), ["path_scan"], monkeypatch)


LIRA = {"dim": 16, "blocks": 2, "hidden": 24, "fusion_every": 2, "reasoning_steps": 2}
MICROFORGE = {"dim": 32, "blocks": 2, "inner": 48, "attention_every": 2}


@pytest.mark.parametrize(("family", "sizes", "scans"), [(LiRADenoiser, LIRA, 4), (MicroForgeDenoiser, MICROFORGE, 2)])
def test_networks_with_scans(family: Any, sizes: dict[str, Any], scans: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = family(latent_channels=3, sample_size=4, patch_size=1, heads=2, text_dim=10, **sizes)
    network = stirred(network, torch.float64, 0.1).eval()
    z, tokens = noise(2, 3, 4, 6, dtype=torch.float64), noise(2, 5, 10, dtype=torch.float64, seed=2)
    given = (
        z,
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        Conditioning(tokens=tokens, mask=torch.ones(2, 5, dtype=torch.bool)),
    )
    check(lambda: network(*given).velocity, ["path_scan"] * scans, monkeypatch, alone=False)


@torch.no_grad()
@inference.by_loops
def test_nothing_is_left_to_compile_after_compiling_ahead() -> None:
    inference.compile_ahead()
    each = [loop for loop in vars(loops).values() if hasattr(loop, "signatures") and loop.__module__ == loops.__name__]
    before = {loop.__name__: len(loop.signatures) for loop in each}
    with torch.no_grad():
        for module in (
            FourDirectionScan(6, 12, 3),
            ZigzagScan(6, 12, 3, "rows-top-left", kernel=5),
            MixFeedForward(6, 4),
        ):
            module(torch.randn(2, 6, 6), 2, 3)
        HyperConnection(6, 2, 0, dynamic=True)(torch.randn(2, 2, 3, 6), torch.tanh)
        modulated_norm(*torch.randn(3, 2, 1, 6))
        attention, x = LinearCrossAttention(6, 2), torch.randn(2, 3, 6)
        attention(x, attention.context(x, torch.ones(2, 3, dtype=torch.bool)))
    assert {loop.__name__: len(loop.signatures) for loop in each} == before


class TestWhatServes:
    x = torch.randn(2, 5)

    def test_networks_that_want_it_alone(self) -> None:
        with torch.no_grad():
            assert not inference.serves(self.x)
            assert inference.by_loops(inference.serves)(self.x)
            assert not inference.serves(self.x)
        assert not inference.by_loops(inference.serves)(self.x)

    @torch.no_grad()
    @inference.by_loops
    def test_values_alone_of_plain_tensors(self) -> None:
        x, weight = self.x, nn.Parameter(torch.ones(5))
        with torch.enable_grad():
            assert not inference.serves(x, weight)
        with torch.no_grad():
            assert inference.serves(x, weight)
            assert inference.serves(x.double())
            assert not inference.serves(x.double(), weight)
            assert not inference.serves(x.bfloat16())
            assert not inference.serves(x[:0])
            assert not inference.serves(x.to("meta"))
            with torch.autocast("cpu", torch.bfloat16):
                assert not inference.serves(x)
            with use_backend("torch"):
                assert not inference.serves(x)

    @torch.no_grad()
    @inference.by_loops
    @pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, for forward gradients
    def test_what_looks_into_operators_sees_them(self) -> None:
        served: list[bool] = []

        def look(x: Tensor) -> Tensor:
            served.append(inference.serves(x))
            return x + 1

        with torch.no_grad():
            torch.func.vmap(look)(self.x)
            torch.func.jvp(look, (self.x,), (self.x,))
            with torch.autograd.forward_ad.dual_level():
                look(torch.autograd.forward_ad.make_dual(self.x, self.x))
            with OperationCounter():
                look(self.x)
            torch.export.export(Looking(look), (self.x,))
            torch.compile(look, backend="eager")(self.x)
        assert served == [False] * len(served)
        assert len(served) >= 5


class Looking(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
