"""The kinds of stage that recipes are made of, with the settings that suit a laptop."""

from dataclasses import dataclass
from typing import Any

from pochade.training.stage import Stage
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.control import ControlSettings
from pochade.training.stages.decoder import DecoderSettings
from pochade.training.stages.distillation import TeacherSettings
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.flow import FlowSettings
from pochade.training.stages.image_prompt import ReferenceSettings


@dataclass(frozen=True)
class ImageData:
    """Pictures to train on."""

    source: str = "openmoji"
    """"openmoji", "openmoji:groups" (its groups as classes), "cifar10:PATH" (archive or folder), or a folder of
    pictures with captions or classes or of shards; "classes:FOLDER" where it has both and classes are wanted; several
    of them joined by +, as captioned pictures, where one named twice is seen twice as often."""
    size: int = 64
    """Rows and columns in pixels."""
    held_out: bool = True
    """Keep a tenth of the concepts (of the captions, in a folder) out of training, for evaluation."""
    best: float = 1.0
    """Share of the pictures, those that score highest in contrast and colourfulness (``pochade.data.scores``)."""


@dataclass(frozen=True)
class PairData:
    """Pairs of pictures to learn editing from, and pictures without a source."""

    pairs: str = "openmoji"
    """"openmoji", of whose drawings pairs are made; "pictures", where those of ``source`` lose parts and detail (no
    instructions come of that); or a folder or shards of pairs, as ``pochade data pairs`` writes them."""
    source: str = "openmoji"
    """Where the pictures without a source come from, as in ``ImageData.source``."""
    kinds: tuple[str, ...] = ()
    """Of OpenMoji's pairs (``pochade.data.sources.pairs.openmoji.KINDS``) those that are made, by commas, each with
    its weight, as in recolour=2,mirror, or without for 1; none: all kinds of the tasks that are learned."""
    draws: int = 8
    """How often each pair is drawn into the cache: other kinds, masks and words of the same drawing."""
    size: int | None = None
    """Rows and columns in pixels; None: those that the model paints."""
    held_out: bool = True
    """Keep a tenth out of training, of the pairs and of the pictures."""


def autoencoder_stage(data: ImageData, **changes: Any) -> Stage:
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


def decoder_stage(data: ImageData, task: DecoderSettings, **changes: Any) -> Stage:
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


def flow_stage(data: ImageData, task: FlowSettings, **changes: Any) -> Stage:
    """A denoiser on cached latents."""
    settings: dict[str, Any] = {
        "name": "flow",
        "task": task,
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
    return Stage(**{**settings, **changes})


def student_stage(data: ImageData, task: TeacherSettings, **changes: Any) -> Stage:
    """A denoiser taught by another on cached latents and velocities; otherwise as ``flow_stage``."""
    return flow_stage(data, task, **{"name": "student", **changes})


def consistency_stage(data: ImageData, task: ConsistencySettings, **changes: Any) -> Stage:
    """A denoiser that paints in a few steps, distilled from one that takes many, on cached latents."""
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


def control_stage(data: ImageData, task: ControlSettings | ReferenceSettings, **changes: Any) -> Stage:
    """A control input of a trained model, which itself is kept as it is, on cached latents and edges."""
    settings: dict[str, Any] = {
        "name": "control",
        "task": task,
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
    return Stage(**{**settings, **changes})


def reference_stage(data: ImageData, task: ReferenceSettings, **changes: Any) -> Stage:
    """A reference input of a trained model, otherwise as ``control_stage``, on cached latents and features."""
    return control_stage(data, task, **{"name": "reference", **changes})


def edit_stage(data: PairData, task: EditSettings, **changes: Any) -> Stage:
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
