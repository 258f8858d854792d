"""The loss on held-out pictures, with the same noises each time: the curve that tells over-fitting."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pochade.data.samples import Samples
from pochade.training.loader import draw
from pochade.training.state import seed_all
from pochade.training.task import Batch, Task

DRAWS = 64
"""Samples that a loss is the mean of, each with a noise and a time of its own."""
SEED = 2**31 - 1
"""Of their order, noises and times, in every run."""
TIMES = 50
"""How often a run measures it, about."""
WORSE = 1.005
"""Times the lowest loss from which another one is higher."""
PATIENT = 0.1
"""Share of the steps without a lower loss after which it is said,"""
IN_TURN = 3
"""and how many losses in turn are then higher."""


class HeldOut:
    """Held-out samples as a fixed set of batches.

    Args:
        samples: at least one.
        batch_size: of the samples that are computed at once.
    """

    def __init__(self, samples: Samples, batch_size: int, device: torch.device) -> None:
        size = min(batch_size, DRAWS)
        starts = range(0, DRAWS, size)
        drawn = [draw(samples, SEED, range(start, start + size), size) for start in starts]
        self._batches: list[Batch] = [
            {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()} for batch in drawn
        ]

    @torch.no_grad()
    def loss(self, task: Task) -> float:
        """The mean of ``Task.validate``, always of the same draws; global generators are seeded."""
        seed_all(SEED)
        return float(torch.stack([task.validate(batch).float() for batch in self._batches]).mean())


class Lowest:
    """The lowest loss so far, and where it was.

    Args:
        state: what ``state`` gave, of a run that goes on.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.loss: float | None = state.get("loss")
        self.step: int = state.get("step", 0)
        self._higher: int = state.get("higher", 0)
        self._said: int | None = state.get("said")

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {"loss": self.loss, "step": self.step, "higher": self._higher, "said": self._said}

    def see(self, step: int, loss: float) -> bool:
        """Takes in the loss after a step; whether it is the lowest."""
        self._higher = 0 if self.loss is None or loss < WORSE * self.loss else self._higher + 1
        if self.loss is not None and loss >= self.loss:
            return False
        self.loss, self.step = loss, step
        return True

    def warn(self, step: int, loss: float, steps: int) -> str | None:
        """What to say of a loss that has been higher for a while, once for each lowest one; else None."""
        since = step - self.step
        if self.loss is None or self._said == self.step or since < PATIENT * steps or self._higher < IN_TURN:
            return None
        self._said = self.step
        return (
            f"warning: the held-out loss has risen for {since} steps, from {self.loss:.4g} to {loss:.4g}: what follows "
            "is likely memorised; more pictures, fewer steps or a lower learning rate help"
        )

    def conclude(self, step: int, best: Path) -> str | None:
        """What to say after the last step, where ``best`` is the folder of the model at the lowest loss."""
        if self.loss is None or self.step == step or not best.exists():
            return None
        return f"the held-out loss was lowest, {self.loss:.4g}, at step {self.step}: {best} is the model of that step"


def is_due(step: int, steps: int, log_every: int) -> bool:
    """Whether the loss is measured after a step: at about ``TIMES`` lines of the log, and at the end."""
    if step == steps:
        return True
    lines = max(1, round(steps / TIMES / log_every))
    return step % (log_every * lines) == 0
