"""Training a control input of a denoiser that is otherwise kept as it is."""

from dataclasses import dataclass

from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.training.stages.adapter import AdapterTask


@dataclass(frozen=True)
class ControlSettings:
    """Which model is given a control, and how it is trained. Raises PochadeError for a value outside its range."""

    model: str | None = None
    """Name of a trained model or the folder of one; it must be named."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t): outlines are decided at high noise."""
    weighting: Weighting = "constant"
    drop: float = 0.5
    """Share of the rows that lose their text or class: where the words of a picture that the model was trained on tell
    it all, there is nothing to learn from its control,"""
    drop_control: float = 0.1
    """and, apart from it, of those that lose their control, so that the model goes on painting without one."""

    def __post_init__(self) -> None:
        for name in ("drop", "drop_control"):
            if not 0 <= getattr(self, name) <= 1:
                raise PochadeError(f"{name}: {getattr(self, name)} given, allowed is 0 to 1")


class ControlTask(AdapterTask):
    """Of {..., "control" [B, C, H, W]}, by ``ControlSettings``; only the denoiser's ``control`` learns."""

    part = "control"
