"""The recipe that trains a denoiser of any family from the start."""

from pochade.recipes.lrf import TEXT_SHIFT
from pochade.recipes.stages import ImageData, flow_stage
from pochade.training.stage import Stage
from pochade.training.stages.flow import FlowSettings


def from_random_weights() -> list[Stage]:
    """A denoiser of any family (set task.family) and size on OpenMoji, with the shipped autoencoder."""
    task = FlowSettings("microforge", "nano", autoencoder="lrf-openmoji", time_shift=TEXT_SHIFT)
    return [flow_stage(ImageData("openmoji", 64), task)]
