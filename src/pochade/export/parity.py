"""Does an exported graph compute what the network computes? ONNX Runtime against eager, on random inputs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pochade.errors import FailureError, missing_extra

TOLERANCE = 1e-4
"""The largest difference allowed, as a share of the largest magnitude of the output where that is above 1."""


@dataclass(frozen=True)
class Input:
    """One input of an exported graph; the batch axis is first."""

    name: str
    shape: tuple[int, ...]
    """Without the batch axis."""
    dtype: torch.dtype = torch.float32
    low: int = 0
    """The least integer that is allowed (integer inputs), the fewest of a row that are True (booleans)."""
    high: int = 2
    """One more than the greatest integer that is allowed (integer inputs)."""
    bounded: bool = False
    """Whether the values lie in [0, 1] (floating inputs)."""
    absent: float | None = None
    """What fills it where a picture is sampled without; None where there is always one."""

    def random(self, batch: int, generator: torch.Generator) -> Tensor:
        """Values [batch, *shape]: standard normal, uniform in [0, 1] where bounded, uniform integers, booleans.

        A row of booleans is True up to a random length, as a padding mask is; the first row has the fewest.
        """
        shape = (batch, *self.shape)
        if self.dtype == torch.bool:
            size = (batch, *[1] * len(self.shape))
            lengths = torch.randint(self.low, self.shape[-1] + 1, size, generator=generator)
            lengths[0] = self.low
            return (torch.arange(self.shape[-1]) < lengths).expand(shape).contiguous()
        if not self.dtype.is_floating_point:
            return torch.randint(self.low, self.high, shape, dtype=self.dtype, generator=generator)
        if self.bounded:
            return torch.rand(shape, dtype=self.dtype, generator=generator)
        return torch.randn(shape, dtype=self.dtype, generator=generator)


def random_inputs(inputs: Sequence[Input], batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Random values for every input, in order; text vectors are zero where the mask is False."""
    generator = torch.Generator().manual_seed(seed)
    values = {item.name: item.random(batch, generator) for item in inputs}
    if "tokens" in values and "mask" in values:
        values["tokens"] = values["tokens"] * values["mask"][..., None]
    return values


def session(path: str | Path) -> Any:
    """An ONNX Runtime session on the CPU. Raises PochadeError where ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise missing_extra("onnxruntime", "export") from None
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(graph: Any, values: Mapping[str, Tensor]) -> list[np.ndarray]:
    """The outputs of a session for named values."""
    return graph.run(None, {name: value.numpy() for name, value in values.items()})


Run = Callable[[Mapping[str, Tensor]], Sequence[np.ndarray]]
"""A graph in some runtime: inputs by name to outputs in order."""


def check(
    path: str | Path,
    module: nn.Module,
    inputs: Sequence[Input],
    *,
    batches: Sequence[int],
    tolerance: float = TOLERANCE,
) -> float:
    """``compare`` of the ONNX graph at ``path``."""
    graph = session(path)
    return compare(
        Path(path).name, lambda values: run(graph, values), module, inputs, batches=batches, tolerance=tolerance
    )


@torch.no_grad()
def compare(
    name: str,
    graph: Run,
    module: nn.Module,
    inputs: Sequence[Input],
    *,
    batches: Sequence[int],
    tolerance: float = TOLERANCE,
) -> float:
    """The largest difference of ``graph``, called ``name``, from ``module``, for random inputs of each batch size.

    The difference is max |a - b| / max(1, max |b|). Raises FailureError above ``tolerance``, also for NaN.
    """
    worst = 0.0
    for seed, batch in enumerate(batches):
        values = random_inputs(inputs, batch, seed)
        for got, want in zip(graph(values), _eager(module, values), strict=True):
            if got.shape != tuple(want.shape):
                raise FailureError(f"{name}: gives shape {got.shape}, eager gives {tuple(want.shape)}")
            scale = max(1.0, float(want.abs().max()))
            difference = float((torch.from_numpy(got) - want).abs().max()) / scale
            if not difference <= tolerance:
                raise FailureError(f"{name}: {difference:.2e} from eager at batch {batch}, allowed is {tolerance:.0e}")
            worst = max(worst, difference)
    return worst


@torch.no_grad()
def error(graph: Run, module: nn.Module, inputs: Sequence[Input], batch: int) -> float:
    """The root mean square of what ``graph`` gives less what ``module`` gives, over the deviation of the latter.

    Of several outputs the largest; on random inputs, masks all True.
    """
    full = [replace(item, low=item.shape[-1]) if item.dtype == torch.bool else item for item in inputs]
    values = random_inputs(full, batch)
    pairs = [(got, want.numpy()) for got, want in zip(graph(values), _eager(module, values), strict=True)]
    return max(float(np.sqrt(np.mean((a - b) ** 2)) / max(float(np.std(b)), 1e-12)) for a, b in pairs)


def milliseconds(graph: Run, inputs: Sequence[Input], batch: int, repeats: int = 3) -> float:
    """The fastest of a few calls, after one."""
    values = random_inputs(inputs, batch)
    graph(values)
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        graph(values)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def _eager(module: nn.Module, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    found = module(*values.values())
    return found if isinstance(found, tuple) else (found,)
