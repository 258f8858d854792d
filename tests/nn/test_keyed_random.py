import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pochade.nn.keyed_random import (
    keyed_integers,
    keyed_normal,
    keyed_truncated_normal,
    keyed_uniform,
    permuted,
    row_keys,
    sample_keys,
)

DRAWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "uniform": lambda keys, stream: keyed_uniform(keys, 37, stream),
    "normal": lambda keys, stream: keyed_normal(keys, (3, 5, 7), stream),
    "integers": lambda keys, stream: keyed_integers(keys, 10**9, stream)[:, None],
}


def chi_square(counts: Tensor) -> float:
    """How many standard deviations the statistic of counts, expected to be equal, lies from its mean."""
    expected = counts.double().mean()
    degrees = counts.numel() - 1
    statistic = float(((counts - expected).square() / expected).sum())
    return (statistic - degrees) / math.sqrt(2 * degrees)


def largest_correlation(samples: Tensor) -> float:
    """Between any two samples [B, N], in standard deviations of what unrelated ones have."""
    unit = (samples - samples.mean(1, keepdim=True)) / samples.std(1, keepdim=True)
    return float((unit @ unit.T / unit.shape[1]).fill_diagonal_(0).abs().max()) * math.sqrt(unit.shape[1])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_sample_depends_on_its_key_alone(draw: Callable[[Tensor, int], Tensor]):
    keys = sample_keys(1, torch.arange(300))
    samples = draw(keys, 4)
    for part in (slice(0, 1), slice(17, 20), slice(255, None)):
        assert torch.equal(draw(keys[part], 4), samples[part])
    assert torch.equal(draw(keys.flip(0), 4), samples.flip(0))
    assert (draw(keys, 5) != samples).double().mean() > 0.99
    assert draw(keys[:0], 4).shape == (0, *samples.shape[1:])


def test_long_samples_are_the_same_in_parts_and_whole():
    """Samples longer than a block, and the first values of a sample whatever its length."""
    keys = sample_keys(2, torch.arange(3))
    long = keyed_normal(keys, (3, 50_001))
    assert torch.equal(keyed_normal(keys[1:2], (3, 50_001))[0], long[1])
    assert torch.equal(keyed_normal(keys, (40,)), long.flatten(1)[:, :40])


def test_the_number_of_threads_changes_nothing():
    keys, threads = sample_keys(3, torch.arange(40)), torch.get_num_threads()
    one = keyed_normal(keys, (4099,))
    torch.set_num_threads(3)
    try:
        assert torch.equal(keyed_normal(keys, (4099,)), one)
    finally:
        torch.set_num_threads(threads)


def test_the_bits_stay_what_they_are():
    """A resumed run draws what it would have drawn: these numbers are part of the format of a checkpoint."""
    keys = sample_keys(7, torch.tensor([0, 1, 2**40]))
    assert keys.tolist() == [4002467759508219783, 449103355366260047, 5310984845992834797]
    assert (keyed_uniform(keys, 2, 3) * 2**24).long().tolist() == [
        [2423749, 6011257],
        [10435598, 6224074],
        [13159136, 7468831],
    ]
    assert keyed_integers(keys, torch.tensor([10, 10**6, 2**40])).tolist() == [6, 503716, 706022174318]
    assert permuted(7, torch.arange(8), 8).tolist() == [0, 7, 2, 4, 1, 3, 5, 6]


def test_uniform_numbers_are_even():
    values = keyed_uniform(sample_keys(11, torch.arange(2000)), 500)
    assert values.dtype == torch.float32
    assert 0 <= float(values.min()) < 1e-5
    assert 1 - 1e-5 < float(values.max()) < 1
    assert abs(chi_square(torch.bincount((values * 1000).long().flatten(), minlength=1000))) < 4
    # Two neighbouring values, and the lowest of the 24 bits, are even as well.
    pairs = (values * 30).long()
    assert abs(chi_square(torch.bincount((pairs[:, ::2] * 30 + pairs[:, 1::2]).flatten(), minlength=900))) < 4
    assert abs(chi_square(torch.bincount((values * 2**24).long().flatten() % 256, minlength=256))) < 4


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    values = keyed_normal(sample_keys(12, torch.arange(1000)), (2, 1000)).double()
    count = values.numel()
    # E x^k, and the deviation of x^k: sqrt(E x^2k - (E x^k)^2).
    for power, mean, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5), (6, 15, 10170**0.5)):
        assert abs(float((values**power).mean()) - mean) < 4 * deviation / math.sqrt(count)
    for x in (-2.5, -1, 0, 0.3, 3):
        probability = (math.erf(x / math.sqrt(2)) + 1) / 2
        found = float((values < x).double().mean())
        assert abs(found - probability) < 4 * math.sqrt(probability * (1 - probability) / count)
    assert values.abs().max() < 5.43


def test_integers_are_even_below_any_bound():
    keys = sample_keys(13, torch.arange(90_000))
    assert abs(chi_square(torch.bincount(keyed_integers(keys, 7), minlength=7))) < 4
    bounds = torch.tensor([1, 2, 30]).repeat(30_000)
    drawn = keyed_integers(keys, bounds)
    assert ((drawn >= 0) & (drawn < bounds)).all()
    assert abs(chi_square(torch.bincount(drawn[bounds == 30], minlength=30))) < 4
    assert drawn.dtype == torch.int64


@pytest.mark.parametrize("keys", [torch.arange(40), sample_keys(0, torch.arange(40)), torch.arange(40) << 32])
def test_keys_streams_columns_and_seeds_are_unrelated(keys: Tensor):
    """Nothing beyond chance between samples, streams, neighbouring values and seeds, nor between their squares."""
    samples = keyed_normal(keys, (2048,)).double()
    streams = torch.cat([keyed_normal(keys[5:6], (2048,), stream) for stream in range(40)]).double()
    seeds = torch.cat([keyed_normal(sample_keys(seed, keys[7:8]), (2048,)) for seed in range(-3, 30)]).double()
    for values in (samples, streams, seeds):
        assert largest_correlation(values) < 5.5
        assert largest_correlation(values.square()) < 5.5
    for step in (1, 2, 3, 32, 64, 1024):
        product = samples[:, step:] * samples[:, :-step]
        assert abs(float(product.mean())) < 4 / math.sqrt(product.numel())


def test_keys_of_a_run_are_all_different():
    positions = torch.cat([torch.arange(100_000), 2**40 + torch.arange(100_000)])
    keys = torch.cat([sample_keys(seed, positions) for seed in (0, 1, 2**63, -5)])
    assert keys.unique().numel() == keys.numel()
    assert int(keys.min()) >= 0
    assert torch.equal(sample_keys(2**64 + 1, positions), sample_keys(1, positions))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000, 4099])
def test_an_epoch_is_a_permutation(length: int):
    epochs = permuted(5, torch.arange(4 * length), length).view(4, length)
    assert torch.equal(epochs.sort(1).values, torch.arange(length).expand(4, length))
    if length > 7:
        assert len({tuple(epoch.tolist()) for epoch in [*epochs, permuted(6, torch.arange(length), length)]}) == 5


def test_all_orders_appear_evenly():
    """Of 5 samples all 120 orders; of 60 all pairs of first and second, and the distances of neighbours."""
    orders = permuted(9, torch.arange(5 * 12_000), 5).view(-1, 5)
    codes = (orders * 5 ** torch.arange(5)).sum(1)
    assert abs(chi_square(codes.unique(return_counts=True)[1])) < 4
    assert codes.unique().numel() == 120
    many = permuted(10, torch.arange(60 * 4000), 60).view(-1, 60)
    for one, other in ((0, 1), (3, 59)):
        counts = torch.bincount(many[:, one] * 60 + many[:, other], minlength=3600).view(60, 60)
        assert int(counts.diagonal().sum()) == 0
        assert abs(chi_square(counts[~torch.eye(60, dtype=torch.bool)])) < 4
    distances = permuted(11, torch.arange(20_000), 20_000).diff().abs().double()
    assert float(distances.mean()) == pytest.approx(20_000 / 3, rel=0.02)


def test_a_position_needs_no_memory_of_its_epoch():
    """Ten thousand million samples, far into the run, across the border of an epoch."""
    length = 10**10
    positions = 3 * length + torch.arange(-500, 500)
    entries = permuted(1, positions, length)
    assert torch.equal(permuted(1, positions[700:701], length), entries[700:701])
    assert ((entries >= 0) & (entries < length)).all()
    assert abs(float(entries.double().mean()) / length - 0.5) < 4 * math.sqrt(1 / 12 / 1000)


def test_a_sample_of_truncated_noise_depends_on_its_key_alone():
    keys = torch.tensor([5, 7, 5, 2**32 - 1])
    noise = keyed_truncated_normal(keys, 6, 5, deviation=1.0)
    assert noise.shape == (4, 6, 5)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2])
    assert (noise[0] != noise[1]).all()
    assert torch.equal(noise[3:], keyed_truncated_normal(keys[3:], 6, 5, deviation=1.0))


@pytest.mark.parametrize(("deviation", "bound"), [(1.0, 3.0), (0.5, 1.0)])
def test_truncated_noise_is_normal_cut_at_its_bound(deviation: float, bound: float):
    noise = keyed_truncated_normal(torch.arange(64), 64, 64, deviation=deviation, bound=bound).double() / deviation
    assert noise.abs().max() <= bound
    density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
    inside = math.erf(bound / math.sqrt(2))
    variance = 1 - 2 * bound * density / inside
    assert abs(float(noise.mean())) < 4 * math.sqrt(variance / noise.numel())
    assert float(noise.var()) == pytest.approx(variance, rel=0.01)
    for x in (-0.8, -0.3, 0.2, 0.9):
        expected = (math.erf(x / math.sqrt(2)) / inside + 1) / 2
        assert float((noise < x).double().mean()) == pytest.approx(expected, abs=0.004)


def test_neighbouring_keys_and_places_of_truncated_noise_are_unrelated():
    """No correlation beyond chance between samples, between neighbours, and between squares."""
    noise = keyed_truncated_normal(torch.arange(40), 32, 32, deviation=1.0).flatten(1).double()
    for values in (noise, noise.square()):
        assert largest_correlation(values) < 5.5
        unit = (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True)
        for step in (1, 2, 32):
            assert abs(float((unit[:, step:] * unit[:, :-step]).mean())) < 4 / math.sqrt(unit.numel())


def test_keys_differ_between_samples():
    generator = torch.Generator().manual_seed(0)
    t, latents = torch.rand(4000, 1, generator=generator), torch.randn(4000, 3, generator=generator)
    keys = row_keys(t, latents)
    assert keys.unique().numel() == 4000
    assert 0 <= int(keys.min()) <= int(keys.max()) < 2**32
    assert torch.equal(row_keys(t[7:9], latents[7:9]), keys[7:9])
    # The same time, or the same latents, is not the same sample; the order of the parts matters.
    assert row_keys(torch.full_like(t, 0.5), latents).unique().numel() == 4000
    assert row_keys(t, torch.zeros_like(latents)).unique().numel() == t.unique().numel()
    assert not torch.equal(row_keys(latents.flip(1)), row_keys(latents))
