"""Consistency distillation on the straight path (2303.01469): one call of the network from anywhere to the data.

    f(z_t, t) = z_t - t v(z_t, t)

is the point at t = 0 of the path through z_t, where v is the average velocity from 0 to t. f(z_0, 0) = z_0 is exact
whatever v is, and no further scaling of input or output is needed. The student is trained so that f is the same
at neighbouring points of the teacher's path, on a grid that grows finer as the training goes on.

In several phases (2405.18407, section 3.2; 2403.06807) the times are cut into as many parts, and f leads to the lower
edge e of the part that holds t::

    f(z_t, t) = z_t - (t - e) v(z_t, t)

As many Euler steps from edge to edge sample it, without new noise in between.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.flow.path import to_data
from pochade.flow.timesteps import shift
from pochade.types import Conditioning, Denoiser, DenoiserOutput

Distance = Literal["pseudo_huber", "l2"]

HUBER = 0.00054
"""c of the pseudo-Huber distance, for a root mean square over all elements (2310.14189, section 3.3)."""


def predict_edge(
    denoiser: Denoiser,
    latents: Tensor,
    t: Tensor,
    edge: Tensor,
    conditioning: Conditioning,
    *,
    state: Tensor | None = None,
) -> tuple[Tensor, DenoiserOutput]:
    """f(z_t, t) = z_t - (t - e) v(z_t, t) [B, C, H, W] for edges e [B], and the denoiser's whole answer."""
    out = denoiser(latents, t, conditioning, state=state)
    return euler_step(latents, out.velocity, t, edge), out


def intervals_at(progress: float, first: int, last: int) -> int:
    """The intervals of the grid when the part ``progress`` of the training is done (2310.14189, section 3.4).

    They double from ``first`` to ``last``, each number used for equally many steps.

    Raises:
        PochadeError: ``first`` is below 1, or ``last`` below ``first``.
    """
    if not 1 <= first <= last:
        raise PochadeError(f"intervals: {first} to {last} given, allowed are whole numbers from 1 on, rising")
    doublings = math.ceil(math.log2(last / first))
    return min(last, first * 2 ** math.floor(min(progress, 1.0) * (doublings + 1)))


def grid(intervals: int, time_shift: float = 1.0) -> Tensor:
    """Times 0 = t_0 < ... < t_N = 1 [N + 1], float64: even ones, moved towards 1 by ``flow.timesteps.shift``."""
    times = shift(torch.arange(intervals + 1, dtype=torch.float64) / intervals, time_shift)
    times[-1] = 1.0
    return times


def neighbours(u: Tensor, times: Tensor, phases: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """A point t of the grid, the next lower one s, and the edge e <= s of their phase, for ``u`` [B] in [0, 1).

    Each of the ``phases`` has equally many intervals; returns (t, s, e), [B] each.
    """
    intervals = len(times) - 1
    lower = (u * intervals).floor().long().clamp(0, intervals - 1)
    each = intervals // phases
    times = times.to(u)
    return times[lower + 1], times[lower], times[lower // each * each]


def euler_step(latents: Tensor, velocity: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """z_s = z_t - (t - s) v, from t [B] to s [B]."""
    return to_data(latents, velocity, t - s)


def distance(a: Tensor, b: Tensor, kind: Distance = "pseudo_huber") -> Tensor:
    """How far apart rows are, [B]: the mean square m of the difference, or sqrt(m + c^2) - c (2310.14189, section 3.3).

    The pseudo-Huber distance is smooth at zero and grows like a norm, so that single rows far off do not rule the step.
    """
    mean_square = (a - b).square().flatten(1).mean(1)
    return mean_square if kind == "l2" else (mean_square + HUBER**2).sqrt() - HUBER


def step_weight(t: Tensor, s: Tensor, intervals: int) -> Tensor:
    """1 / (t - s), times the mean interval 1 / N (2310.14189, section 3.1): 1 [B] on an even grid.

    Without the factor 1 / N the loss would grow with the grid.
    """
    return 1 / (intervals * (t - s))
