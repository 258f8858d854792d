"""KID and Frechet distances against their definitions, known values and torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pochade.errors import PochadeError
from pochade.evaluation.frechet import frechet_distance
from pochade.evaluation.kid import kid, squared_mmd


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mmd_is_the_double_sum() -> None:
    x, y = normal(5, 3, 0), normal(4, 3, 1) + 1

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    within_y = np.mean([kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert float(squared_mmd(x, y)) == pytest.approx(within_x + within_y - 2 * between)


def test_kid_of_one_distribution_is_zero_within_its_deviation() -> None:
    mean, std = kid(normal(2000, 16, 0), normal(1500, 16, 1), subset_size=200)
    assert abs(mean) < std
    assert std > 0
    # Unbiased: over many independent pairs the mean goes to zero, on both sides of it.
    values = torch.stack([squared_mmd(normal(20, 4, 2 * i), normal(20, 4, 2 * i + 1)) for i in range(400)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / 20
    assert (values < 0).any()


def test_kid_grows_with_the_shift_and_repeats() -> None:
    x = normal(300, 8, 0)
    distances = [kid(x, normal(300, 8, 1) + shift)[0] for shift in (0.0, 0.3, 1.0)]
    assert distances == sorted(distances)
    assert distances[2] > 1
    assert kid(x, x + 1) == kid(x, x + 1)
    assert kid(x, normal(300, 8, 1))[1] > 0  # subsets differ although the sets are small


@pytest.mark.parametrize("n", [50, 2000])
def test_frechet_of_a_shift_is_its_square(n: int) -> None:
    x = normal(n, 8, 0)
    shift = torch.arange(8.0, dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()))
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(4 * float(x.var(0).sum()))


def test_frechet_is_the_formula_with_a_matrix_root() -> None:
    x, y = normal(40, 5, 0), normal(60, 5, 1) @ normal(5, 5, 2) + 0.5
    sx, sy = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(sx @ sy).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(sx + sy - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(y, x) == pytest.approx(expected)


def test_frechet_with_fewer_rows_than_columns() -> None:
    x = normal(10, 64, 0)
    assert frechet_distance(x, x + 1) == pytest.approx(64)
    assert frechet_distance(x, torch.zeros(4, 64)) == pytest.approx(float(x.mean(0).square().sum() + x.var(0).sum()))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 12), m=st.integers(2, 12), d=st.integers(1, 6), seed=st.integers(0, 1000))
def test_distances_are_symmetric_and_invariant_under_rotation(n: int, m: int, d: int, seed: int) -> None:
    x, y = normal(n, d, seed), normal(m, d, seed + 1)
    rotation = torch.linalg.qr(normal(d, d, seed + 2)).Q
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(frechet_distance(x, y), abs=1e-8)
    assert float(squared_mmd(x @ rotation, y @ rotation)) == pytest.approx(float(squared_mmd(y, x)), abs=1e-8)


@pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features:UserWarning")
@pytest.mark.parametrize(("n", "m"), [(80, 60), (20, 30)])  # more and fewer rows than columns
def test_distances_are_those_of_torchmetrics(n: int, m: int) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Features(torch.nn.Module):
        """What is given are features already."""

        num_features = 48

        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = normal(n, 48, 0), 1.2 * normal(m, 48, 1) + 0.1
    reference = KernelInceptionDistance(Features(), subsets=7, subset_size=15)
    fid = FrechetInceptionDistance(Features())
    for metric in (reference, fid):
        metric.set_dtype(torch.float64)
        metric.update(x, real=True)
        metric.update(y, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)  # it draws the subsets from torch's global generator, in the order that ours has
        mean, std = reference.compute()
    assert kid(x, y, subsets=7, subset_size=15, seed=3) == pytest.approx((float(mean), float(std)), rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(float(fid.compute()), rel=1e-6)


def test_unusable_features_are_refused() -> None:
    x = normal(10, 4, 0)
    for bad in (x[:1], x[:, :3], torch.full_like(x, float("nan"))):
        with pytest.raises(PochadeError, match="fake"):
            frechet_distance(x, bad)
        with pytest.raises(PochadeError, match="fake"):
            kid(x, bad)
    with pytest.raises(PochadeError, match="subset_size: 11"):
        kid(x, x, subset_size=11)
