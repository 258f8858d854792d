"""Consistency on a path whose ODE is known in closed form: data from a Gaussian."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pochade.errors import PochadeError
from pochade.flow.consistency import (
    HUBER,
    distance,
    euler_step,
    grid,
    intervals_at,
    neighbours,
    predict_edge,
    step_weight,
)
from pochade.types import Conditioning, DenoiserOutput

MEAN, DEVIATION = 0.7, 0.4
NOTHING = Conditioning()


def moments(t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of z_t for data from Normal(MEAN, DEVIATION^2)."""
    t = t.view(-1, 1, 1, 1)
    return (1 - t) * MEAN, (1 - t).square() * DEVIATION**2 + t.square()


@dataclass
class Gaussian:
    """The exact velocity E[eps - z_0 | z_t]."""

    config: Any = None

    def __call__(self, latents: Tensor, t: Tensor, conditioning: Conditioning, **_: Any) -> DenoiserOutput:
        mean, variance = moments(t)
        slope = (t.view(-1, 1, 1, 1) - (1 - t).view(-1, 1, 1, 1) * DEVIATION**2) / variance
        return DenoiserOutput(slope * (latents - mean) - MEAN)


def exact(latents: Tensor, t: Tensor) -> Tensor:
    """Where the ODE leads from z_t: (z_t - mean_t) / deviation_t stays what it is."""
    mean, variance = moments(t)
    return MEAN + DEVIATION * (latents - mean) / variance.sqrt()


def noise(batch: int = 6) -> Tensor:
    return torch.randn(batch, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def roll_out(intervals: int, time_shift: float = 1.0) -> Tensor:
    """From noise to data by the teacher's steps over the whole grid."""
    z, times = noise(), grid(intervals, time_shift)
    for t, s in zip(times.flip(0)[:-1], times.flip(0)[1:], strict=True):
        t, s = t.expand(6), s.expand(6)
        z = euler_step(z, Gaussian()(z, t, NOTHING).velocity, t, s)
    return z


@pytest.mark.parametrize("time_shift", [0.5, 1.0, 3.0])
def test_steps_of_the_teacher_follow_its_ode_to_first_order(time_shift: float) -> None:
    goal = exact(noise(), torch.ones(6, dtype=torch.float64))
    errors = [float((roll_out(n, time_shift) - goal).abs().max()) for n in (100, 200, 400)]
    assert errors[2] < 0.015
    for before, after in pairwise(errors):
        assert 1.8 < before / after < 2.2


def test_the_exact_answer_is_consistent_along_the_exact_path() -> None:
    t, s = torch.tensor([0.9] * 6, dtype=torch.float64), torch.tensor([0.3] * 6, dtype=torch.float64)
    (mean_t, var_t), (mean_s, var_s) = moments(t), moments(s)
    z_s = mean_s + (var_s / var_t).sqrt() * (noise() - mean_t)
    torch.testing.assert_close(exact(noise(), t), exact(z_s, s), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_boundary_condition_is_exact(dtype: torch.dtype) -> None:
    def wild(latents: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> DenoiserOutput:
        return DenoiserOutput(1e6 * torch.sin(latents) + 17)

    z = noise().to(dtype)
    for edge in (0.0, 0.5):
        t = torch.full((6,), edge, dtype=dtype)
        predicted, out = predict_edge(wild, z, t, t, NOTHING)
        assert torch.equal(predicted, z)
        assert float(out.velocity.abs().max()) > 1e5


def test_a_prediction_is_a_single_step_to_the_edge() -> None:
    t, edge = torch.linspace(0.1, 1, 6, dtype=torch.float64), torch.tensor([0, 0, 0.25, 0.5, 0.5, 0.75]).double()
    predicted, out = predict_edge(Gaussian(), noise(), t, edge, NOTHING)
    torch.testing.assert_close(predicted, noise() - (t - edge).view(-1, 1, 1, 1) * out.velocity)


@given(st.integers(1, 300), st.floats(0.2, 8))
def test_grids_rise_from_zero_to_one(intervals: int, time_shift: float) -> None:
    times = grid(intervals, time_shift)
    assert times.dtype == torch.float64
    assert len(times) == intervals + 1
    assert (times[0], times[-1]) == (0, 1)
    assert bool((times.diff() > 0).all())
    middle = time_shift / (1 + time_shift)  # what 1/2 becomes
    if intervals % 2 == 0:
        assert float(times[intervals // 2]) == pytest.approx(middle)


def test_an_even_grid_is_even() -> None:
    torch.testing.assert_close(grid(4), torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))


@given(st.integers(1, 64))
def test_every_pair_of_neighbours_is_drawn_equally(intervals: int) -> None:
    times = grid(intervals, 2.0)
    u = (torch.arange(intervals * 3, dtype=torch.float64) + 0.5) / (intervals * 3)
    t, s, zero = neighbours(u, times)
    assert torch.equal(t, times[1:].repeat_interleave(3))
    assert torch.equal(s, times[:-1].repeat_interleave(3))
    assert not zero.any()
    edge = torch.tensor([0.0, 1 - 2**-24], dtype=torch.float32)  # the largest number that torch.rand draws
    t, s, _ = neighbours(edge, times)
    assert t.dtype == torch.float32
    assert (float(s[0]), float(t[1])) == (0.0, 1.0)


def test_each_phase_leads_to_its_own_edge() -> None:
    times = grid(8, 2.0)
    t, s, edge = neighbours((torch.arange(8, dtype=torch.float64) + 0.5) / 8, times, phases=4)
    assert torch.equal(edge, times[[0, 0, 2, 2, 4, 4, 6, 6]])
    assert bool((edge <= s).all() & (s < t).all())
    torch.testing.assert_close(times[[0, 2, 4, 6, 8]], grid(4, 2.0))  # the edges are the sampler's own times


def test_the_grid_doubles_in_equal_shares() -> None:
    seen = [intervals_at(k / 100, 8, 64) for k in range(100)]
    assert {n: seen.count(n) for n in dict.fromkeys(seen)} == {8: 25, 16: 25, 32: 25, 64: 25}
    assert {intervals_at(k / 100, 10, 50) for k in range(101)} == {10, 20, 40, 50}
    assert {intervals_at(k / 100, 7, 7) for k in range(101)} == {7}


@pytest.mark.parametrize(("first", "last"), [(0, 8), (9, 8), (-1, -1)])
def test_impossible_grids(first: int, last: int) -> None:
    with pytest.raises(PochadeError, match=r"intervals: .* allowed are whole numbers from 1 on"):
        intervals_at(0.0, first, last)


def test_distances() -> None:
    a, b = noise(), noise().flip(0)
    square = (a - b).square().mean((1, 2, 3))
    torch.testing.assert_close(distance(a, b, "l2"), square)
    torch.testing.assert_close(distance(a, b), (square + HUBER**2).sqrt() - HUBER)
    for kind in ("l2", "pseudo_huber"):
        assert torch.equal(distance(a, a, kind), torch.zeros(6, dtype=torch.float64))
    same = a.clone().requires_grad_()
    distance(same, a).sum().backward()
    assert torch.equal(same.grad, torch.zeros_like(a))  # smooth where the two agree
    torch.testing.assert_close(distance(a + 1e-6, a), torch.full((6,), 1e-12 / (2 * HUBER)).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(distance(a + 50.0, a), torch.full((6,), 50.0).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("time_shift", [1.0, 3.0])
def test_step_weights_undo_the_length_of_the_step(time_shift: float) -> None:
    times = grid(12, time_shift)
    weights = step_weight(times[1:], times[:-1], 12)
    torch.testing.assert_close(weights * times.diff(), torch.full((12,), 1 / 12).double())
    if time_shift == 1:
        torch.testing.assert_close(weights, torch.ones(12).double())
