"""Inputs for the scans, and how far a result may be from the reference."""

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
FORMS = ("torch", "numba")


def selective(
    structure: str,
    tokens: int,
    *,
    batch: int = 2,
    width: int = 12,
    states: int = 5,
    groups: int | None = None,
    heads: int = 4,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> list[Tensor]:
    """x, dt, A, B, C, D and a first state; ``structure`` is "diagonal" or "scalar"."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64).to(dtype)

    parts = (states,) if groups is None else (groups, states)
    diagonal = structure == "diagonal"
    return [
        normal(batch, tokens, width),
        uniform(batch, tokens, width if diagonal else heads) * 0.5,
        -8 * uniform(*((width, states) if diagonal else (heads,))),
        normal(batch, tokens, *parts),
        normal(batch, tokens, *parts),
        normal(width),
        normal(batch, width, states),
    ]


def far(result: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert result.shape == expected.shape
    if not expected.numel():
        return 0.0
    result, expected = result.detach(), expected.detach()
    scale = expected.abs().max().clamp_min(1e-30)
    return float((result.to(expected.dtype) - expected).abs().max() / scale)


def close(result: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether every value is as near as the largest value allows, and there is no NaN."""
    return far(result, expected) <= tolerance
