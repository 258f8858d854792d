"""Teaching a denoiser that paints to edit, to fill holes and to find detail, by pictures before and after."""

from dataclasses import dataclass
from typing import Any

from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.nn.keyed_random import keyed_uniform
from pochade.training.stages.flow import FlowSettings, FlowTask, encoded_conditioning
from pochade.training.task import Batch, Stream
from pochade.types import TASKS, Conditioning


@dataclass(frozen=True)
class EditSettings:
    """Which model learns which tasks, and how. Raises PochadeError for a value outside its range."""

    model: str | None = None
    """Name of a trained model or the folder of one; None: that of the last stage before which paints in many steps."""
    tasks: tuple[str, ...] = TASKS[1:]
    """What is learned, of edit, inpaint and super_resolution."""
    options: tuple[str, ...] = ()
    """Arguments of the network's ``with_source`` beside the tasks, such as source=channels, separated by commas."""
    generate: float = 0.25
    """Share of the rows, in [0, 1), that are pictures with their captions and no source, so that painting is not
    forgotten."""
    drop_text: float = 0.05
    """Share of the rows that lose their words alone,"""
    drop_source: float = 0.05
    """of those that lose source, mask and task alone,"""
    drop_both: float = 0.05
    """and of those that lose both: what the two scales of guidance need (2211.09800, section 3.2.1)."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t): what changes is decided at high noise."""
    weighting: Weighting = "constant"
    carry: float = 0.9
    """Share of the rows that are given a state, where the denoiser carries one from step to step."""
    scan_rate: float = 1.0
    """Learning rate of what is the scans' own, as a share of the stage's."""

    def __post_init__(self) -> None:
        if not self.tasks or set(self.tasks) - set(TASKS[1:]):
            raise PochadeError(f"tasks: {self.tasks!r} given, allowed are one or more of {', '.join(TASKS[1:])}")
        if not 0 <= self.generate < 1:
            raise PochadeError(f"generate: {self.generate} given, allowed is 0 to below 1")
        drops = self.drop_text, self.drop_source, self.drop_both
        if min(drops) < 0 or sum(drops) > 1:
            raise PochadeError(
                f"drop_text, drop_source, drop_both: {', '.join(map(str, drops))} given, allowed are shares that "
                "together are 1 at most"
            )


class EditTask(FlowTask):
    """``FlowTask`` on {..., "source" [B, C, H, W], "source_mask" [B, 1, H, W], "task" [B]}; all of the network learns.

    "latents" are those of the picture after, or of any picture where a row has no source: zeros and task -1. The words
    are the instruction, or the caption. Which samples lose words, source or both comes from each sample's own key.

    Args:
        denoiser: with the tasks of ``settings`` in its configuration.
        settings: density, weighting, shares that are dropped.
    """

    has_unused = True  # in a batch without a source, or without a marked region

    def __init__(self, denoiser: Any, settings: EditSettings) -> None:
        own = ("density", "density_scale", "time_shift", "weighting", "carry", "scan_rate")
        super().__init__(denoiser, FlowSettings(drop=0.0, **{name: getattr(settings, name) for name in own}))
        self.drops = settings.drop_text, settings.drop_source, settings.drop_both

    def conditioning(self, batch: Batch) -> Conditioning:
        words = encoded_conditioning(batch)
        told = Conditioning(
            words.tokens,
            words.mask,
            words.pooled,
            source=batch["source"],
            source_mask=batch["source_mask"],
            task=batch["task"],
        )
        chance = keyed_uniform(batch["seed"].to(batch["source"].device), 1, Stream.ADDED_DROPPED)[:, 0]
        text, source, both = self.drops
        for parts, low, share in (
            (("text",), 0, text),
            (("source",), text, source),
            (("text", "source"), text + source, both),
        ):
            told = told.drop(*parts, rows=(low <= chance) & (chance < low + share))
        return told
