from functools import lru_cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nn.scan.cases import FORMS, TOLERANCE, close, far, selective
from pochade.errors import PochadeError
from pochade.nn.scan import linear_recurrence_reference, selective_scan, selective_scan_reference, use_backend

pytestmark = [
    pytest.mark.parametrize("form", FORMS),
    pytest.mark.parametrize("structure", ["diagonal", "scalar"]),
]


def everything(function, tensors, *, reverse=False):
    """y, the last state and the gradient of a weighted sum of both for every input.

    A sum and not a curve: where values are large, a curve's slope would depend on their last digits.
    """
    leaves = [t.detach().requires_grad_() for t in tensors]
    options = {"return_state": True} if function is selective_scan else {}
    y, state = function(*leaves[:6], initial=leaves[6], reverse=reverse, **options)
    g = torch.Generator().manual_seed(7)
    weights = [torch.randn(t.shape, generator=g, dtype=torch.float64) for t in (y, state)]
    total = (y.double() * weights[0]).sum() + (state.double() * weights[1]).sum()
    return [y, state, *torch.autograd.grad(total, leaves)]


@lru_cache(maxsize=64)
def case(structure, tokens, reverse=False, **sizes):
    """Inputs, and what the loop makes of them: the same for every form and type."""
    tensors = selective(structure, tokens, **sizes)
    return tensors, everything(selective_scan_reference, tensors, reverse=reverse)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(
    tokens=st.integers(1, 700),
    groups=st.sampled_from([None, 1, 2, 4]),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
@example(tokens=2999, groups=2, reverse=True, seed=0)
@settings(max_examples=8)
def test_values_and_gradients_are_those_of_the_loop(form, structure, dtype, tokens, groups, reverse, seed):
    tensors, expected = case(structure, tokens, reverse, batch=1, width=4, states=2, groups=groups, seed=seed)
    with use_backend(form):
        found = everything(selective_scan, [t.to(dtype) for t in tensors], reverse=reverse)
    for value, wanted in zip(found, expected, strict=True):
        assert close(value, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 127, 128, 257])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_around_the_edges_of_chunks(form, structure, dtype, tokens):
    tensors, expected = case(structure, tokens, width=8, states=3, groups=2)
    with use_backend(form):
        found = everything(selective_scan, [t.to(dtype) for t in tensors])
    for value, wanted in zip(found, expected, strict=True):
        assert close(value, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("width", "heads", "groups", "states"),
    [(1, 1, 1, 1), (96, 1, 1, 16), (144, 6, 2, 8), (260, 4, 4, 5), (40, 40, 1, 3)],
)
def test_any_width_head_group_and_state(form, structure, width, heads, groups, states):
    tensors, expected = case(structure, 70, width=width, heads=heads, groups=groups, states=states)
    with use_backend(form):
        found = everything(selective_scan, tensors)
    for value, wanted in zip(found, expected, strict=True):
        assert close(value, wanted, 1e-10)


def test_gradcheck(form, structure):
    tensors = [t.requires_grad_() for t in selective(structure, 5, batch=1, width=4, states=2)]
    with use_backend(form):
        assert torch.autograd.gradcheck(
            lambda *t: selective_scan(*t[:6], initial=t[6], reverse=True, return_state=True), tensors
        )


def test_without_skip_and_first_state(form, structure):
    x, dt, A, B, C, *_ = selective(structure, 40)
    with use_backend(form):
        assert close(selective_scan(x, dt, A, B, C), selective_scan_reference(x, dt, A, B, C)[0], 1e-12)


@lru_cache(maxsize=2)
def extremes(structure):
    """16,384 tokens whose exp(dt A) are 1, 1 - 1e-7, 1e-13 and 0, a channel each; the loop in both types."""
    x, dt, A, B, C, D, initial = selective(structure, 16_384, batch=1, width=4, heads=4, states=2, dtype=torch.float32)
    strength = torch.tensor([0.0, 1e-7, 30.0, 1e4])
    A = -strength.view(-1, *[1] * (A.dim() - 1)).expand_as(A).contiguous()
    dt = torch.where(strength > 1, (dt > 0.25).float(), 1.0)  # some that forget nothing among the strong ones
    tensors = [x, dt, A, B, C, D, initial]
    with torch.no_grad():
        exact = selective_scan_reference(*(t.double() for t in tensors[:6]), initial=initial.double())
        return tensors, exact, selective_scan_reference(*tensors[:6], initial=initial)


def test_a_long_sequence_of_extreme_decays(form, structure):
    tensors, exact, loop = extremes(structure)
    with use_backend(form):
        found = everything(selective_scan, tensors)
    assert all(t.isfinite().all() for t in found)
    for values in zip(found[:2], exact, loop, strict=True):
        axis = 2 if values[0] is found[0] else 1
        for value, wanted, rounded in zip(*(t.unbind(axis) for t in values), strict=True):
            assert close(value, wanted, max(1e-5, 1.5 * far(rounded, wanted)))


def test_strong_decays_beside_weak_ones_stay_exact(form, structure):
    """Differences of running sums of logarithms would lose the weak ones."""
    x, dt, A, B, C, D, initial = selective(structure, 200, dtype=torch.float32)
    dt = torch.where(torch.arange(200)[None, :, None] % 50 == 49, 1e4, 1e-4).expand_as(dt)
    tensors = [x, dt, A, B, C, D, initial]
    with use_backend(form):
        found = everything(selective_scan, tensors)
    expected = everything(selective_scan_reference, [t.double() for t in tensors])
    for value, wanted in zip(found, expected, strict=True):
        assert close(value, wanted, 1e-5)


@pytest.mark.parametrize("cut", [1, 30, 64, 99])
def test_pieces_joined_by_their_state_are_the_whole(form, structure, cut):
    *tensors, initial = selective(structure, 100)

    def run(first, last, start, reverse=False):
        part = [t[:, first:last] if t.dim() > 2 else t for t in tensors]
        return selective_scan(*part, initial=start, reverse=reverse, return_state=True)

    with use_backend(form):
        whole, end = run(0, 100, initial)
        first, state = run(0, cut, initial)
        second, last = run(cut, 100, state)
        backwards, beginning = run(0, 100, initial, True)
        later, state = run(cut, 100, initial, True)
        earlier, before = run(0, cut, state, True)
    assert close(torch.cat((first, second), 1), whole, 1e-12)
    assert close(last, end, 1e-12)
    assert close(torch.cat((earlier, later), 1), backwards, 1e-12)
    assert close(before, beginning, 1e-12)


def test_reverse_is_the_flip(form, structure):
    x, dt, A, B, C, D, initial = selective(structure, 90)
    with use_backend(form):
        back = selective_scan(x, dt, A, B, C, D, initial=initial, reverse=True)
        flipped = selective_scan(x.flip(1), dt.flip(1), A, B.flip(1), C.flip(1), D, initial=initial).flip(1)
    assert close(back, flipped, 1e-13)


def test_the_structures_meet_where_all_decays_of_a_head_are_equal(form, structure):
    x, dt, A, B, C, D, initial = selective("scalar", 80)
    with use_backend(form):
        by_head = selective_scan(x, dt, A, B, C, D, initial=initial)
        expanded = A.repeat_interleave(3)[:, None].expand(12, 5)
        by_state = selective_scan(x, dt.repeat_interleave(3, 2), expanded, B, C, D, initial=initial)
    assert close(by_head, by_state, 1e-12)


def test_one_state_that_is_read_and_written_plainly_is_the_linear_recurrence(form, structure):
    x, dt, A, B, C, *_ = selective(structure, 60, states=1)
    with use_backend(form):
        y = selective_scan(x, dt, A, torch.ones_like(B), torch.ones_like(C))
    decay = torch.exp(dt * (A[:, 0] if structure == "diagonal" else A))
    if structure == "scalar":
        decay, dt = decay.repeat_interleave(3, 2), dt.repeat_interleave(3, 2)
    assert close(y, linear_recurrence_reference(decay, dt * x), 1e-12)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_inputs_keep_a_wide_state(form, structure, half):
    tensors = [t.to(half) for t in selective(structure, 300)]
    with use_backend(form):
        found = everything(selective_scan, tensors)
    assert found[0].dtype == half
    assert found[1].dtype == torch.float32
    assert all(g.dtype == half for g in found[2:])
    expected = selective_scan_reference(*(t.double() for t in tensors[:6]), initial=tensors[6].double())
    assert close(found[0], expected[0], torch.finfo(half).eps)
    assert close(found[1], expected[1], 1e-5)


def test_autocast_leaves_states_wide(form, structure):
    """With its products in half precision the gradients would be wrong by 1e-2."""
    tensors = selective(structure, 300, dtype=torch.float32)
    with use_backend(form):
        expected = everything(selective_scan, tensors)
        with torch.autocast("cpu", torch.bfloat16):
            found = everything(selective_scan, tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_empty_batch(form, structure):
    tensors = selective(structure, 70, batch=0)
    with use_backend(form):
        found = everything(selective_scan, tensors)
    assert found[0].shape == (0, 70, 12)
    assert [g.shape for g in found[2:]] == [t.shape for t in tensors]
    assert not found[4].any()


def test_samples_do_not_depend_on_the_batch(form, structure):
    tensors = selective(structure, 90, batch=3, dtype=torch.float32)
    alone = [t[1:2] if t.dim() > 2 else t for t in tensors]
    with use_backend(form):
        together = selective_scan(*tensors[:6], initial=tensors[6])[1:2]
        assert close(together, selective_scan(*alone[:6], initial=alone[6]), 1e-6)


def test_vmap_over_inputs_and_over_weights(form, structure):
    x, dt, A, B, C, D, _ = selective(structure, 40)
    with use_backend(form):
        mapped = torch.vmap(lambda x, A: selective_scan(x, dt, A, B, C, D))(
            torch.stack((x, x)), torch.stack((A, A / 2))
        )
        assert close(mapped[1], selective_scan(x, dt, A / 2, B, C, D), 1e-12)


@pytest.mark.parametrize(
    ("position", "shape", "words"),
    [
        (0, (2, 12), "x: "),
        (1, (2, 9, 5), "dt: "),
        (2, (5, 5), "A: "),
        (3, (2, 9, 7, 5), "B: 7 groups"),
        (4, (2, 9, 4), "C: "),
        (5, (3,), "D: "),
        (6, (2, 12, 3), "initial: "),
    ],
)
def test_shapes_that_do_not_fit(form, structure, position, shape, words):
    tensors = selective(structure, 9)
    tensors[position] = torch.rand(shape)
    if position == 3:
        tensors[4] = tensors[3]
    if position == 2 and structure == "scalar":
        tensors[1], tensors[2], words = torch.rand(2, 9, 5), torch.rand(5), "A: 5 heads"
    with use_backend(form), pytest.raises(PochadeError, match=words):
        selective_scan(*tensors[:6], initial=tensors[6])
