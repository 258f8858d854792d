"""The straight path between data and noise (rectified flow, 2209.03003 eq. 1; flow matching, 2210.02747).

    z_t = (1 - t) z_0 + t eps,    v = d z_t / d t = eps - z_0

t = 0 is data, t = 1 is noise. ``z_*``, ``eps`` and ``v`` are [B, ...], ``t`` is [B] in [0, 1].
"""

from torch import Tensor


def _rows(t: Tensor, like: Tensor) -> Tensor:
    return t.view(-1, *[1] * (like.ndim - 1))


def interpolate(z_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """z_t = (1 - t) z_0 + t eps."""
    s = _rows(t, z_0)
    return (1 - s) * z_0 + s * eps


def velocity(z_0: Tensor, eps: Tensor) -> Tensor:
    """v = eps - z_0."""
    return eps - z_0


def to_data(z_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """z_0 = z_t - t v."""
    return z_t - _rows(t, z_t) * v


def diffuse(z_s: Tensor, eps: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """A point at t >= s of a path through z_s, with new noise eps: where z_s is at s, it has the distribution of z_t.

    z_t = a z_s + sqrt(t^2 - a^2 s^2) eps with a = (1 - t) / (1 - s); from s = 0 that is ``interpolate``.
    """
    s, t = _rows(s, z_s), _rows(t, z_s)
    kept = (1 - t) / (1 - s)
    return kept * z_s + (t.square() - (kept * s).square()).clamp_min(0).sqrt() * eps
