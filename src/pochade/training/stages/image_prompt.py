"""Training a denoiser's cross-attention to an image prompt; its other weights stay."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pochade.data.cache.image_prompts import cache_image_prompts
from pochade.data.cache.latents import CachedLatents, LatentEncoders
from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.features import style
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
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
from pochade.values import COUNT, Ranges


@dataclass(frozen=True)
class ImagePromptSettings(AdapterSettings):
    """Which model is given an image prompt, and how. Raises PochadeError for a value outside its range."""

    stage_kind = "image_prompt"
    ranges: ClassVar[Ranges] = {**AdapterSettings.ranges, "views": COUNT}

    model: str | None = None
    """Name of a trained model or the folder of one; it must be named."""
    encoder: str | None = None
    """Identity of what gives the features of an image prompt (``pochade.features.style.KNOWN``); None: "lite0", or the
    one that the model has."""
    views: int = 4
    """Features are cached of so many views of each picture: itself, and random crops."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t): colours are decided at high noise."""
    weighting: Weighting = "constant"
    cfg_dropout: float = 0.5
    """Probability that a sample loses its text or class: the words of a picture that the model has memorised determine
    it, and leave nothing to learn from its image prompt,"""
    input_dropout: float = 0.1
    """and, independently, that it loses its image prompt, so that the model still works without one."""


class ImagePromptTask(AdapterTask):
    """Of {..., "image_prompt" [B, R, D_image]}; only the denoiser's ``image_prompt`` learns."""

    part = "image_prompt"


ImagePromptStage = Stage[ImagePromptSettings, ImageData]


class ImagePromptKind(AdapterKind[ImagePromptSettings]):
    """Adding an input for a picture whose style is followed (as in IP-Adapter, 2308.06721)."""

    method = "with_image_prompt"

    def with_input(self, stage: ImagePromptStage, pipeline: TextToImagePipeline) -> bool:
        settings, denoiser = stage.task, pipeline.denoiser
        if denoiser.image_prompt is not None:
            known = denoiser.config.image_prompt_encoder
            if settings.encoder not in (None, known):
                raise PochadeError(
                    f"task.encoder: {settings.encoder!r} given, but {settings.model!r} has an image prompt of {known!r}"
                )
            return False
        encoder = style.load(settings.encoder or "lite0")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)
            pipeline.register_modules(denoiser=denoiser.with_image_prompt(encoder.dim, encoder.identity))
        return True

    def work(
        self,
        stage: ImagePromptStage,
        pipeline: TextToImagePipeline,
        is_new: bool,
        dataset: Dataset,
        latents: CachedLatents,
        encoders: LatentEncoders,
        inputs: Inputs,
    ) -> Work:
        encoder = style.load(pipeline.denoiser.config.image_prompt_encoder)
        # A folder keeps its name when other weights are put into it.
        probe = encoder(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)).flatten().tolist()
        samples = cache_image_prompts(
            dataset,
            stage.data.size,
            latents,
            encoder,
            f"{encoder.identity} {[round(value, 3) for value in probe]}",
            stage.task.views,
            inputs.cache,
            progress=inputs.progress,
        )
        if is_new:
            pipeline.denoiser.image_prompt.standardise(*samples.statistics())
        shown = shown_items(dataset)
        words = [words_of(dataset, i) for i in shown]
        return AdapterWork(
            stage=stage,
            task=ImagePromptTask(pipeline.denoiser, stage.task),
            samples=samples,
            data={"data.source": dataset},
            start=hub.resolve(str(stage.task.model)),
            autoencoder=hub.resolve(str(stage.task.model)),
            pipeline=pipeline,
            shown=[
                Shown(text) for text in words[1:] + words[:1]
            ],  # each picture's style with the words of the next one
            inputs=[dataset.image(i, stage.data.size) for i in shown],
            arguments={"image_prompt": samples.features(torch.tensor(shown))},
            caption="image prompt",
        )
