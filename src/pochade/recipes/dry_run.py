"""Trying a recipe without its data: a few real training steps of every stage on random tensors."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pochade import denoisers
from pochade.autoencoders.tiny_decoder import for_autoencoder
from pochade.errors import FailureError, PochadeError
from pochade.pipelines.loading import load_components
from pochade.recipes import run
from pochade.recipes.adapters import controlled, referenced
from pochade.recipes.editing import editor, sourced
from pochade.training.stage import Stage
from pochade.training.stages.autoencoder import AutoencoderSettings, AutoencoderTask, PictureTask
from pochade.training.stages.consistency import ConsistencyTask
from pochade.training.stages.control import ControlSettings, ControlTask
from pochade.training.stages.decoder import DecoderSettings, DecoderTask
from pochade.training.stages.distillation import TeacherSettings, TeacherTask
from pochade.training.stages.edit import EditSettings, EditTask
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.stages.image_prompt import ReferenceSettings, ReferenceTask
from pochade.training.task import Batch, Task
from pochade.types import TASKS

STEPS = 3
LARGEST_BATCH = 2
CLASSES = 10
WORDS = 12


@dataclass(frozen=True)
class Tried:
    """What a few steps of one stage were."""

    stage: str
    parameters: int
    """That are trained."""
    batch_size: int
    shape: tuple[int, ...]
    """Of a sample: channels, rows, columns of pictures or latents."""
    seconds_per_step: float
    """Of the fastest step."""
    losses: tuple[float, ...]
    assumed: str = ""
    """What was not at hand, and what stood in for it."""


def dry_run(stages: Sequence[Stage], steps: int = STEPS) -> Iterator[Tried]:
    """Trains each stage's network for ``steps`` steps, at its own size, on normal noise; yields as it goes.

    Nothing is read but models on the disk, and nothing is written or fetched. The batch is the stage's own, but at
    most 2. A stage begins from random weights, or from the network of the stage before where it would.

    Raises:
        PochadeError: a stage's network cannot be made.
        FailureError: a loss or a gradient is not finite.
    """
    if steps < 1:
        raise PochadeError(f"steps: {steps} given, allowed is at least 1")
    autoencoder: Any = None
    denoiser: Any = None
    shape: tuple[int, ...] = ()
    painter: tuple[Any, tuple[int, ...]] | None = None
    for stage in stages:
        torch.manual_seed(stage.seed)
        assumed = ""
        settings = stage.task
        if isinstance(settings, AutoencoderSettings):
            autoencoder = run.build_autoencoder(settings)
            task: Task = AutoencoderTask(autoencoder, settings)
            shape = (3, stage.data.size, stage.data.size)
        elif isinstance(settings, DecoderSettings):
            teacher = autoencoder if settings.autoencoder is None else run.load_autoencoder(settings.autoencoder)
            decoder = for_autoencoder(settings.size, teacher.config.latent_channels, teacher.downsampling)
            task, shape = DecoderTask(teacher, decoder, settings), (3, stage.data.size, stage.data.size)
        elif isinstance(settings, FlowSettings):
            if isinstance(settings, TeacherSettings):
                shape = _taught(stage, denoiser, shape)[1]
            else:
                shape, assumed = _latents(stage, autoencoder)
            fresh = _denoiser(settings, shape)
            if stage.initialise_from == "previous" and denoiser is not None:
                fresh.load_state_dict(denoiser.state_dict())
            denoiser = fresh
            teaches = isinstance(settings, TeacherSettings)
            task = TeacherTask(denoiser, settings) if teaches else FlowTask(denoiser, settings)
            painter = denoiser, shape
        elif isinstance(settings, ControlSettings):
            pipeline = controlled(stage)
            denoiser, side = pipeline.denoiser, stage.data.size // pipeline.autoencoder.downsampling
            task, shape = ControlTask(denoiser, settings), (int(denoiser.config.latent_channels), side, side)
        elif isinstance(settings, ReferenceSettings):
            pipeline, _ = referenced(stage)
            denoiser, side = pipeline.denoiser, stage.data.size // pipeline.autoencoder.downsampling
            task, shape = ReferenceTask(denoiser, settings), (int(denoiser.config.latent_channels), side, side)
        elif isinstance(settings, EditSettings):
            if settings.model is None and painter is not None:
                denoiser, shape = sourced(painter[0], stage), painter[1]
            else:
                pipeline = editor(stage)
                denoiser, side = pipeline.denoiser, pipeline.default_size // pipeline.autoencoder.downsampling
                shape = (int(denoiser.config.latent_channels), side, side)
            task = EditTask(denoiser, settings)
        else:
            denoiser, shape = _taught(stage, denoiser, shape)
            task = ConsistencyTask(denoiser, settings)
            denoiser = task.student
        yield _try(stage, task, shape, steps, assumed)


def _latents(stage: Stage, trained: Any) -> tuple[tuple[int, ...], str]:
    """The shape of a latent, and what was assumed where the autoencoder is not on the disk."""
    name = stage.task.autoencoder
    if name is None and trained is None:
        raise PochadeError("task.autoencoder: none given, and no stage before trains one: name a model or a folder")
    if name is None or name in run.hub.shipped() or Path(name).expanduser().exists():
        autoencoder = trained if name is None else run.load_autoencoder(name)
        channels, down, assumed = int(autoencoder.config.latent_channels), int(autoencoder.downsampling), ""
    else:
        told = re.search(r"f(\d+)c(\d+)", name)  # as the published ones are named
        with torch.device("meta"):
            own = denoisers.build(stage.task.family, stage.task.variant).config
        down, channels = (int(told[1]), int(told[2])) if told else (8, int(own.latent_channels))
        assumed = f"{name} is not at hand: latents of f{down} with {channels} channels assumed"
    return (channels, stage.data.size // down, stage.data.size // down), assumed


def _taught(stage: Stage, trained: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """The teacher's denoiser and the shape of its latents; without a name those of the stage before."""
    if stage.task.teacher is not None:
        parts = load_components(run.hub.resolve(stage.task.teacher), {"text_encoder": None})
        denoiser, side = parts["denoiser"], stage.data.size // parts["autoencoder"].downsampling
        return denoiser, (int(denoiser.config.latent_channels), side, side)
    if trained is None:
        raise PochadeError("task.teacher: none given, and no stage before trains a denoiser")
    return trained, shape


def _denoiser(settings: FlowSettings, shape: tuple[int, ...]) -> nn.Module:
    changes: dict[str, Any] = {"latent_channels": shape[0], "sample_size": shape[1]}
    if settings.text_encoder is None:
        changes |= {"num_classes": CLASSES, "text_dim": 0, "pooled_dim": 0}
    return run.build_denoiser(settings, **changes)


def _batch(task: Task, shape: tuple[int, ...], size: int, step: int) -> Batch:
    batch: Batch = {"seed": torch.arange(step * size, (step + 1) * size)}
    if isinstance(task, PictureTask):
        return {**batch, "image": torch.randn(size, *shape).clamp(-1, 1)}
    config: Any = (task.student if isinstance(task, ConsistencyTask) else task.get_submodule("parts.denoiser")).config
    batch["latents"] = torch.randn(size, *shape)
    if isinstance(task, TeacherTask):
        batch |= {"record_seed": batch["seed"], "teacher_velocity": torch.randn(size, *shape)}
    if isinstance(task, ControlTask):
        batch["control"] = torch.randn(size, *shape)
    if isinstance(task, ReferenceTask):
        batch["image_prompt"] = torch.randn(size, 1, config.image_prompt_dim)
    if isinstance(task, EditTask):
        batch |= {"source": torch.randn(size, *shape), "source_mask": (torch.rand(size, 1, *shape[1:]) < 0.3).float()}
        batch["task"] = torch.randint(1, len(TASKS), (size,))
    if config.num_classes:
        return {**batch, "class_label": torch.randint(config.num_classes, (size,))}
    words = torch.randn(size, WORDS, config.text_dim)
    return {**batch, "tokens": words, "mask": torch.ones(size, WORDS, dtype=torch.bool), "pooled": words.mean(1)}


def _try(stage: Stage, task: Task, shape: tuple[int, ...], steps: int, assumed: str) -> Tried:
    size = min(stage.batch_size, LARGEST_BATCH)
    network = task.trainable().train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = task.parameter_groups(stage.weight_decay, stage.learning_rate)
    optimizer = torch.optim.AdamW(groups, betas=stage.betas, eps=stage.epsilon)
    losses: list[float] = []
    fastest = float("inf")
    for step in range(steps):
        batch = _batch(task, shape, size, step)
        began = time.perf_counter()
        task.begin_step(step / steps)
        loss = task(batch)["loss"]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, stage.clip)
        if not bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)):
            raise FailureError(f"{stage.name}: step {step + 1}: the loss is {loss.item()}, the gradient {norm.item()}")
        for group, peak in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = peak["lr"] * stage.learning_rate_factor(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fastest = min(fastest, time.perf_counter() - began)
        losses.append(loss.item())
    count = sum(p.numel() for p in parameters)
    return Tried(stage.name, count, size, shape, fastest, tuple(losses), assumed)
