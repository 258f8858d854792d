"""What the diagnostics of IRIS show, against networks of which it is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from denoisers.test_iris import inputs, make, text
from pochade.denoisers.lrf import LRFDenoiser
from pochade.errors import PochadeError
from pochade.evaluation.iris_diagnostics import gammas, gate_maps, radial_power, residuals, spectra


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return make()


def test_gammas(denoiser: Any) -> None:
    found = gammas(denoiser)
    assert found.shape == (2, 2)
    assert np.array_equal(found[1], denoiser.core.blocks[1].mixer.spatial.gamma().detach().numpy())


def test_gate_maps(denoiser: Any) -> None:
    (z, t), conditioning = inputs(2, 8, 4), text()
    found = gate_maps(denoiser, z, t, conditioning, depth=3)
    assert found.shape == (3, 2, 2, 4, 2)
    assert found.std() > 0
    known = make()
    with torch.no_grad():
        for number, block in enumerate(known.core.blocks):
            block.mixer.gate.weight.zero_()
            block.mixer.gate.bias.fill_(float(number))
    expected = np.array([0.5, 1 / (1 + math.exp(-1))])[:, None, None, None]
    np.testing.assert_allclose(
        gate_maps(known, z, t, conditioning), np.broadcast_to(expected, (3, 2, 2, 4, 2)), atol=1e-6
    )


@torch.no_grad()
def test_residuals_end_where_the_network_says(denoiser: Any) -> None:
    (z, t), conditioning = inputs(), text()
    for depth in (1, 4):
        found = residuals(denoiser, z, t, conditioning, depth=depth)
        assert found.shape == (depth, 2)
        np.testing.assert_allclose(found[0], 1, atol=1e-6)
        np.testing.assert_allclose(found[-1], denoiser(z, t, conditioning, depth=depth).aux["residual"], atol=1e-6)


def test_radial_power() -> None:
    noise = torch.randn(8, 64, 12, 16, generator=torch.Generator().manual_seed(0))
    frequencies, power = radial_power(noise)
    assert frequencies[0] == 0
    assert (np.diff(frequencies) > 0).all()
    np.testing.assert_allclose(power, 1, atol=0.15)
    column = torch.arange(16) / 16
    wave = torch.cos(2 * math.pi * 3 * column).expand(1, 1, 12, 16)
    frequencies, power = radial_power(wave)
    assert frequencies[power.argmax()] == pytest.approx(3 / 16, abs=1 / 32)
    constant = radial_power(torch.ones(1, 1, 4, 4))[1]
    assert constant[0] == pytest.approx(16)
    assert constant[1:] == pytest.approx(0)


def test_spectra(denoiser: Any) -> None:
    (z, t), conditioning = inputs(), text()
    frequencies, power = spectra(denoiser, z, t, conditioning, depth=2)
    states: list[torch.Tensor] = []
    hook = denoiser.core.register_forward_hook(lambda _, __, out: states.append(out[0].detach()))
    with torch.no_grad():
        denoiser(z, t, conditioning, depth=2)
    hook.remove()
    side = math.isqrt(states[0].shape[1])
    grids = [state.transpose(1, 2).unflatten(2, (side, side)) for state in states]
    np.testing.assert_allclose(power, [radial_power(grid)[1] for grid in grids], rtol=1e-5)
    assert power.shape == (2, len(frequencies))


def test_the_network_is_left_as_it_was(denoiser: Any) -> None:
    (z, t), conditioning = inputs(), text()
    before = denoiser(z, t, conditioning).velocity
    denoiser.train()
    gate_maps(denoiser, z, t, conditioning)
    residuals(denoiser, z, t, conditioning)
    assert denoiser.training
    denoiser.eval()
    assert torch.equal(denoiser(z, t, conditioning).velocity, before)
    assert not any(module._forward_hooks for module in denoiser.modules())


def test_another_family_is_refused() -> None:
    other: Any = LRFDenoiser(latent_channels=3, sample_size=4, dim=16, heads=2, hidden=24, blocks=1)
    with pytest.raises(PochadeError, match="denoiser: LRFDenoiser given, allowed is an IRISDenoiser"):
        residuals(other, torch.zeros(1, 3, 4, 4), torch.zeros(1), text(1))
