"""Noise sample by sample: that of one depends on its own seed and on nothing else in the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

Seeds = Tensor | Sequence[int] | Sequence[torch.Generator]


def _generator(seed: int | torch.Generator | Tensor) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    return torch.Generator().manual_seed(int(seed))


def seeded_normal(seeds: Seeds, shape: Sequence[int]) -> Tensor:
    """Standard normal noise [B, *shape], float32 on the CPU, each sample drawn from its own generator.

    The same seed gives the same noise alone, in any batch, on any machine and for any number of processes.

    Args:
        seeds: B seeds in [0, 2^63), or B CPU generators (which advance).
        shape: the shape of one sample.
    """
    return torch.stack([torch.randn(*shape, generator=_generator(seed)) for seed in seeds])
