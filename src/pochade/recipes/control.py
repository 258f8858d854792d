"""The recipe that lets a trained model follow edges."""

from pochade.recipes.stages import ImageData, control_stage
from pochade.training.stage import Stage
from pochade.training.stages.control import ControlSettings


def edges() -> list[Stage]:
    """A trained IRIS model (set task.model) that follows edges as well; the model itself is kept as it is."""
    return [control_stage(ImageData("openmoji", 256), ControlSettings())]
