from functools import lru_cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nn.scan.cases import FORMS, TOLERANCE, close, far
from pochade.errors import PochadeError
from pochade.nn.scan import (
    composed,
    linear_recurrence,
    linear_recurrence_reference,
    rg_lru,
    rg_lru_reference,
    use_backend,
)

pytestmark = pytest.mark.parametrize("form", FORMS)


def inputs(tokens: int, *, batch: int = 2, width: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(batch, tokens, width, generator=g, dtype=torch.float64)
    b = torch.randn(batch, tokens, width, generator=g, dtype=torch.float64)
    return a, b, torch.randn(batch, width, generator=g, dtype=torch.float64)


def gradients(function, tensors, weight, **options):
    leaves = [t.detach().requires_grad_() for t in tensors]
    h = function(*leaves[:2], initial=leaves[2] if len(leaves) > 2 else None, **options)
    return h, torch.autograd.grad((h * weight.to(h.dtype)).sum(), leaves)


@lru_cache(maxsize=64)
def case(tokens: int, reverse: bool, started: bool, seed: int):
    """Inputs, the weight of each value in the sum, and what the loop makes of them: the same for every form."""
    a, b, initial = inputs(tokens, batch=1, width=3, seed=seed)
    a = a if seed % 2 else 1 - a * 1e-3  # long memories
    tensors = (a, b, initial)[: 3 if started else 2]
    weight = torch.randn(b.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return tensors, weight, gradients(linear_recurrence_reference, tensors, weight, reverse=reverse)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(tokens=st.integers(1, 700), reverse=st.booleans(), started=st.booleans(), seed=st.integers(0, 99))
@example(tokens=4999, reverse=True, started=True, seed=0)
@settings(max_examples=12)
def test_values_and_gradients_are_those_of_the_loop(form, dtype, tokens, reverse, started, seed):
    tensors, weight, (expected, expected_gradients) = case(tokens, reverse, started, seed)
    with use_backend(form):
        h, found = gradients(linear_recurrence, [t.to(dtype) for t in tensors], weight, reverse=reverse)
    assert close(h, expected, TOLERANCE[dtype])
    for gradient, wanted in zip(found, expected_gradients, strict=True):
        assert close(gradient, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 37, 256])
def test_the_form_of_exported_graphs(form, tokens):
    a, b, initial = inputs(tokens)
    h = composed.linear_forward(a, b, initial, form == FORMS[0], solve=composed.tree)
    assert close(h, linear_recurrence_reference(a, b, initial=initial, reverse=form == FORMS[0]), 1e-12)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 130])
def test_any_width(form, width):
    a, b, initial = inputs(33, width=width)
    with use_backend(form):
        assert close(
            linear_recurrence(a, b, initial=initial), linear_recurrence_reference(a, b, initial=initial), 1e-12
        )


@pytest.fixture(scope="module")
def extremes():
    """a and b [1, 16384, 8] with decays of 0, 1e-30, nearly one and one, two channels each; the loop in both types."""
    b = torch.randn(1, 16_384, 8, generator=torch.Generator().manual_seed(0))
    a = torch.tensor([0.0, 1e-30, 1 - 1e-7, 1.0]).repeat_interleave(2).expand_as(b).contiguous()
    weight = torch.ones_like(b)
    exact = gradients(linear_recurrence_reference, (a.double(), b.double()), weight)
    return a, b, weight, exact, gradients(linear_recurrence_reference, (a, b), weight)


def test_extreme_decays_over_a_long_sequence(form, extremes):
    a, b, weight, (h, wanted), loop = extremes
    with use_backend(form):
        found = gradients(linear_recurrence, (a, b), weight)
    # Where nothing is forgotten, float32 rounds 16,384 times: no form need be better than the loop in float32 is.
    for result, exact, rounded in zip((found[0], *found[1]), (h, *wanted), (loop[0], *loop[1]), strict=True):
        for parts in zip(*(t.split(2, -1) for t in (result, exact, rounded)), strict=True):
            assert close(parts[0], parts[1], max(1e-5, 1.5 * far(parts[2], parts[1])))


def test_decays_that_come_and_go(form):
    a = torch.tensor([0.0, 1.0, 1e-30, 1 - 1e-7, 1.0, 0.5]).repeat(50)[None, :, None].expand(1, 300, 4)
    b = torch.randn(1, 300, 4, generator=torch.Generator().manual_seed(0))
    with use_backend(form):
        assert close(linear_recurrence(a, b), linear_recurrence_reference(a.double(), b.double()), 1e-6)


def test_gradcheck(form):
    tensors = [t.requires_grad_() for t in inputs(9, width=3)]
    with use_backend(form):
        assert torch.autograd.gradcheck(
            lambda a, b, initial: linear_recurrence(a, b, initial=initial, reverse=True), tensors
        )


@pytest.mark.parametrize("cut", [1, 16, 40, 76])
def test_pieces_joined_by_their_state_are_the_whole(form, cut):
    a, b, initial = inputs(77)
    with use_backend(form):
        whole = linear_recurrence(a, b, initial=initial)
        first = linear_recurrence(a[:, :cut], b[:, :cut], initial=initial)
        second = linear_recurrence(a[:, cut:], b[:, cut:], initial=first[:, -1])
        backwards = linear_recurrence(a, b, initial=initial, reverse=True)
        last = linear_recurrence(a[:, cut:], b[:, cut:], initial=initial, reverse=True)
        before = linear_recurrence(a[:, :cut], b[:, :cut], initial=last[:, 0], reverse=True)
    assert close(torch.cat((first, second), 1), whole, 1e-12)
    assert close(torch.cat((before, last), 1), backwards, 1e-12)


def test_reverse_is_the_flip(form):
    a, b, initial = inputs(50)
    with use_backend(form):
        flipped = linear_recurrence(a.flip(1), b.flip(1), initial=initial).flip(1)
        assert close(linear_recurrence(a, b, initial=initial, reverse=True), flipped, 1e-14)


def test_half_inputs_keep_a_wide_state(form):
    tokens = 4096
    g = torch.Generator().manual_seed(0)
    a = torch.full((1, tokens, 4), 1 - 2**-8, dtype=torch.bfloat16)
    b = torch.rand(1, tokens, 4, generator=g).to(torch.bfloat16)
    exact = linear_recurrence_reference(a.double(), b.double())
    with use_backend(form):
        h, found = gradients(linear_recurrence, (a, b), torch.ones_like(b))
    assert h.dtype == torch.bfloat16
    assert all(t.dtype == torch.bfloat16 for t in found)
    assert close(h, exact, 2**-8)  # one rounding of the result; a state in bfloat16 would stop growing at 1 / 16 of it
    with use_backend(form):
        assert linear_recurrence(a, b.float()).dtype == torch.float32
        half = linear_recurrence(a.half(), b.half())
    assert half.dtype == torch.float16
    assert close(half, exact, 2**-10)


def test_views_are_read_as_they_are(form):
    a, b, initial = inputs(20, width=20)
    with use_backend(form):
        turned = linear_recurrence(a.transpose(1, 2), b.transpose(1, 2), initial=initial)
    assert close(turned, linear_recurrence_reference(a.transpose(1, 2), b.transpose(1, 2), initial=initial), 1e-12)


def test_an_empty_batch(form):
    a = torch.rand(0, 70, 3, requires_grad=True)
    b = torch.rand(0, 70, 3, requires_grad=True)
    with use_backend(form):
        h = linear_recurrence(a, b)
        h.sum().backward()
    assert h.shape == (0, 70, 3)
    assert a.grad is not None
    assert a.grad.shape == a.shape


def test_samples_do_not_depend_on_the_batch(form):
    a, b, initial = (t.float() for t in inputs(130, batch=3))
    with use_backend(form):
        together = linear_recurrence(a, b, initial=initial)
        alone = linear_recurrence(a[1:2], b[1:2], initial=initial[1:2])
    assert torch.equal(together[1:2], alone)


def test_vmap(form):
    a, b, _ = inputs(20)
    many = torch.stack((b, 2 * b))
    with use_backend(form):
        mapped = torch.vmap(lambda driven: linear_recurrence(a, driven))(many)
        assert close(mapped[1], linear_recurrence(a, many[1]), 1e-14)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((2, 5), (2, 5)), r"a: \[2, 5\]"),
        (((2, 0, 3), (2, 0, 3)), "one token at least"),
        (((2, 5, 3), (2, 6, 3)), r"b: \[2, 6, 3\]"),
        (((2, 5, 3), (2, 5, 3), (2, 4)), r"initial: \[2, 4\]"),
    ],
)
def test_shapes_that_do_not_fit(form, shapes, words):
    a, b, *rest = (torch.rand(shape) for shape in shapes)
    with use_backend(form), pytest.raises(PochadeError, match=words):
        linear_recurrence(a, b, initial=rest[0] if rest else None)


def test_whole_numbers_are_refused(form):
    with use_backend(form), pytest.raises(PochadeError, match="floating"):
        linear_recurrence(torch.ones(1, 2, 3, dtype=torch.int64), torch.ones(1, 2, 3))


class TestRealGatedUnit:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_values_and_gradients_are_those_of_the_loop(self, form, dtype, reverse):
        g = torch.Generator().manual_seed(0)
        x, r, i = torch.randn(3, 2, 100, 5, generator=g, dtype=torch.float64)
        tensors = [x, r.sigmoid(), i.sigmoid(), torch.randn(5, generator=g, dtype=torch.float64)]
        expected, found = (
            self.gradients(function, [t.to(kind) for t in tensors], reverse)
            for function, kind in ((rg_lru_reference, torch.float64), (self.under(form), dtype))
        )
        for value, wanted in zip(found, expected, strict=True):
            assert close(value, wanted, TOLERANCE[dtype])

    @staticmethod
    def under(form):
        def call(*arguments, **options):
            with use_backend(form):
                return rg_lru(*arguments, **options)

        return call

    @staticmethod
    def gradients(function, tensors, reverse):
        leaves = [t.requires_grad_() for t in tensors]
        h = function(*leaves, reverse=reverse)
        return h, *torch.autograd.grad(h.cos().sum(), leaves)

    def test_the_slope_of_the_square_root_is_bounded(self, form):
        """A gate so small that a is 1 in float32: the formula's slope is infinite, ours 1000 at most."""
        x, i = torch.ones(1, 3, 1), torch.ones(1, 3, 1)
        r = torch.full((1, 3, 1), 1e-12, requires_grad=True)
        decay = torch.zeros(1, requires_grad=True)
        with use_backend(form):
            h = rg_lru(x, r, i, decay)
            h.sum().backward()
        assert h.isfinite().all()
        assert r.grad is not None
        assert r.grad.isfinite().all()
        # d(1 - a^2)/dr = 16 softplus(0) a^2 = 11.1, three tokens see the first gate
        assert float(r.grad[0, 0]) == pytest.approx(3 * 1000 * 16 * 0.6931, rel=1e-2)

    def test_a_closed_gate_forgets_and_an_open_one_keeps(self, form):
        x = torch.randn(1, 40, 2, dtype=torch.float64)
        ones, zeros = torch.ones_like(x), torch.zeros_like(x)
        with use_backend(form):
            forgets = rg_lru(x, ones, ones, torch.full((2,), 50.0, dtype=torch.float64))
            keeps = rg_lru(x, zeros, ones, torch.zeros(2, dtype=torch.float64), initial=torch.ones(1, 2).double())
        assert close(forgets, x, 1e-12)
        assert close(keeps, torch.ones_like(x), 1e-12)

    def test_shapes_that_do_not_fit(self, form):
        x = torch.rand(1, 4, 3)
        with use_backend(form), pytest.raises(PochadeError, match=r"decay: \[4\]"):
            rg_lru(x, x, x, torch.zeros(4))
