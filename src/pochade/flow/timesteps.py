"""Which times training draws: densities over t in (0, 1), each as a map from uniform numbers.

A density is given by its quantile function, so one uniform number per row fixes t: the draw is the same whatever
the batch, and the curriculum and the tests work on the same function.
"""

from typing import Literal, cast

import torch
from torch import Tensor

Density = Literal["uniform", "logit_normal", "laplace"]

LAPLACE_SCALE = 1.41
"""Scale b of the Laplace density of the log signal-to-noise ratio: about as wide as logit-normal(0, 1)."""

_EDGE = 1e-5


def quantile(u: Tensor, density: Density, *, scale: float | None = None) -> Tensor:
    """t for uniform numbers ``u`` in [0, 1).

    - uniform: t = u.
    - logit_normal: logit t ~ Normal(0, scale), scale 1 by default (2403.03206 eq. 19).
    - laplace: lambda = 2 log((1 - t) / t) ~ Laplace(0, scale), scale 1.41 by default (2407.03297);
      scale 0.5 puts 90 % of t in [0.36, 0.64].

    Returns t of the shape of ``u``, inside [1e-5, 1 - 1e-5].
    """
    u = u.clamp(_EDGE, 1 - _EDGE)
    if density == "uniform":
        return u
    if density == "logit_normal":
        normal = cast(Tensor, torch.special.ndtri(u))  # pyright: ignore[reportUnknownMemberType]
        return torch.sigmoid(normal * (1.0 if scale is None else scale)).clamp(_EDGE, 1 - _EDGE)
    b = LAPLACE_SCALE if scale is None else scale
    lam = b * torch.sign(u - 0.5) * torch.log1p(-2 * (u - 0.5).abs())  # falls as t rises
    return torch.sigmoid(-lam / 2).clamp(_EDGE, 1 - _EDGE)


def shift(t: Tensor, factor: float) -> Tensor:
    """t' = s t / (1 + (s - 1) t): more time at high noise for s > 1, as larger pictures need (2403.03206 eq. 23)."""
    return factor * t / (1 + (factor - 1) * t)


def curriculum(t: Tensor, progress: float) -> Tensor:
    """Easy to hard: at ``progress`` 0 only the noisier half of the path is shown, at 1 all of it.

    High noise is easy (the answer is near the mean of the data); detail at low noise comes later.

    Args:
        t: [B] in [0, 1].
        progress: in [0, 1].

    Raises:
        ValueError: ``progress`` lies outside.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: {progress} given, allowed is [0, 1]")
    low = 0.5 * (1 - progress)
    return low + (1 - low) * t
