"""The CUDA kernels against plain loops: on a GPU where one is at hand, else through Triton's interpreter."""

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from nn.scan.cases import TOLERANCE, close
from pochade.nn.scan.contract import Inputs, chunks
from pochade.nn.scan.reference import linear_recurrence_reference, selective_scan_reference

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.no_cover  # the interpreter is slow enough

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLAGS = [(False, False), (True, True)]


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The module in a copy of its own: whether kernels are interpreted is settled when it is executed."""
    spec = importlib.util.find_spec("pochade.nn.scan.triton_kernels")
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


def noise(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return close(found.double(), expected.double(), tolerance)


def linear_case(batch: int, N: int, D: int, initial: bool) -> list[Tensor]:
    a = noise(batch, N, D, seed=0).sigmoid() ** 0.3
    return [a, noise(batch, N, D, seed=1), *([noise(batch, D, seed=2)] if initial else [])]


def check_linear(
    kernels: ModuleType,
    given: list[Tensor],
    reverse: bool,
    dtype: torch.dtype = torch.float64,
    tolerance: float | None = None,
) -> None:
    """Values and gradients of ``given`` (a, b, maybe initial), rounded to ``dtype``, against the loop in float64."""
    tolerance = tolerance or TOLERANCE[dtype]
    given = [t.to(dtype) for t in given]
    leaves = [t.double().clone().requires_grad_() for t in given]
    initial = given[2] if len(given) > 2 else None
    expected = linear_recurrence_reference(*leaves[:2], initial=leaves[2] if len(leaves) > 2 else None, reverse=reverse)
    grad = noise(*expected.shape, seed=3, dtype=dtype)
    wanted = torch.autograd.grad(expected, leaves, grad.double())

    h = kernels.linear_forward(given[0], given[1], initial, reverse)
    assert h.dtype == dtype
    assert near(h, expected.detach(), tolerance)
    got = kernels.linear_backward(grad, given[0], h, initial, reverse)
    assert {g.dtype for g in got} == {torch.promote_types(dtype, torch.float32)}
    for g, w in zip(got, wanted, strict=False):
        assert near(g, w, tolerance)
    if initial is None:
        start = -1 if reverse else 0
        assert near(got[2], leaves[0].detach()[:, start] * wanted[1][:, start], tolerance)


@pytest.mark.parametrize("initial, reverse", FLAGS)
@pytest.mark.parametrize("N", [1, 2, 31, 32, 63, 64, 65, 130])
def test_linear_equals_the_loop(kernels: ModuleType, N: int, initial: bool, reverse: bool):
    check_linear(kernels, linear_case(1, N, 5, initial), reverse)


@pytest.mark.parametrize("initial, reverse", [(True, False), (False, True)])
@pytest.mark.parametrize("D", [1, 32, 70])
def test_linear_takes_any_width(kernels: ModuleType, D: int, initial: bool, reverse: bool):
    check_linear(kernels, linear_case(2, 9, D, initial), reverse, torch.float32)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_linear_keeps_the_state_of_half_inputs_in_float32(kernels: ModuleType, dtype: torch.dtype, tolerance: float):
    check_linear(kernels, linear_case(1, 70, 5, True), True, dtype, tolerance)
    # 1 + 2^-12 n: each addition alone is lost in half precision.
    ones = torch.ones(1, 100, 1, dtype=dtype, device=DEVICE)
    h = kernels.linear_forward(ones, ones * 2**-12, ones[:, 0], False)
    assert near(h[:, -1], torch.full((1, 1), 1 + 100 * 2**-12, dtype=dtype, device=DEVICE), 1e-9)


def test_linear_of_two_types(kernels: ModuleType):
    a, b = linear_case(2, 40, 5, False)
    h = kernels.linear_forward(a.float(), b.half(), None, False)
    assert h.dtype == torch.float32
    assert near(h, linear_recurrence_reference(a.float().double(), b.half().double()), 1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_linear_at_extreme_decays(kernels: ModuleType, reverse: bool):
    values = torch.tensor([0, 1e-30, 1 - 1e-7, 1], dtype=torch.float64, device=DEVICE)
    a = torch.cat([values.expand(1, 130, 4), values[torch.randint(4, (1, 130, 2))]], dim=2).contiguous()
    check_linear(kernels, [a, noise(1, 130, 6, seed=1), noise(1, 6, seed=2)], reverse, torch.float32)


def test_long_linear(kernels: ModuleType):
    N = 16_384 if DEVICE == "cuda" else 500  # the interpreter takes a millisecond a token
    a = torch.full((1, N, 1), 1 - 1e-7, dtype=torch.float32, device=DEVICE)
    b = torch.ones_like(a)
    h = kernels.linear_forward(a, b, None, False)
    decay = a[0, 0, 0].double()
    n = torch.arange(1, N + 1, device=DEVICE)
    assert near(h[0, :, 0], (1 - decay**n) / (1 - decay), 1e-5)
    grad_a, grad_b, _ = kernels.linear_backward(b, a, h, None, False)
    assert near(grad_b, h.flip(1), 1e-5)
    assert near(grad_a[:, 1:], grad_b[:, 1:] * h[:, :-1], 1e-5)
    assert torch.equal(grad_a[:, 0], torch.zeros_like(grad_a[:, 0]))


def diagonal_case(batch: int, N: int, D: int, S: int, groups: int) -> list[Tensor]:
    """x, dt, A, B, C, D, initial."""
    A = -torch.arange(1, S + 1, dtype=torch.float64, device=DEVICE).expand(D, S) * noise(D, 1, seed=10).exp()
    dt = 0.1 * noise(batch, N, D, seed=11).exp()
    B, C = (noise(batch, N, groups, S, seed=seed) for seed in (12, 13))
    return [noise(batch, N, D, seed=14), dt, A, B, C, noise(D, seed=15), noise(batch, D, S, seed=16)]


def check_diagonal(
    kernels: ModuleType,
    given: list[Tensor],
    full: bool,
    reverse: bool,
    dtype: torch.dtype = torch.float64,
    tolerance: float | None = None,
) -> None:
    """Values and gradients, inputs rounded to ``dtype`` (A, D, initial to no less than float32), against the loop.

    Without ``full`` there is neither D nor an initial state.
    """
    tolerance = tolerance or TOLERANCE[dtype]
    state = torch.promote_types(dtype, torch.float32)
    given = [t.to(state if i in (2, 5, 6) else dtype) for i, t in enumerate(given)]
    leaves = [t.double().clone().requires_grad_() for t in given]
    skip, initial = leaves[5:] if full else (None, None)
    y, final = selective_scan_reference(*leaves[:5], skip, initial=initial, reverse=reverse)
    grad_y, grad_final = noise(*y.shape, seed=17, dtype=dtype), noise(*final.shape, seed=18, dtype=state)
    used = leaves if full else leaves[:5]
    wanted = torch.autograd.grad((y, final), used, (grad_y.double(), grad_final.double()))

    skip, initial = given[5:] if full else (None, None)
    inputs = Inputs(*given[:5], skip)
    got_y, got_final, checkpoints = kernels.selective_forward(inputs, initial, reverse)
    assert (got_y.dtype, got_final.dtype) == (dtype, state)
    assert checkpoints.shape == (y.shape[0], chunks(y.shape[1]), *given[2].shape)
    assert near(got_y, y.detach(), tolerance)
    assert near(got_final, final.detach(), tolerance)
    got = kernels.selective_backward(grad_y, grad_final, inputs, checkpoints, reverse)
    assert {g.dtype for g in got} == {state}
    for g, w in zip(got, wanted, strict=False):
        assert near(g, w, tolerance)
    assert got.D.shape == given[5].shape
    assert got.initial.shape == given[6].shape


@pytest.mark.parametrize("full, reverse", FLAGS)
@pytest.mark.parametrize("N", [1, 2, 63, 64, 65, 130])
def test_diagonal_equals_the_loop(kernels: ModuleType, N: int, full: bool, reverse: bool):
    check_diagonal(kernels, diagonal_case(1, N, 6, 5, 1), full, reverse)


# Of the last there are enough programs uncut.
@pytest.mark.parametrize("D, S, groups, reverse", [(20, 16, 1, False), (40, 8, 2, True), (12, 1, 4, False)])
def test_diagonal_takes_any_size(kernels: ModuleType, D: int, S: int, groups: int, reverse: bool):
    check_diagonal(kernels, diagonal_case(1, 9, D, S, groups), True, reverse, torch.float32)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_diagonal_of_half_inputs(kernels: ModuleType, dtype: torch.dtype, tolerance: float):
    check_diagonal(kernels, diagonal_case(1, 66, 4, 5, 1), True, False, dtype, tolerance)


def test_diagonal_where_nothing_or_all_is_forgotten(kernels: ModuleType):
    given = diagonal_case(1, 70, 4, 3, 1)
    given[1] = given[1] * torch.tensor([0.0, 1e-12, 1.0, 1e4], dtype=torch.float64, device=DEVICE)
    check_diagonal(kernels, given, True, False, torch.float32)


def test_reverse_is_flip(kernels: ModuleType):
    a, b, initial = linear_case(1, 70, 5, True)
    flipped = kernels.linear_forward(a.flip(1), b.flip(1), initial, False).flip(1)
    assert torch.equal(kernels.linear_forward(a, b, initial, True), flipped)
    x, dt, A, B, C, D, state = diagonal_case(1, 70, 5, 3, 1)
    y, final, _ = kernels.selective_forward(Inputs(x.flip(1), dt.flip(1), A, B.flip(1), C.flip(1), D), state, False)
    got_y, got_final, _ = kernels.selective_forward(Inputs(x, dt, A, B, C, D), state, True)
    assert torch.equal(got_y, y.flip(1))
    assert torch.equal(got_final, final)


def test_strided_inputs_are_read_right(kernels: ModuleType):
    given = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in diagonal_case(2, 9, 4, 3, 1)]
    assert not given[0].is_contiguous()
    check_diagonal(kernels, given, True, False)
    a, b, initial = (t.transpose(0, -1).contiguous().transpose(0, -1) for t in linear_case(2, 9, 5, True))
    check_linear(kernels, [a, b, initial], False)


def test_pieces_make_the_whole(kernels: ModuleType):
    x, dt, A, B, C, D, state = diagonal_case(1, 100, 4, 3, 1)
    y, final, _ = kernels.selective_forward(Inputs(x, dt, A, B, C, D), state, False)
    pieces: list[Tensor] = []
    for part in (slice(0, 37), slice(37, 100)):
        inputs = Inputs(x[:, part], dt[:, part], A, B[:, part], C[:, part], D)
        piece, state, _ = kernels.selective_forward(inputs, state, False)
        pieces.append(piece)
    assert near(torch.cat(pieces, dim=1), y, 1e-12)
    assert near(state, final, 1e-12)


def test_one_decay_a_head(kernels: ModuleType):
    x, _, _, B, C, D, state = diagonal_case(1, 70, 4, 3, 1)
    dt, A = noise(1, 70, 2, seed=20).exp(), -noise(2, seed=21).exp()
    y, final, _ = kernels.selective_forward(Inputs(x, dt, A, B, C, D), state, False)
    expected, expected_final = selective_scan_reference(x, dt, A, B, C, D, initial=state)
    assert near(y, expected, 1e-10)
    assert near(final, expected_final, 1e-10)


def test_an_empty_batch_launches_nothing(kernels: ModuleType):
    a, b, initial = (noise(*shape, seed=0) for shape in ((0, 3, 2), (0, 3, 2), (0, 2)))
    h = kernels.linear_forward(a, b, initial, False)
    assert h.shape == (0, 3, 2)
    assert [g.shape for g in kernels.linear_backward(h, a, h, initial, False)] == [(0, 3, 2), (0, 3, 2), (0, 2)]
    *tensors, state = diagonal_case(0, 3, 4, 5, 2)
    y, final, checkpoints = kernels.selective_forward(Inputs(*tensors), state, False)
    assert (y.shape, final.shape) == ((0, 3, 4), (0, 4, 5))
    got = kernels.selective_backward(y, final, Inputs(*tensors), checkpoints, False)
    assert [g.shape for g in got] == [t.shape for t in (*tensors, state)]
    assert not got.A.any()
    assert not got.D.any()
