"""The recipe that lets a trained model follow the style of a picture."""

from pochade.recipes.stages import ImageData, reference_stage
from pochade.training.stage import Stage
from pochade.training.stages.image_prompt import ReferenceSettings


def style() -> list[Stage]:
    """A trained MicroForge model (set task.model) that follows a picture's style as well; itself it is kept as it is.

    Pictures in several styles teach it more: join data.source=openmoji with a folder, as in openmoji+FOLDER.
    """
    return [reference_stage(ImageData("openmoji", 128), ReferenceSettings())]
