import math
from typing import get_args

import pytest
import torch
from torch.distributions import Laplace, Normal

from pochade.flow.timesteps import LAPLACE_SCALE, Density, quantile, shift
from pochade.flow.weighting import MIN_SNR_GAMMA, RATIO_CAP, Weighting, weight

WEIGHTINGS, DENSITIES = get_args(Weighting), get_args(Density)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_mean_is_one_under_the_density(weighting: str, density: str, scale: float | None):
    """Once by integrating against the density, once over its quantiles (another number of them than in the code)."""
    logit = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    t = torch.sigmoid(logit)
    known = {
        "uniform": t * (1 - t),
        "logit_normal": Normal(0.0, scale or 1.0).log_prob(logit).exp(),
        "laplace": Laplace(0.0, (scale or LAPLACE_SCALE) / 2).log_prob(logit).exp(),
    }
    mass = known[density]
    integral = torch.trapezoid(weight(t, weighting, density, scale=scale) * mass, logit)
    assert integral == pytest.approx(1, abs=2e-3)
    u = (torch.arange(30_011, dtype=torch.float64) + 0.5) / 30_011
    assert weight(quantile(u, density, scale=scale), weighting, density, scale=scale).mean() == pytest.approx(
        1, abs=1e-3
    )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_mean_is_one_under_a_shifted_density(weighting: str, factor: float):
    u = (torch.arange(30_011, dtype=torch.float64) + 0.5) / 30_011
    t = shift(quantile(u, "logit_normal"), factor)
    assert weight(t, weighting, "logit_normal", time_shift=factor).mean() == pytest.approx(1, abs=1e-3)


def test_means_under_uniform_time_are_the_closed_forms():
    """Mean of 1 / (1 + |2t - 1|) is ln 2, of min(t / (1 - t), 5) it is ln 6: the weights are divided by them."""
    t = torch.tensor([0.5], dtype=torch.float64)
    assert float(weight(t, "centre", "uniform")) == pytest.approx(1 / math.log(2), rel=1e-4)
    assert float(weight(t, "ratio", "uniform")) == pytest.approx(1 / math.log(6), rel=1e-4)


def test_forms_of_the_weights():
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    snr = ((1 - t) / t) ** 2
    forms = {
        "constant": torch.ones_like(t),
        "centre": 1 / (1 + (2 * t - 1).abs()),
        "ratio": (t / (1 - t)).clamp(max=RATIO_CAP),
        "min_snr": t**2 * snr.clamp(max=MIN_SNR_GAMMA),
    }
    assert set(forms) == set(WEIGHTINGS)
    for name, form in forms.items():
        given = weight(t, name, "uniform")
        torch.testing.assert_close(given / given[24], form / form[24])


def test_the_ratio_is_capped_and_all_weights_are_finite_at_the_ends():
    t = torch.tensor([0.0, 1e-5, 5 / 6, 0.9, 1 - 1e-5, 1.0])
    for weighting in WEIGHTINGS:
        for density in DENSITIES:
            given = weight(t, weighting, density)
            assert torch.isfinite(given).all()
            assert (given >= 0).all()
    ratio = weight(t, "ratio", "uniform")
    torch.testing.assert_close(ratio[2:], ratio[2].expand(4))
    assert ratio[1] < 1e-4
