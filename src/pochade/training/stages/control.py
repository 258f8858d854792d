"""Training a control input of a denoiser that is otherwise kept as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pochade.data.cache.controls import cache_controls
from pochade.data.cache.latents import CachedLatents, LatentEncoders
from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.images.controls import KINDS, control_image
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import ImageData
from pochade.training.stage import Stage
from pochade.training.stages.adapter import (
    AdapterKind,
    AdapterSettings,
    AdapterTask,
    AdapterWork,
    shown_items,
    words_of,
)
from pochade.training.stages.kind import Inputs, Work
from pochade.training.stages.models import Shown


@dataclass(frozen=True)
class ControlSettings(AdapterSettings):
    """Which model is given a control, and how it is trained. Raises PochadeError for a value outside its range."""

    stage_kind = "control"

    model: str | None = None
    """Name of a trained model or the folder of one; it must be named."""
    kind: Literal["edges", "depth", "pose"] = "edges"
    """What the control shows: edges, of any pictures; or depth or the pose of a person, of pictures that come with it:
    layered drawings, and figures."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t): outlines are decided at high noise."""
    weighting: Weighting = "constant"
    cfg_dropout: float = 0.5
    """Probability that a sample loses its text or class: the words of a picture that the model has memorised determine
    it, and leave nothing to learn from its control,"""
    input_dropout: float = 0.1
    """and, independently, that it loses its control, so that the model still works without one."""


class ControlTask(AdapterTask):
    """Of {..., "control" [B, C, H, W]}, by ``ControlSettings``; only the denoiser's ``control`` learns."""

    part = "control"


ControlStage = Stage[ControlSettings, ImageData]


class ControlKind(AdapterKind[ControlSettings]):
    """Adding a control input, which follows a picture of the settings' kind."""

    method = "with_control"

    def with_input(self, stage: ControlStage, pipeline: TextToImagePipeline) -> bool:
        kind, known = stage.task.kind, pipeline.denoiser.input_spec().control
        if known:
            if known != kind:
                raise PochadeError(f"task.kind: {kind} given, but {stage.task.model!r} follows {known} already")
            return False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)
            pipeline.register_modules(denoiser=pipeline.denoiser.with_control(kind))
        return True

    def work(
        self,
        stage: ControlStage,
        pipeline: TextToImagePipeline,
        is_new: bool,
        dataset: Dataset,
        latents: CachedLatents,
        encoders: LatentEncoders,
        inputs: Inputs,
    ) -> Work:
        kind, size = stage.task.kind, stage.data.size
        samples = cache_controls(dataset, size, kind, encoders, latents, inputs.cache, progress=inputs.progress)
        shown = shown_items(dataset)
        controls = _controls(dataset, shown, size, kind)
        return AdapterWork(
            stage=stage,
            task=ControlTask(pipeline.denoiser, stage.task),
            samples=samples,
            data={"data.source": dataset},
            start=hub.resolve(str(stage.task.model)),
            autoencoder=hub.resolve(str(stage.task.model)),
            pipeline=pipeline,
            shown=[Shown(words_of(dataset, i)) for i in shown],
            inputs=[control_image(one) for one in controls],
            arguments={"control": torch.stack(controls)},
            caption=kind,
        )

    def check_data(self, stage: ControlStage, dataset: Dataset) -> None:
        _controls(dataset, shown_items(dataset), stage.data.size, stage.task.kind)


def _controls(dataset: Dataset, indices: Sequence[int], size: int, kind: str) -> list[Tensor]:
    """Of some pictures. Raises PochadeError where they have none."""
    return [KINDS[kind].tensor(dataset.control(i, size, kind)) for i in indices]
