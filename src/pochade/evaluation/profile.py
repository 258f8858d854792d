"""What a network weighs and what a step of it takes."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

MB = 1e6


@dataclass(frozen=True)
class Weight:
    """Size of a network."""

    parameters: int
    fp32_mb: float
    """Megabytes (1e6 bytes) of the parameters in float32."""
    fp16_mb: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def weigh(module: nn.Module) -> Weight:
    """Parameters of ``module``, shared ones counted once; also on the meta device, which allocates none."""
    count = sum(p.numel() for p in module.parameters())
    return Weight(count, 4 * count / MB, 2 * count / MB)


def peak_resident_mb() -> float:
    """The most memory that this process has held so far, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere.
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB


@torch.no_grad()
def seconds_per_call(call: Callable[[], object], repeats: int = 5, warm_up: int = 2) -> float:
    """The fastest of ``repeats`` calls after ``warm_up`` ones; waits for CUDA where that is in use."""
    if repeats < 1:
        raise ValueError(f"repeats: {repeats} given, allowed are 1 and more")
    times: list[float] = []
    for i in range(warm_up + repeats):
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        if i >= warm_up:
            times.append(time.perf_counter() - start)
    return min(times)


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
