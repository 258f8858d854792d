"""Training a control input of a denoiser that is otherwise kept as it is."""

from dataclasses import dataclass

import torch

from pochade.data.cache.edges import cache_edges
from pochade.data.cache.latents import CachedLatents, LatentEncoders
from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.images.edges import edges, edges_image, load_canny
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

    def __post_init__(self) -> None:
        for name in ("cfg_dropout", "input_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise PochadeError(f"{name}: {getattr(self, name)} given, allowed is 0 to 1")


class ControlTask(AdapterTask):
    """Of {..., "control" [B, C, H, W]}, by ``ControlSettings``; only the denoiser's ``control`` learns."""

    part = "control"


ControlStage = Stage[ControlSettings, ImageData]


class ControlKind(AdapterKind[ControlSettings]):
    """Adding a control input, which follows edges."""

    method = "with_control"

    def with_input(self, stage: ControlStage, pipeline: TextToImagePipeline) -> bool:
        load_canny()
        if pipeline.denoiser.control is not None:
            return False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)
            pipeline.register_modules(denoiser=pipeline.denoiser.with_control())
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
        samples = cache_edges(dataset, stage.data.size, encoders, latents, inputs.cache, progress=inputs.progress)
        shown = shown_items(dataset)
        lines = [edges(dataset.image(i, stage.data.size)) for i in shown]
        return AdapterWork(
            stage=stage,
            task=ControlTask(pipeline.denoiser, stage.task),
            samples=samples,
            data={"data.source": dataset},
            start=hub.resolve(str(stage.task.model)),
            autoencoder=hub.resolve(str(stage.task.model)),
            pipeline=pipeline,
            shown=[Shown(words_of(dataset, i)) for i in shown],
            inputs=[edges_image(one) for one in lines],
            arguments={"control": torch.stack(lines)},
            caption="edges",
        )
