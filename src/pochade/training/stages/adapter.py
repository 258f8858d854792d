"""Training a branch of a denoiser that is otherwise kept as it is."""

from dataclasses import replace
from typing import Any, ClassVar

from pochade.nn.keyed_random import keyed_uniform
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.task import Batch, Stream
from pochade.types import Conditioning


class AdapterTask(FlowTask):
    """``FlowTask`` on {..., ``part``: what the denoiser's module of that name reads}, of which only that module learns.

    Args:
        denoiser: with such a module; everything else in it is frozen.
        settings: density, weighting, and the shares that are dropped: of the words, and ``drop_`` ``part``.
    """

    part: ClassVar[str]

    def __init__(self, denoiser: Any, settings: Any) -> None:
        own = ("density", "density_scale", "time_shift", "weighting", "drop")
        super().__init__(denoiser, FlowSettings(**{name: getattr(settings, name) for name in own}))
        denoiser.requires_grad_(False)
        getattr(denoiser, self.part).requires_grad_(True)
        self.share = float(getattr(settings, f"drop_{self.part}"))

    def conditioning(self, batch: Batch) -> Conditioning:
        told = replace(super().conditioning(batch), **{self.part: batch[self.part]})
        chance = keyed_uniform(batch["seed"].to(batch[self.part].device), 1, Stream.ADDED_DROPPED)[:, 0]
        return told.drop(self.part, rows=chance < self.share)
