"""Intervals of figures, against known sampling distributions."""

import pytest
import torch

from pochade.errors import PochadeError
from pochade.evaluation import bootstrap
from pochade.evaluation.frechet import frechet_distance
from pochade.evaluation.kid import squared_mmd


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = normal(400, 1, 0)[:, 0]
    values = (values - values.mean()) / values.std()
    low, high = bootstrap.of_mean(values)
    assert (low, high) == pytest.approx((-1.96 / 20, 1.96 / 20), abs=0.012)
    assert bootstrap.of_mean(torch.ones(5)) == [1, 1]
    fraction = (torch.arange(100) < 30).double()  # binomial: 0.3 +- 1.96 sqrt(0.3 0.7 / 100)
    assert bootstrap.of_mean(fraction) == pytest.approx((0.21, 0.39), abs=0.015)


def test_the_interval_of_a_median_is_that_of_its_order_statistics() -> None:
    values = torch.arange(101.0)  # ranks 50 +- 1.96 sqrt(101) / 2
    assert bootstrap.of_median(values) == pytest.approx((40, 60), abs=2)


def test_nineteen_of_twenty_intervals_hold_the_true_mean() -> None:
    held = 0
    for seed in range(200):
        low, high = bootstrap.of_mean(normal(50, 1, seed)[:, 0])
        held += low <= 0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_interval_of_a_kid_has_the_width_that_new_pictures_show() -> None:
    def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(300, 64, 2 * seed), normal(150, 64, 2 * seed + 1) + 0.5

    estimates = torch.stack([squared_mmd(*drawn(seed)) for seed in range(100, 250)])
    expected = float(estimates.quantile(0.975) - estimates.quantile(0.025))
    widths = []
    for seed in range(5):
        real, fake = drawn(seed)
        estimate = float(squared_mmd(real, fake))
        low, high = bootstrap.of_kid(estimate, real, fake)
        assert low < estimate < high
        widths.append(high - low)
    assert sum(widths) / len(widths) == pytest.approx(expected, rel=0.2)


def test_the_interval_of_a_frechet_distance_is_that_of_the_resampled_distances() -> None:
    for m in (12, 50):  # fewer and more rows than columns
        real, fake = normal(80, 20, 0), normal(m, 20, 1) + 0.3
        estimate = frechet_distance(real, fake)
        found = bootstrap.of_frechet(estimate, real, fake, resamples=30)
        again = [frechet_distance(real, fake[rows]) for rows in torch.cat(list(bootstrap.draws(m, 30)))]
        assert found == pytest.approx(bootstrap.ends_around(estimate, torch.tensor(again)), rel=1e-6)
        assert found[0] < estimate < found[1]


@pytest.mark.parametrize("count", [1, 6, 7, 8, 30])
def test_blocks_of_resamples_are_those_drawn_at_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(count, 1, 0)[:, 0]
    whole, mean, median = (
        torch.cat(list(bootstrap.draws(count))),
        bootstrap.of_mean(values),
        bootstrap.of_median(values),
    )
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 7 * 64)
    assert torch.equal(torch.cat(list(bootstrap.draws(count))), whole)
    assert (bootstrap.of_mean(values), bootstrap.of_median(values)) == (mean, median)


def test_fewer_rows_drawn_give_the_interval_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(2000, 4, 0), normal(1600, 4, 1) + 0.3
    estimate = frechet_distance(real, fake)
    for per_caption in (1, 4):
        low, high = bootstrap.of_frechet(estimate, real, fake, 400, per_caption=per_caption)
        with monkeypatch.context() as patched:
            patched.setattr(bootstrap, "DRAWN", 200)
            fewer = bootstrap.of_frechet(estimate, real, fake, 400, per_caption=per_caption)
        assert fewer[1] - fewer[0] == pytest.approx(high - low, rel=0.2)
        assert fewer[0] < estimate < fewer[1]


def test_captions_are_drawn_with_all_their_pictures() -> None:
    values = normal(100, 1, 0)[:, 0]
    assert bootstrap.of_mean(bootstrap.by_caption(values.repeat(4), 4)) == pytest.approx(bootstrap.of_mean(values))
    real, fake = normal(300, 4, 0), normal(100, 4, 1) + 0.3
    estimate = frechet_distance(real, fake)
    # The same picture of a caption four times tells no more than once; as a hundred captions it would.
    ends = [bootstrap.of_frechet(estimate, real, fake.repeat(n, 1), per_caption=n) for n in (1, 4)]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)
    low, high = bootstrap.of_frechet(estimate, real, fake.repeat(4, 1))
    assert high - low < 0.7 * (ends[0][1] - ends[0][0])


def test_few_pictures_have_an_interval() -> None:
    low, high = bootstrap.of_kid(0.5, normal(9, 4, 0), normal(2, 4, 1))
    assert low <= 0.5 <= high


def test_wrong_arguments() -> None:
    with pytest.raises(PochadeError, match=r"^level: 1 given, allowed is above 0 and below 1"):
        bootstrap.ends_of(torch.ones(3), level=1)
    with pytest.raises(PochadeError, match=r"^fake: finite features needed"):
        bootstrap.of_kid(0.0, normal(5, 3, 0), normal(5, 3, 1) * torch.nan)
