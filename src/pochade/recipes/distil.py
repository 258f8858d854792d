"""The recipe that makes any model paint in a few steps."""

from pochade.recipes.stages import ImageData, consistency_stage
from pochade.training.stage import Stage
from pochade.training.stages.consistency import ConsistencySettings


def few_steps() -> list[Stage]:
    """A model of any family (set task.teacher) that paints in 1 to 4 steps, on the pictures that it was trained on."""
    return [consistency_stage(ImageData("openmoji", 64), ConsistencySettings(teacher="lrf-openmoji"))]
