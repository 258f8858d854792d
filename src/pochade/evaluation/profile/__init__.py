"""Size of a network, time of a call, and resident memory of a process.

Nothing here imports torch, so that a process that runs exported graphs alone can be measured as it is.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.evaluation.profile.figures import Measured

if TYPE_CHECKING:
    from torch import nn

MB = 1e6

COMPONENTS = ("text_encoder", "denoiser", "decoder")
"""The parts of a model, in the order in which a picture passes them."""
PICTURE = "picture"
"""Stands for all components in one process."""
IN_TURN = "picture_in_turn"
"""The same, but each component is loaded when its turn comes, and goes when it has passed."""


@dataclass(frozen=True)
class ModelSize:
    """Size of a network."""

    parameters: int
    fp32_mb: float
    """Megabytes (1e6 bytes) of the parameters in float32."""
    fp16_mb: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def model_size(module: "nn.Module") -> ModelSize:
    """Parameters of ``module``, shared ones counted once; also on the meta device, which allocates none."""
    count = sum(p.numel() for p in module.parameters())
    return ModelSize(count, 4 * count / MB, 2 * count / MB)


def _status(key: str) -> float | None:
    """A line of ``/proc/self/status`` in MB; None where there is no such file."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / MB
    return None


def resident_mb() -> float:
    """Resident memory of this process now, in MB; the peak so far where the system does not report it."""
    now = _status("VmRSS")
    return peak_resident_mb() if now is None else now


def peak_resident_mb() -> float:
    """Peak resident memory of this process in MB, since ``reset_peak`` where that works, else since its start."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere.
    return peak / MB if sys.platform == "darwin" else peak * 1024 / MB


def reset_peak() -> None:
    """Starts the count of ``peak_resident_mb`` anew; without effect where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def seconds_per_call(call: Callable[[], object], repeats: int = 5, warm_up: int = 2) -> float:
    """The fastest of ``repeats`` calls after ``warm_up`` ones, without gradients; waits for a GPU that is in use."""
    if repeats < 1:
        raise ValueError(f"repeats: {repeats} given, allowed are 1 and more")
    torch = sys.modules.get("torch")
    times: list[float] = []
    with nullcontext() if torch is None else torch.no_grad():
        for i in range(warm_up + repeats):
            _wait(torch)
            start = time.perf_counter()
            call()
            _wait(torch)
            if i >= warm_up:
                times.append(time.perf_counter() - start)
    return min(times)


def _wait(torch: Any) -> None:
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch is not None and torch.backends.mps.is_available():
        torch.mps.synchronize()


def measure(load: Callable[[], Callable[[], object]], repeats: int) -> Measured:
    """Memory and time of what ``load`` gives, for a process that does nothing else; ``repeats`` calls after one."""
    libraries = resident_mb()
    reset_peak()
    call = load()
    loading, rest = peak_resident_mb(), resident_mb()
    reset_peak()
    seconds = seconds_per_call(call, repeats, warm_up=1)
    # The kernel's counters of the moment are a little behind those of the peak.
    peak = max(peak_resident_mb(), rest)
    return {
        "libraries_mb": libraries,
        "loading_mb": max(loading, libraries),
        "rest_mb": rest,
        "peak_mb": peak,
        "seconds": seconds,
    }
