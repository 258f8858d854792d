"""Training a branch of a denoiser that is otherwise kept as it is: an input for a control or an image prompt."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image

from pochade import denoisers
from pochade.data.cache.latents import CachedLatents, LatentEncoders
from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.images.sheets import sheet
from pochade.nn.keyed_random import keyed_uniform
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import ImageData, check_squares
from pochade.training.stage import AnyStage, Settings, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.stages.kind import Data, Inputs, Kind, Work, check_size, with_synthetic_pictures
from pochade.training.stages.models import (
    ModelWork,
    check_cached,
    check_conditioning,
    classes_of,
    encoding_on,
    text_of,
)
from pochade.training.task import Batch, Stream
from pochade.types import Conditioning


class AdapterSettings(Settings):
    """The common settings of stages that add an input to a trained model."""

    start_field = "task.model"

    model: str | None
    density: Density
    density_scale: float | None
    time_shift: float
    weighting: Weighting
    cfg_dropout: float
    input_dropout: float


class AdapterTask(FlowTask):
    """``FlowTask`` on {..., ``part``: what the denoiser's module of that name reads}, of which only that module learns.

    Args:
        denoiser: with such a module; everything else in it is frozen.
        settings: density, weighting, and the probabilities that a sample loses text or class, and the input.
    """

    part: ClassVar[str]

    def __init__(self, denoiser: Any, settings: AdapterSettings) -> None:
        own = ("density", "density_scale", "time_shift", "weighting", "cfg_dropout")
        super().__init__(denoiser, FlowSettings(**{name: getattr(settings, name) for name in own}))
        self.has_unused = False  # what learns is in every batch
        denoiser.requires_grad_(False)
        getattr(denoiser, self.part).requires_grad_(True)
        self.input_dropout: float = settings.input_dropout

    def conditioning(self, batch: Batch) -> Conditioning:
        conditioning = replace(super().conditioning(batch), **{self.part: batch[self.part]})
        u = keyed_uniform(batch["seed"].to(batch[self.part].device), 1, Stream.ADDED_DROPPED)[:, 0]
        return conditioning.drop(self.part, rows=u < self.input_dropout)


A = TypeVar("A", bound=AdapterSettings)
PAIRS = 12
"""Pictures of a sheet, each beside what is sampled with it as the input."""


@dataclass(kw_only=True)
class AdapterWork(ModelWork):
    """A model with an input added; a sheet shows some inputs, and beside each what is sampled with it."""

    inputs: Sequence[Image.Image]
    """The pictures that the inputs are shown as, one for each of ``shown``."""
    arguments: dict[str, Any]
    """What the pipeline takes beside the prompts."""
    caption: str

    def preview(self) -> Image.Image:
        prompts = [one.prompt for one in self.shown]
        made = self.generate(prompts, **self.arguments)
        pairs = [picture for pair in zip(self.inputs, made, strict=True) for picture in pair]
        return sheet(pairs, [text for prompt in prompts for text in (self.caption, prompt)])


class AdapterKind(Kind[A, ImageData], Generic[A]):
    """Adding an input to a named model and training it alone, on latents and what the input reads."""

    produces = "adapter"
    method: ClassVar[str]
    """Of a denoiser, what gives a copy of it with the input."""

    @abstractmethod
    def with_input(self, stage: Stage[A, ImageData], pipeline: TextToImagePipeline) -> bool:
        """Gives the model's denoiser the input where it has none yet; whether it is new. Raises PochadeError."""

    def check_data(self, stage: Stage[A, ImageData], dataset: Dataset) -> None:
        """Raises PochadeError where the data lack what the input reads."""

    @abstractmethod
    def work(
        self,
        stage: Stage[A, ImageData],
        pipeline: TextToImagePipeline,
        is_new: bool,
        dataset: Dataset,
        latents: CachedLatents,
        encoders: LatentEncoders,
        inputs: Inputs,
    ) -> Work:
        """The stage made ready, given the latents of the data."""

    def check(self, stage: Stage[A, ImageData], earlier: Sequence[AnyStage], components: Components) -> Data:
        check_squares(stage)
        check_cached(stage)
        pipeline = self.model(stage, components)
        self.with_input(stage, pipeline)
        dataset = stage.data.open(stage=stage.name)
        check_conditioning(pipeline, dataset, "task.model")
        self.check_data(stage, dataset)
        return {"data.source": dataset}

    def model(self, stage: Stage[A, ImageData], components: Components) -> TextToImagePipeline:
        """The model that a stage names, for the size of its pictures.

        Raises PochadeError where none is named, or its family can have no such input.
        """
        able = ", ".join(denoisers.families_with(self.method))
        name = stage.task.model
        if name is None:
            raise PochadeError(
                f"task.model: none given, allowed is the name or the folder of a trained model of {able}"
            )
        pipeline = components.pipeline(name)
        if not denoisers.has(pipeline.denoiser, self.method):
            found = type(pipeline.denoiser).__name__
            raise PochadeError(f"task.model: {name!r} holds a {found}, allowed are models of the families {able}")
        check_size(stage.data.size, pipeline.size_multiple)
        pipeline.register_to_config(default_size=stage.data.size)
        return pipeline

    def autoencoder(self, stage: Stage[A, ImageData], earlier: Sequence[AnyStage], components: Components) -> Any:
        return self.model(stage, components).autoencoder

    def build(self, stage: Stage[A, ImageData], inputs: Inputs) -> Work:
        pipeline = self.model(stage, inputs.components)
        is_new = self.with_input(stage, pipeline)
        dataset = stage.data.open(stage=stage.name)
        with encoding_on(inputs.device, pipeline.autoencoder, text_of(pipeline)) as encoders:
            latents = inputs.cache_latents(dataset, stage.data.size, encoders)
            return self.work(stage, pipeline, is_new, dataset, latents, encoders, inputs)

    def synthetic(
        self, stage: Stage[A, ImageData], earlier: Sequence[AnyStage], components: Components
    ) -> Stage[A, ImageData]:
        return with_synthetic_pictures(stage, classes_of(self.model(stage, components)))


def shown_items(dataset: Dataset) -> list[int]:
    """Some pictures from all over the data."""
    return list(dataset.evenly_spaced(PAIRS))


def words_of(dataset: Dataset, index: int) -> str:
    """A caption of a picture, or the name of its class."""
    item = dataset.item(index)
    return dataset.classes[item.label] if item.label is not None and dataset.classes else item.captions[0]
