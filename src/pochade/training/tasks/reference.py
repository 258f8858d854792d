"""Training what follows a reference picture in a denoiser that is otherwise kept as it is."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from pochade.errors import PochadeError
from pochade.flow.noise import rows_uniform
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.training.task import Batch
from pochade.training.tasks.flow import FlowSettings, FlowTask
from pochade.types import Conditioning


@dataclass(frozen=True)
class ReferenceSettings:
    """Which model is given a reference, and how it is trained. Raises PochadeError for a value outside its range."""

    model: str | None = None
    """Name of a trained model or the folder of one; it must be named."""
    encoder: str | None = None
    """Identity of what gives the features of a reference (``pochade.features.style.KNOWN``); None: "lite0", or the one
    that the model has."""
    views: int = 4
    """Features are cached of so many views of each picture: itself, and random crops."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t): colours are decided at high noise."""
    weighting: Weighting = "constant"
    drop: float = 0.5
    """Share of the rows that lose their text or class: of a picture that the model knows by heart the words alone tell
    all, and there is nothing left to learn from its reference,"""
    drop_reference: float = 0.1
    """and, apart from it, of those that lose their reference, so that the model goes on painting without one."""

    def __post_init__(self) -> None:
        if self.views < 1:
            raise PochadeError(f"views: {self.views} given, allowed is 1 and more")
        for name in ("drop", "drop_reference"):
            if not 0 <= getattr(self, name) <= 1:
                raise PochadeError(f"{name}: {getattr(self, name)} given, allowed is 0 to 1")


class ReferenceTask(FlowTask):
    """``FlowTask`` on {..., "reference" [B, R, D_ref]}, of which only the denoiser's ``reference`` learns.

    Args:
        denoiser: with a ``reference``; everything else in it is frozen.
        settings: density, weighting, shares that are dropped.
    """

    def __init__(self, denoiser: Any, settings: ReferenceSettings) -> None:
        own = ("density", "density_scale", "time_shift", "weighting", "drop")
        super().__init__(denoiser, FlowSettings(**{name: getattr(settings, name) for name in own}))
        denoiser.requires_grad_(False)
        denoiser.reference.requires_grad_(True)
        self.drop_reference = settings.drop_reference

    def conditioning(self, batch: Batch) -> Conditioning:
        # The generators of the rows' noise and times are left as they are: these have seeds of their own.
        generators = [torch.Generator().manual_seed(int(seed) ^ 1) for seed in batch["seed"]]
        told = replace(super().conditioning(batch), reference=batch["reference"])
        dropped = rows_uniform(generators, 1)[:, 0] < self.drop_reference
        return told.drop("reference", rows=dropped.to(batch["reference"].device))
