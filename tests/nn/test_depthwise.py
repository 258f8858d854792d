"""The depthwise convolution's operator, and its CUDA kernels: on a GPU where one is at hand, else interpreted."""

import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pochade.nn.depthwise import as_grid, as_tokens, depthwise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = ((1, 1), (3, 5), (1, 7), (8, 8), (2, 19))


def noise(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def case(size: tuple[int, int], dim: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, as the middle of a tensor that is three times as wide, weight and bias."""
    wide = noise(batch, size[0] * size[1], 3 * dim, seed=0, dtype=dtype)
    return wide[..., dim : 2 * dim], noise(dim, 1, 3, 3, seed=1, dtype=dtype), noise(dim, seed=2, dtype=dtype)


def expected(
    x: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], grad: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Torch's own in float64: the result, and the gradients of x, weight and bias."""
    leaves = [t.double().clone().requires_grad_() for t in (x, weight, bias)]
    y = as_tokens(F.conv2d(as_grid(leaves[0], *size), leaves[1], leaves[2], padding=1, groups=len(bias)))
    return y.detach(), torch.autograd.grad(y, leaves, grad.double())


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The module in a copy of its own: whether kernels are interpreted is settled when it is executed."""
    triton = pytest.importorskip("triton")
    spec = importlib.util.find_spec("pochade.nn.depthwise_kernels")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
            # Triton's own functions were settled when it was imported, perhaps by another test.
            for name in ("cdiv", "sum", "zeros"):
                patch.setattr(triton.language, name, triton.jit(getattr(triton.language, name).fn))
        spec.loader.exec_module(module)
        yield module


def check_kernels(module: ModuleType, size: tuple[int, int], dim: int, dtype: torch.dtype, tolerance: float) -> None:
    x, weight, bias = case(size, dim, dtype)
    grad = noise(*x.shape, seed=3, dtype=dtype)
    y, wanted = expected(x, weight, bias, size, grad)
    found = module.forward(x, weight, bias, *size)
    assert (found.dtype, found.is_contiguous()) == (dtype, True)
    torch.testing.assert_close(found.double(), y, rtol=tolerance, atol=tolerance)
    gradients = module.backward(grad, x, weight, *size)
    assert [g.dtype for g in gradients] == [dtype, *[torch.promote_types(dtype, torch.float32)] * 2]
    for got, want in zip(gradients, wanted, strict=True):
        assert (got.shape, got.is_contiguous()) == (want.shape, True)  # as compiled code expects it
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.no_cover
@pytest.mark.parametrize("size", SIZES)
def test_kernels_are_torch_s_own_convolution(kernels: ModuleType, size: tuple[int, int]) -> None:
    check_kernels(kernels, size, 6, torch.float64, 1e-10)


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("dim", "dtype", "tolerance"), [(16, torch.float32, 1e-5), (70, torch.float32, 1e-5), (5, torch.float16, 4e-3)]
)
def test_kernels_take_any_width_and_half_precision(
    kernels: ModuleType, dim: int, dtype: torch.dtype, tolerance: float
) -> None:
    check_kernels(kernels, (3, 4), dim, dtype, tolerance)


@pytest.mark.no_cover
def test_kernels_share_a_long_sum(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PARTIAL_SUMS", 3)
    check_kernels(kernels, (4, 3), 4, torch.float64, 1e-10)


@pytest.mark.no_cover
def test_kernels_read_weights_of_another_type(kernels: ModuleType) -> None:
    """As autocast has it: tokens in half, weights in float32."""
    x, weight, bias = case((3, 3), 4, torch.float16)
    y, _ = expected(x, weight.float(), bias.float(), (3, 3), x)
    found = kernels.forward(x, weight.float(), bias.float(), 3, 3)
    torch.testing.assert_close(found.double(), y, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("size", SIZES)
def test_the_operator_is_torch_s_own_convolution(size: tuple[int, int]) -> None:
    x, weight, bias = case(size, 6, torch.float64)
    grad = noise(*x.shape, seed=3)
    y, wanted = expected(x, weight, bias, size, grad)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    found = depthwise(*leaves, *size)
    torch.testing.assert_close(found.detach(), y)
    torch.testing.assert_close(torch.autograd.grad(found, leaves, grad), wanted)


class Calls(TorchDispatchMode):
    """The operators that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_frozen_weights_get_no_gradients() -> None:
    size = (3, 5)
    x, weight, bias = case(size, 6, torch.float64)
    grad = noise(*x.shape, seed=3)
    _, wanted = expected(x, weight, bias, size, grad)
    leaf = x.clone().requires_grad_()
    with Calls() as calls:
        depthwise(leaf, weight, bias, *size).backward(grad)
    torch.testing.assert_close(leaf.grad, wanted[0])
    assert "pochade::depthwise" in calls.names
    assert "pochade::depthwise_backward" not in calls.names


def test_the_operator_is_one_node_of_a_compiled_graph() -> None:
    size = (3, 5)
    x, weight, bias = (t.clone().requires_grad_() for t in case(size, 6, torch.float64))
    compiled = torch.compile(lambda *given: depthwise(*given, *size).sin(), backend="aot_eager", fullgraph=True)
    for function in (compiled, lambda *given: depthwise(*given, *size).sin()):
        out = function(x, weight, bias)
        gradients = torch.autograd.grad(out.square().sum(), (x, weight, bias))
        if function is compiled:
            first = (out, *gradients)
        else:
            torch.testing.assert_close(first, (out, *gradients))
    torch.library.opcheck(depthwise, (x.detach(), weight.detach(), bias.detach(), *size))
