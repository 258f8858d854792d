"""The noise of a seed, beside PyTorch's."""

import hashlib

import numpy as np
import pytest
import torch

from pochade.runtime.noise import Noise


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**40 + 5, 2**63 - 1])
@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 16, 16, 16), (1, 1, 5, 5), (17,)])
def test_it_is_that_of_torch_and_goes_on_as_that_does(seed: int, shape: tuple[int, ...]) -> None:
    generator, noise = torch.Generator().manual_seed(seed), Noise(seed)
    for _ in range(3):
        got = noise.normal(shape)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, torch.randn(shape, generator=generator).numpy(), atol=2e-6, rtol=0)


def test_bits_that_any_other_host_must_give() -> None:
    """Computed in float64 and rounded once, they do not depend on the processor."""
    got = Noise(0).normal((4096,)).astype("<f4").tobytes()
    assert hashlib.sha256(got).hexdigest().startswith("c0417dd5191fdf07")
