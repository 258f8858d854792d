"""The recipe that trains a denoiser of any family by the answers of another."""

from pochade.recipes.lrf import TEXT_SHIFT
from pochade.recipes.stages import ImageData, student_stage
from pochade.training.stage import Stage
from pochade.training.stages.distillation import TeacherSettings


def of_a_teacher() -> list[Stage]:
    """A denoiser of any family (set task.family) that learns from a model of any family (set task.teacher)."""
    task = TeacherSettings("microforge", "nano", teacher="lrf-openmoji", time_shift=TEXT_SHIFT)
    return [student_stage(ImageData("openmoji", 64), task)]
