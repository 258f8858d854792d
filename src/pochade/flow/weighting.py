"""How much the velocity error counts at each t, normalised to mean 1 under the density in use."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from pochade.flow.timesteps import Density, quantile, shift

Weighting = Literal["constant", "centre", "ratio", "min_snr"]

RATIO_CAP = 5.0
MIN_SNR_GAMMA = 5.0


def _raw(t: Tensor, weighting: Weighting) -> Tensor:
    if weighting == "constant":
        return torch.ones_like(t)
    if weighting == "centre":
        return 1 / (1 + (2 * t - 1).abs())
    if weighting == "ratio":
        # t / (1 - t) alone has no bound, and under uniform t no mean.
        return (t / (1 - t).clamp_min(1e-8)).clamp_max(RATIO_CAP)
    # min-SNR (2303.09556): min(SNR, gamma) on the error of z_0, which is t^2 times the error of v.
    snr = ((1 - t) / t.clamp_min(1e-8)).square()
    return snr.clamp_max(MIN_SNR_GAMMA) * t.square()


@lru_cache(maxsize=64)
def _mean(weighting: Weighting, density: Density, scale: float | None, time_shift: float) -> float:
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    return float(_raw(shift(quantile(u, density, scale=scale), time_shift), weighting).mean())


def weight(
    t: Tensor, weighting: Weighting, density: Density, *, scale: float | None = None, time_shift: float = 1.0
) -> Tensor:
    """Weights of the squared velocity error for ``t`` [B], of mean 1 when t follows ``density`` and then ``shift``.

    - constant: 1.
    - centre: 1 / (1 + |2 t - 1|).
    - ratio: min(t / (1 - t), 5).
    - min_snr: min(SNR, 5) on the error of the data (2303.09556), which is t^2 min(SNR, 5) on the velocity.
    """
    return _raw(t, weighting) / _mean(weighting, density, scale, time_shift)
