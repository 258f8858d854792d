import math

import pytest
import torch

from pochade.nn.keyed_noise import keyed_truncated_normal, row_keys


def test_a_row_depends_on_its_key_alone():
    keys = torch.tensor([5, 7, 5, 2**32 - 1])
    noise = keyed_truncated_normal(keys, 6, 5, deviation=1.0)
    assert noise.shape == (4, 6, 5)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2])
    assert (noise[0] != noise[1]).all()
    assert torch.equal(noise[3:], keyed_truncated_normal(keys[3:], 6, 5, deviation=1.0))


@pytest.mark.parametrize(("deviation", "bound"), [(1.0, 3.0), (0.5, 1.0)])
def test_it_is_normal_cut_at_its_bound(deviation: float, bound: float):
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


def test_neighbouring_keys_and_places_are_unrelated():
    """No correlation beyond chance (4 deviations) between rows, between neighbours, and between squares."""
    noise = keyed_truncated_normal(torch.arange(40), 32, 32, deviation=1.0).flatten(1).double()
    for values in (noise, noise.square()):
        unit = (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True)
        between = (unit @ unit.T / unit.shape[1]).fill_diagonal_(0)
        assert between.abs().max() < 5.5 / math.sqrt(unit.shape[1])
        for step in (1, 2, 32):
            assert abs(float((unit[:, step:] * unit[:, :-step]).mean())) < 4 / math.sqrt(unit.numel())


def test_keys_tell_rows_apart():
    generator = torch.Generator().manual_seed(0)
    t, latents = torch.rand(4000, 1, generator=generator), torch.randn(4000, 3, generator=generator)
    keys = row_keys(t, latents)
    assert keys.unique().numel() == 4000
    assert 0 <= int(keys.min()) <= int(keys.max()) < 2**32
    assert torch.equal(row_keys(t[7:9], latents[7:9]), keys[7:9])
    # The same time, or the same latents, is not the same row; the order of the parts matters.
    assert row_keys(torch.full_like(t, 0.5), latents).unique().numel() == 4000
    assert row_keys(t, torch.zeros_like(latents)).unique().numel() == t.unique().numel()
    assert not torch.equal(row_keys(latents.flip(1)), row_keys(latents))
