from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Laplace,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from pochade.flow.timesteps import LAPLACE_SCALE, Density, curriculum, quantile, shift

SCALES = [
    ("uniform", None),
    ("logit_normal", None),
    ("logit_normal", 0.5),
    ("laplace", None),
    ("laplace", 0.5),
]


def grid(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def of_logit(density: str, scale: float | None) -> Distribution:
    """What is known of logit t: lambda = 2 log((1 - t) / t) is -2 logit t."""
    zero = torch.zeros((), dtype=torch.float64)
    if density == "uniform":
        return TransformedDistribution(Uniform(zero, 1), SigmoidTransform().inv)
    if density == "logit_normal":
        return Normal(zero, 1.0 if scale is None else scale)
    return Laplace(zero, (LAPLACE_SCALE if scale is None else scale) / 2)


def test_every_density_is_tested():
    assert {name for name, _ in SCALES} == set(get_args(Density))


@pytest.mark.parametrize(("density", "scale"), SCALES)
def test_quantiles_are_those_of_the_distribution(density: str, scale: float | None):
    u = grid(20_000)
    inside = (u > 1e-4) & (u < 1 - 1e-4)  # t is kept away from its ends
    drawn = torch.logit(quantile(u, density, scale=scale))
    torch.testing.assert_close(of_logit(density, scale).cdf(drawn)[inside], u[inside], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("density", "scale"), SCALES)
def test_quantiles_rise_stay_inside_and_mirror(density: str, scale: float | None):
    for dtype in (torch.float64, torch.float32):
        u = torch.cat((torch.zeros(1), torch.rand(1000, generator=torch.Generator().manual_seed(0)).sort()[0]))
        t = quantile(u.to(dtype), density, scale=scale)
        assert t.dtype == dtype
        assert (t.diff() >= 0).all()
        assert t.min() >= 0.99e-5
        assert t.max() <= 1 - 0.99e-5
    u = grid(500)
    torch.testing.assert_close(quantile(u, density, scale=scale) + quantile(1 - u, density, scale=scale), u * 0 + 1)


def test_laplace_of_half_holds_nine_tenths_near_the_middle():
    t = quantile(grid(10_001), "laplace", scale=0.5)
    inside = ((t > 0.36) & (t < 0.64)).double().mean()
    assert inside == pytest.approx(0.9, abs=0.005)


def test_the_default_laplace_is_about_as_wide_as_logit_normal():
    """Both have a deviation of 1 in logit t."""
    u = grid(100_001)
    for density in ("laplace", "logit_normal"):
        assert torch.logit(quantile(u, density)).std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_shift_keeps_the_ends_and_is_undone_by_its_inverse(factor: float):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    moved = shift(t, factor)
    assert moved[0] == 0
    assert moved[-1] == 1
    assert (moved.diff() > 0).all()
    torch.testing.assert_close(shift(moved, 1 / factor), t)
    inside = moved[1:-1] - t[1:-1]
    assert (inside.sign() == (0 if factor == 1 else 1 if factor > 1 else -1)).all()
    # The odds of noise against data are multiplied by the factor: that is the formula.
    torch.testing.assert_close((moved / (1 - moved))[:-1], factor * (t / (1 - t))[:-1])


def test_curriculum_grows_from_the_noisy_half_to_all():
    t = torch.linspace(0, 1, 11)
    start = curriculum(t, 0.0)
    assert start.min() == 0.5
    assert start.max() == 1
    torch.testing.assert_close(curriculum(t, 1.0), t)
    assert curriculum(t, 0.5).min() == pytest.approx(0.25)
    lows = [float(curriculum(t, p).min()) for p in (0, 0.25, 0.5, 0.75, 1)]
    assert lows == sorted(lows, reverse=True)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="progress: "):
            curriculum(t, wrong)
