"""Recipes of one stage each, for a model or data of any family."""

from pochade.data.sources import OpenMojiSource
from pochade.recipes.lrf import TEXT_SHIFT
from pochade.recipes.stages import (
    autoencoder_stage,
    consistency_stage,
    control_stage,
    decoder_stage,
    distillation_stage,
    edit_stage,
    flow_stage,
    image_prompt_stage,
    lora_stage,
)
from pochade.training.data import ImageData, PairData
from pochade.training.stage import AnyStage
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.control import ControlSettings
from pochade.training.stages.decoder import DecoderSettings
from pochade.training.stages.distillation import DistillationSettings
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.edit_lora import EditLoRASettings
from pochade.training.stages.flow import FlowSettings
from pochade.training.stages.image_prompt import ImagePromptSettings
from pochade.training.stages.lora import LoRASettings
from pochade.training.stages.textual_inversion import TextualInversionSettings

OPENMOJI = OpenMojiSource()


def denoiser() -> list[AnyStage]:
    """A denoiser of any family (set task.family) and size on OpenMoji, with the shipped autoencoder."""
    task = FlowSettings("microforge", "nano", autoencoder="lrf-openmoji", time_shift=TEXT_SHIFT)
    return [flow_stage(ImageData(OPENMOJI, 64), task)]


def student() -> list[AnyStage]:
    """A denoiser of any family (set task.family) that learns from a model of any family (set task.teacher)."""
    task = DistillationSettings("microforge", "nano", teacher="lrf-openmoji", time_shift=TEXT_SHIFT)
    return [distillation_stage(ImageData(OPENMOJI, 64), task)]


def few_steps() -> list[AnyStage]:
    """A model of any family (set task.teacher) that samples in 1 to 4 steps, on the pictures it was trained on."""
    return [consistency_stage(ImageData(OPENMOJI, 64), ConsistencySettings(teacher="lrf-openmoji"))]


def control() -> list[AnyStage]:
    """A trained IRIS model (set task.model), kept as it is, that follows edges too; task.kind: depth or a pose."""
    return [control_stage(ImageData(OPENMOJI, 256), ControlSettings())]


def image_prompt() -> list[AnyStage]:
    """A trained MicroForge model (set task.model) that follows a picture's style as well; itself it is kept as it is.

    Pictures in several styles teach it more: join data.source=openmoji with a folder, as in openmoji+FOLDER.
    """
    return [image_prompt_stage(ImageData(OPENMOJI, 128), ImagePromptSettings())]


def edit() -> list[AnyStage]:
    """A trained model (set task.model) that also edits by instructions, fills holes and enlarges."""
    return [edit_stage(PairData(), EditSettings("microforge-nano"))]


def lora() -> list[AnyStage]:
    """A LoRA for a trained model of any family (set task.base) on your own pictures (set data.source)."""
    return [lora_stage(ImageData(None, 0, ratios=2.0), LoRASettings())]


def textual_inversion() -> list[AnyStage]:
    """A word (set task.token) that a trained model (set task.base) is taught by your own pictures (set data.source).

    The text encoder of the model is one that stays frozen, such as MiniLM.
    """
    data, task = ImageData(None, 0, ratios=2.0), TextualInversionSettings()
    return [lora_stage(data, task, name="textual_inversion", learning_rate=5e-3, weight_decay=0.0)]


def edit_lora() -> list[AnyStage]:
    """A LoRA for a model that edits (set task.base), on pairs of pictures (set data.pairs, else OpenMoji's)."""
    return [lora_stage(PairData(), EditLoRASettings(), name="edit_lora", steps=1000)]


def autoencoder() -> list[AnyStage]:
    """An f8 autoencoder of your own pictures (set data.source); task.kind=wavelet: f16, deep_compression: f32."""
    return [autoencoder_stage(ImageData(None, 128), steps=4000, learning_rate=1e-3, clip=1.0, sample_every=500)]


def tiny_decoder() -> list[AnyStage]:
    """A decoder of 0.24 M parameters (task.size=small: 1.2 M) for the latents of a model (set task.autoencoder)."""
    return [decoder_stage(ImageData(OPENMOJI, 64), DecoderSettings(autoencoder="lrf-openmoji"))]
