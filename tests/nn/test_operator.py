"""Derivatives of every kind through each operator of ours: forward, second, and those of torch.func."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from nn.scan.cases import FORMS, selective
from pochade.nn import linear as linear_module
from pochade.nn.depthwise import as_grid, as_tokens, depthwise
from pochade.nn.linear import linear, linear_product
from pochade.nn.scan import (
    linear_recurrence,
    linear_recurrence_reference,
    rg_lru,
    rg_lru_reference,
    selective_scan,
    selective_scan_reference,
    use_backend,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, derived forward
Case = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def numbers(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def scan(function: Callable[..., Any], reverse: bool) -> Callable[..., Tensor]:
    """y and the last state in one, as a function of tensors alone."""

    def both(*given: Tensor) -> Tensor:
        more = {} if function is selective_scan_reference else {"return_state": True}
        y, state = function(*given[:6], initial=given[6], reverse=reverse, **more)
        return torch.cat((y.flatten(), state.flatten()))

    return both


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return as_tokens(F.conv2d(as_grid(x, 2, 3), weight, bias, padding=1, groups=len(bias)))


def recurrence(function: Callable[..., Tensor], reverse: bool) -> Callable[..., Tensor]:
    return lambda a, b, initial: function(a, b, initial=initial, reverse=reverse)


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {
        "rg_lru": (rg_lru, rg_lru_reference, numbers((1, 5, 2), (1, 5, 2), (1, 5, 2), (2,))),
        "depthwise": (lambda *t: depthwise(*t, 2, 3), convolution, numbers((2, 6, 3), (3, 1, 3, 3), (3,))),
    }
    for reverse in (False, True):
        functions = (recurrence(f, reverse) for f in (linear_recurrence, linear_recurrence_reference))
        found[f"recurrence-{reverse}"] = (*functions, numbers((1, 5, 2), (1, 5, 2), (1, 2)))  # pyright: ignore[reportArgumentType]
        for structure in ("diagonal", "scalar"):
            given = selective(structure, 5, batch=1, width=4, states=2, heads=2, groups=2)
            functions = (scan(f, reverse) for f in (selective_scan, selective_scan_reference))
            found[f"{structure}-{reverse}"] = (*functions, given)  # pyright: ignore[reportArgumentType]
    return found


CASES = cases()
each = pytest.mark.parametrize("name", CASES)
forms = pytest.mark.parametrize("form", FORMS)


def assert_same(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: function(*given).square().sum()


@each
@forms
def test_second_derivatives(name: str, form: Any) -> None:
    function, reference, given = CASES[name]

    def gradients(of: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in given]
        first = torch.autograd.grad(loss(of)(*leaves), leaves, create_graph=True)
        return (*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves))

    with use_backend(form):
        assert_same(gradients(function), gradients(reference))
        leaves = [t.clone().requires_grad_() for t in given]
        assert gradgradcheck(function, leaves, fast_mode=True)


@each
@forms
def test_forward_derivatives(name: str, form: Any) -> None:
    function, reference, given = CASES[name]
    with use_backend(form):
        leaves = [t.clone().requires_grad_() for t in given]
        assert gradcheck(function, leaves, check_forward_ad=True, check_backward_ad=False, fast_mode=True)
        for index, tensor in enumerate(given):  # of one argument alone, whichever it is
            with torch.no_grad(), forward_ad.dual_level():
                dual = [*given[:index], forward_ad.make_dual(tensor, tensor.cos()), *given[index + 1 :]]
                found, wanted = (forward_ad.unpack_dual(f(*dual)).tangent for f in (function, reference))
                assert found is not None
                assert_same(found, wanted)


@each
@forms
def test_functions_of_torch_func(name: str, form: Any) -> None:
    function, reference, given = CASES[name]
    everything, tangents = tuple(range(len(given))), tuple(t.sin() for t in given)
    many = torch.stack((given[0], given[0].cos()))
    pairs = (None,) * (len(given) - 1)

    def found(of: Callable[..., Tensor]) -> list[Any]:
        gradient = torch.func.grad(loss(of), argnums=everything)
        return [
            gradient(*given),
            torch.func.jvp(of, tuple(given), tangents),
            torch.func.jvp(gradient, tuple(given), tangents),
            torch.func.vmap(gradient, (0, *pairs))(many, *given[1:]),
            torch.func.grad(lambda many: torch.func.vmap(of, (0, *pairs))(many, *given[1:]).square().sum())(many),
            torch.func.vmap(of, (*pairs, 0))(*given[:-1], torch.stack((given[-1], given[-1].cos()))),
        ]

    with use_backend(form):
        assert_same(found(function), found(reference))


def test_third_derivatives() -> None:
    function, reference, given = CASES["diagonal-False"]

    def third(of: Callable[..., Tensor]) -> Tensor:
        x = given[0].clone().requires_grad_()
        value = loss(lambda x: of(x.sin(), x.cos(), *given[2:]))(x)
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.square().sum()
        return value

    assert_same(third(function), third(reference))


def test_the_slope_of_the_square_root_of_the_unit_is_cut_in_every_derivative() -> None:
    """A gate of zero: a is 1, where the square root has no derivative."""
    x, zeros = torch.ones(1, 3, 1, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.float64)

    def unit(gate: Tensor) -> Tensor:
        return rg_lru(x, gate, x, x[0, 0])

    found = torch.func.hessian(unit)(zeros), torch.func.jvp(unit, (zeros,), (x,)), torch.func.jacrev(unit)(zeros)
    assert all(one.isfinite().all() for one in (found[0], *found[1], found[2]))
    assert_same(found[1][1].flatten(), found[2].reshape(3, 3).sum(1))


class Calls(TorchDispatchMode):
    """The operators of ours that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "pochade":
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in CASES if name != "rg_lru"])
def test_a_step_of_training_is_by_kernels_compiled_or_not(name: str) -> None:
    function, _, given = CASES[name]
    leaves = [t.clone().requires_grad_() for t in given]
    with Calls() as calls:
        loss(function)(*leaves).backward()
    own = calls.names[0]
    assert calls.names == [own, f"{own}_backward"]
    with torch.no_grad(), Calls() as calls:
        function(*given)
    assert calls.names == [own]

    torch._dynamo.reset()
    traced: list[str] = []

    def keep(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        names = (str(node.target).removesuffix(".default") for node in graph.graph.nodes)
        traced.extend(name.replace(".", "::") for name in names if name.startswith("pochade."))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(loss(function), backend=aot_autograd(fw_compiler=keep), fullgraph=True, dynamic=False)
    compiled(*leaves).backward()
    assert traced == [own, f"{own}_backward"]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_products_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on processors where they are the faster ones."""
    monkeypatch.setattr(linear_module, "AMD_VECTORS", True)
    given = [t.float() for t in numbers((40, 36), (33, 36), (33,))]
    many = torch.stack((given[0], given[0].cos()))
    tangents = tuple(t.sin() for t in given)
    leaves = [t.clone().requires_grad_() for t in given]
    for product in (linear, linear_product):

        def found(of: Callable[..., Tensor]) -> list[Any]:
            first = torch.autograd.grad(loss(of)(*leaves), leaves, create_graph=True)
            return [
                torch.func.jvp(of, tuple(given), tangents)[1],
                torch.func.grad(loss(of), argnums=(0, 1, 2))(*given),
                torch.func.hessian(loss(of), argnums=2)(*given),
                torch.autograd.grad(sum(g.square().sum() for g in first), leaves),
            ]

        torch.testing.assert_close(found(product), found(F.linear), rtol=1e-4, atol=1e-2)
        with torch.no_grad():  # where no kernel says what it drops
            without, wanted = (torch.func.jvp(of, tuple(given), tangents) for of in (product, F.linear))
        torch.testing.assert_close(without, wanted)
    with torch.no_grad():
        mapped = torch.func.vmap(linear, (0, None, None))(many, *given[1:])
    torch.testing.assert_close(mapped, F.linear(many, *given[1:]))
