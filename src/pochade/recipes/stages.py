"""The kinds of stage that recipes are made of, with the settings that suit a laptop."""

from typing import Any, TypeVar

from pochade.training.data import ImageData, PairData
from pochade.training.stage import DataSettings, Stage
from pochade.training.stages.autoencoder import AutoencoderSettings, AutoencoderStage
from pochade.training.stages.consistency import ConsistencySettings, ConsistencyStage
from pochade.training.stages.control import ControlSettings, ControlStage
from pochade.training.stages.decoder import DecoderSettings, DecoderStage
from pochade.training.stages.distillation import DistillationSettings, DistillationStage
from pochade.training.stages.edit import EditSettings, EditStage
from pochade.training.stages.flow import FlowSettings, FlowStage
from pochade.training.stages.image_prompt import ImagePromptSettings, ImagePromptStage
from pochade.training.stages.lora import BaseSettings

F = TypeVar("F", bound=BaseSettings)
D = TypeVar("D", bound=DataSettings)


def autoencoder_stage(data: ImageData, **changes: Any) -> AutoencoderStage:
    """The f8 autoencoder from random weights."""
    settings: dict[str, Any] = {
        "name": "autoencoder",
        "task": AutoencoderSettings(),
        "data": data,
        "steps": 16_000,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "warmup_steps": 200,
        "weight_decay": 0.0,
        "clip": 5.0,
        "ema_decay": 0.998,
        "save_every": 500,
        "sample_every": 1000,
    }
    return Stage(**{**settings, **changes})


def decoder_stage(data: ImageData, task: DecoderSettings, **changes: Any) -> DecoderStage:
    """A small decoder from random weights, distilled from an autoencoder's encoder."""
    settings: dict[str, Any] = {
        "name": "decoder",
        "task": task,
        "data": data,
        "steps": 16_000,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "warmup_steps": 200,
        "weight_decay": 0.0,
        "clip": 1.0,
        "ema_decay": 0.998,
        "save_every": 500,
        "sample_every": 1000,
    }
    return Stage(**{**settings, **changes})


def flow_stage(data: ImageData, task: FlowSettings, **changes: Any) -> FlowStage:
    """A denoiser on cached latents."""
    return Stage(**{**_flow(data), "name": "flow", "task": task, **changes})


def _flow(data: ImageData) -> dict[str, Any]:
    return {
        "data": data,
        "steps": 8000,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "warmup_steps": 300,
        "weight_decay": 0.01,
        "clip": 1.0,
        "ema_decay": 0.999,
        "save_every": 500,
        "sample_every": 1000,
    }


def distillation_stage(data: ImageData, task: DistillationSettings, **changes: Any) -> DistillationStage:
    """A denoiser distilled from another on cached latents and velocities; otherwise as ``flow_stage``."""
    return Stage(**{**_flow(data), "name": "student", "task": task, **changes})


def consistency_stage(data: ImageData, task: ConsistencySettings, **changes: Any) -> ConsistencyStage:
    """A denoiser that samples in a few steps, distilled from one that takes many, on cached latents."""
    settings: dict[str, Any] = {
        "name": "consistency",
        "task": task,
        "data": data,
        "steps": 4000,
        "batch_size": 64,
        "learning_rate": 3e-4,
        "warmup_steps": 50,
        "weight_decay": 0.0,
        "clip": 1.0,
        "ema_decay": 0.998,
        "save_every": 250,
        "sample_every": 500,
    }
    return Stage(**{**settings, **changes})


def control_stage(data: ImageData, task: ControlSettings, **changes: Any) -> ControlStage:
    """A control input of a trained model, which itself is kept as it is, on cached latents and controls."""
    return Stage(**{**_adapter(data), "name": "control", "task": task, **changes})


def image_prompt_stage(data: ImageData, task: ImagePromptSettings, **changes: Any) -> ImagePromptStage:
    """An image prompt of a trained model, otherwise as ``control_stage``, on cached latents and features."""
    return Stage(**{**_adapter(data), "name": "image_prompt", "task": task, **changes})


def _adapter(data: ImageData) -> dict[str, Any]:
    return {
        "data": data,
        "steps": 2000,
        "batch_size": 32,
        "learning_rate": 5e-4,
        "warmup_steps": 100,
        "weight_decay": 0.01,
        "clip": 1.0,
        "ema_decay": 0.998,
        "save_every": 250,
        "sample_every": 500,
    }


def edit_stage(data: PairData, task: EditSettings, **changes: Any) -> EditStage:
    """A trained denoiser that learns to edit, on cached latents of pairs."""
    settings: dict[str, Any] = {
        "name": "edit",
        "task": task,
        "data": data,
        "steps": 4000,
        "batch_size": 64,
        "learning_rate": 5e-4,
        "warmup_steps": 200,
        "weight_decay": 0.01,
        "clip": 1.0,
        "ema_decay": 0.999,
        "save_every": 500,
        "sample_every": 1000,
    }
    return Stage(**{**settings, **changes})


def lora_stage(data: D, task: F, **changes: Any) -> Stage[F, D]:
    """A LoRA of a trained model, or words for it, on cached latents."""
    settings: dict[str, Any] = {
        "name": "lora",
        "task": task,
        "data": data,
        "steps": 0,
        "batch_size": 16,
        "accumulate": 2,
        "learning_rate": 0.0,
        "warmup_steps": 50,
        "weight_decay": 0.01,
        "clip": 1.0,
        "ema_decay": 0.99,
        "save_every": 100,
        "sample_every": 250,
        "log_every": 10,
    }
    return Stage(**{**settings, **changes})
