"""Training what follows a reference picture in a denoiser that is otherwise kept as it is."""

from dataclasses import dataclass

from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.training.stages.adapter import AdapterTask


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
    drop_image_prompt: float = 0.1
    """and, apart from it, of those that lose their reference, so that the model goes on painting without one."""

    def __post_init__(self) -> None:
        if self.views < 1:
            raise PochadeError(f"views: {self.views} given, allowed is 1 and more")
        for name in ("drop", "drop_image_prompt"):
            if not 0 <= getattr(self, name) <= 1:
                raise PochadeError(f"{name}: {getattr(self, name)} given, allowed is 0 to 1")


class ReferenceTask(AdapterTask):
    """Of {..., "image_prompt" [B, R, D_image]}, only ``denoiser.image_prompt`` learns."""

    part = "image_prompt"
