"""Linear layers by oneDNN are those of torch within rounding, and are taken where torch's own would not do more."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.nn.linear import AMD_VECTORS, FEWEST_ROWS, Linear, amd_family, linear, linear_product, onednn_linear
from pochade.training.costs import OperationCounter

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
SHAPES = [((9, 5), 3), ((2, 80, 32), 48), ((3, 40, 4, 40), 16), ((1, 64, 24), 1)]


def operands(shape: tuple[int, ...], width: int, *, biased: bool = True) -> list[Tensor | None]:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(width, shape[-1])
    return [x.requires_grad_(), weight.requires_grad_(), torch.randn(width).requires_grad_() if biased else None]


@needs_onednn
@pytest.mark.parametrize(("shape", "width"), SHAPES)
def test_values_are_those_of_torch(shape: tuple[int, ...], width: int) -> None:
    for biased in (True, False):
        given = [None if one is None else one.detach() for one in operands(shape, width, biased=biased)]
        torch.testing.assert_close(onednn_linear(*given), F.linear(*given), rtol=1e-5, atol=1e-5)  # pyright: ignore[reportArgumentType]


@needs_onednn
def test_any_layout_of_the_inputs_gives_the_same() -> None:
    x, weight = torch.randn(32, 24), torch.randn(48, 24)
    wide = torch.randn(32, 60)[:, 10:34].copy_(x)
    for of_x in (x, x.t().contiguous().t(), wide):
        for of_weight in (weight, weight.t().contiguous().t()):
            torch.testing.assert_close(onednn_linear(of_x, of_weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    repeated = x[:1].expand(32, 24)
    torch.testing.assert_close(onednn_linear(repeated, weight), F.linear(repeated, weight), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize(("shape", "width"), SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_and_their_gradients_are_those_of_torch(shape: tuple[int, ...], width: int, biased: bool) -> None:
    def gradients(product: Callable[..., Tensor]) -> list[Tensor]:
        given = operands(shape, width, biased=biased)
        of = [one for one in given if one is not None]
        y = product(*given)
        first = torch.autograd.grad((y**2).sum(), of, create_graph=True)
        assert all(gradient.is_contiguous() for gradient in first)  # as optimisers and other processes expect it
        second = torch.autograd.grad(sum((g**2).sum() for g in first), of[:2])
        return [y, *first, *second]

    for found, wanted in zip(gradients(linear_product), gradients(F.linear), strict=True):
        scale = float(wanted.detach().abs().max())
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=2e-6)


@needs_onednn
def test_only_the_gradients_that_are_wanted_are_computed() -> None:
    x, weight, bias = operands((16, 8), 4)
    assert x is not None
    assert weight is not None
    linear_product(x, weight.detach(), bias).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


@needs_onednn
def test_operations_are_counted_alike() -> None:
    def counted(product: Callable[..., Tensor]) -> int:
        given = operands((2, 16, 32), 48)
        with OperationCounter() as counter:
            product(*given).sum().backward()
        return counter.total

    assert counted(linear_product) == counted(F.linear) == 3 * 2 * 2 * 16 * 32 * 48


def chosen(x: Tensor, weight: Tensor) -> list[str]:
    """Operators by which ``linear`` computes a product."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        linear(x, weight)
    return [str(event.key) for event in profile.key_averages()]


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    return any("_linear_pointwise" in name for name in chosen(x, weight))


@pytest.mark.parametrize(
    ("said", "family"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", 25),
        ("AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", 26),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n", 0),
        ("Intel64 Family 6 Model 154 Stepping 3, GenuineIntel", 0),
        ("vendor_id\t: AuthenticAMD\n", 0),
        ("arm ", 0),
    ],
)
def test_the_family_of_a_processor_of_amd(said: str, family: int) -> None:
    assert amd_family(said) == family


def test_it_is_chosen_on_processors_of_amd_with_wide_vectors_alone() -> None:
    assert by_onednn(torch.randn(FEWEST_ROWS, 32), torch.randn(16, 32)) == AMD_VECTORS


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_torch_is_left_to_compute_what_onednn_is_no_better_at() -> None:
    x, weight = torch.randn(64, 32), torch.randn(64, 32)
    assert not by_onednn(x[: FEWEST_ROWS - 1], weight)
    assert not by_onednn(x[0], weight)
    assert not by_onednn(x[:0], weight)
    assert not by_onednn(x.double(), weight.double())
    assert not by_onednn(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_onednn(x, weight)
        assert linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert not by_onednn(x, weight)
    assert linear(x.to("meta"), weight.to("meta")).shape == (64, 64)


def test_the_layer_is_that_of_torch() -> None:
    torch.manual_seed(3)
    own = Linear(32, 16)
    torch.manual_seed(3)
    torchs = nn.Linear(32, 16)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), torchs.parameters(), strict=True))
    assert own.state_dict().keys() == torchs.state_dict().keys()
    x = torch.randn(64, 32)
    torch.testing.assert_close(own(x), torchs(x), rtol=1e-5, atol=1e-6)


def test_exported_graphs_have_the_operator_of_torch() -> None:
    graph = torch.export.export(Linear(32, 16), (torch.randn(64, 32),)).graph
    assert {str(node.target) for node in graph.nodes if node.op == "call_function"} == {"aten.linear.default"}


@needs_onednn
def test_compiled_graphs_have_it_as_one_node() -> None:
    def gradients(product: Callable[..., Tensor]) -> list[Tensor]:
        given = operands((4, FEWEST_ROWS, 24), 48)
        y = product(*given)
        return [y, *torch.autograd.grad(y.square().sum(), [one for one in given if one is not None])]

    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    for found, wanted in zip(gradients(compiled), gradients(F.linear), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gradients(compiled)
    assert any(event.key == "pochade::linear_product" for event in profile.key_averages()) == AMD_VECTORS


@needs_onednn
def test_errors_are_those_of_rounding() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(64, 2048), torch.randn(64, 2048)
    exact = F.linear(x.double(), weight.double())
    assert float((onednn_linear(x, weight) - exact).square().mean().sqrt()) < 1e-6 * 2048**0.5
