"""The recipe that teaches a trained model to edit."""

from pochade.recipes.stages import PairData, edit_stage
from pochade.training.stage import Stage
from pochade.training.stages.edit import EditSettings


def natively() -> list[Stage]:
    """A trained model (set task.model) that also edits by instructions, fills holes and enlarges."""
    return [edit_stage(PairData(), EditSettings("microforge-nano"))]
