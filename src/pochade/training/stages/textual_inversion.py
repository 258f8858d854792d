"""Learning a word for what pictures have in common: vectors that a frozen text encoder reads (2208.01618)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pochade.errors import PochadeError, naming
from pochade.pipelines import hub
from pochade.pipelines.embedding_files import ENCODER
from pochade.pipelines.lora_files import BASE, BASE_SHA256, weights_sha256
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.base import PromptEncoder
from pochade.training.data import ImageData
from pochade.training.stage import AnyStage, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.kind import Data, Inputs, Work
from pochade.training.stages.lora import BaseSettings, BesideModelKind, by_what, task_beside
from pochade.training.stages.models import (
    ModelWork,
    check_conditioning,
    held_out_of,
    latents_of,
    shown_of,
    text_of,
)
from pochade.values import COUNT, Ranges


@dataclass(frozen=True)
class TextualInversionSettings(BaseSettings):
    """Of a word that is learned. Raises PochadeError for a value outside its range."""

    stage_kind = "textual_inversion"
    ranges: ClassVar[Ranges] = {**BaseSettings.ranges, "vectors": COUNT}

    token: str = "<style>"
    """The word, a new one; it stands before every caption that does not have it."""
    initial: str = "drawing"
    """Words from whose vectors it starts."""
    vectors: int = 1
    """How many tokens it is read as."""
    cfg_dropout: float = 0.1
    """Probability that a sample loses its conditioning, for classifier-free guidance."""


TextualInversionStage = Stage[TextualInversionSettings, ImageData]


@dataclass(kw_only=True)
class TextualInversionWork(ModelWork):
    """A model that learns a word, which alone is saved."""

    settings: TextualInversionSettings

    def notes(self) -> list[str]:
        settings = self.settings
        what = f"{settings.vectors} vector{'s' * (settings.vectors > 1)} for {settings.token!r} of {settings.base}"
        return [*super().notes(), f"{what}, from {settings.initial!r}; by {by_what(self.pipeline)}"]

    def save(self, folder: Path) -> None:
        assert self.start is not None
        metadata = {
            BASE: str(self.settings.base),
            BASE_SHA256: weights_sha256(self.start),
            ENCODER: self.pipeline.text_encoder.identity,
        }
        self.pipeline.save_textual_inversion(folder, self.settings.token, metadata=metadata)


class TextualInversionKind(BesideModelKind[TextualInversionSettings]):
    """Learning a word for a named model with a frozen text encoder, on captioned pictures."""

    produces = "embedding"

    def check(self, stage: TextualInversionStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        pipeline, stage = self.model(stage, components)
        stage = with_word(stage)
        dataset = stage.data.open(stage=stage.name)
        check_conditioning(pipeline, dataset, "task.base")
        teach_word(pipeline, stage.task)
        return {"data.source": dataset}

    def build(self, stage: TextualInversionStage, inputs: Inputs) -> Work:
        settings = stage.task
        pipeline, sized = self.model(stage, inputs.components)
        sized = with_word(sized)
        dataset = sized.data.open(stage=stage.name)
        samples = latents_of(sized.data, dataset, pipeline, None, inputs)
        held_out = held_out_of(sized.data, pipeline, None, inputs)
        for network in (pipeline.denoiser, pipeline.text_encoder):
            network.requires_grad_(False)
        teach_word(pipeline, settings).learned_vectors().requires_grad_(True)
        task = task_beside(pipeline, settings, pipeline.text_encoder)
        pipeline.text_encoder.eval()  # without the dropout that it was once trained with
        return TextualInversionWork(
            stage=sized,
            task=task,
            samples=samples,
            held_out=held_out,
            data={"data.source": dataset},
            start=hub.resolve(str(settings.base)),
            autoencoder=hub.resolve(str(settings.base)),
            pipeline=pipeline,
            shown=shown_of(sized.data, dataset, pipeline),
            settings=settings,
        )


def with_word(stage: TextualInversionStage) -> TextualInversionStage:
    """The stage with its word before every caption. Raises PochadeError where another trigger is named."""
    token = stage.task.token
    if stage.data.trigger not in (None, token):
        raise PochadeError(f"data.trigger: {stage.data.trigger!r} given, but the word is task.token, {token!r}")
    return replace(stage, data=replace(stage.data, trigger=token))


def teach_word(pipeline: TextToImagePipeline, settings: TextualInversionSettings) -> PromptEncoder:
    """Has the text encoder of a model read the word as its first vectors, and returns it.

    Raises PochadeError where there is no frozen text encoder, or it knows the word.
    """
    encoder = text_of(pipeline)
    if encoder is None:
        raise PochadeError(f"task.base: {settings.base!r} given, allowed is a model that reads captions")
    with (
        naming("task.base", "text_encoder"),
        naming("task.token", "token"),
        naming("task.initial", "initial"),
        naming("task.vectors", "vectors"),
    ):
        encoder.teach({settings.token: encoder.vectors_of(settings.initial, settings.vectors)})
    return encoder
