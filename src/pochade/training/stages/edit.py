"""Training a denoiser to edit, inpaint and upscale, on pairs of pictures."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pochade.data.cache.pairs import CachedPairs, PairsAndPictures, cache_pairs
from pochade.data.dataset import Dataset
from pochade.data.report import Report
from pochade.data.samples import Samples
from pochade.data.sources.pairs import SyntheticPairSource
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import PochadeError
from pochade.flow.timesteps import Density
from pochade.flow.weighting import Weighting
from pochade.images.decode import to_image
from pochade.images.sheets import sheet
from pochade.nn.keyed_random import keyed_uniform
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import PairData
from pochade.training.overrides import read_options
from pochade.training.stage import AnyStage, Settings, Stage
from pochade.training.stages import kind_of
from pochade.training.stages.components import Components
from pochade.training.stages.flow import FlowSettings, FlowTask, encoded_conditioning
from pochade.training.stages.kind import (
    SYNTHETIC_PICTURES,
    Data,
    Inputs,
    Kind,
    Work,
    check_size,
    with_synthetic_pictures,
)
from pochade.training.stages.models import (
    ModelWork,
    check_conditioning,
    check_teacher,
    cut_texts,
    encoding_on,
    text_of,
)
from pochade.training.task import Batch, Stream
from pochade.types import TASKS, Conditioning


@dataclass(frozen=True)
class EditSettings(Settings):
    """Which model learns which tasks, and how. Raises PochadeError for a value outside its range."""

    stage_kind = "edit"
    start_field = "task.model"

    model: str | None = None
    """Name of a trained model or the folder of one; None: that of the last stage before that takes many steps."""
    tasks: tuple[str, ...] = TASKS[1:]
    """What is learned, of edit, inpaint and super_resolution."""
    options: tuple[str, ...] = ()
    """Arguments of the network's ``with_source`` beside the tasks, such as source=channels, separated by commas."""
    generate: float = 0.25
    """Share of the samples, in [0, 1), that are pictures with their captions and no source, so that generation is not
    forgotten."""
    text_dropout: float = 0.05
    """Probability that a sample loses its text alone,"""
    source_dropout: float = 0.05
    """that it loses source, mask and task alone,"""
    joint_dropout: float = 0.05
    """and that it loses both: what the two scales of guidance need (2211.09800, section 3.2.1)."""
    density: Density = "logit_normal"
    density_scale: float | None = None
    """Width of the density; None: as published."""
    time_shift: float = 2.0
    """s in t' = s t / (1 + (s - 1) t): what changes is decided at high noise."""
    weighting: Weighting = "constant"
    self_conditioning_prob: float = 0.9
    """Probability that a sample is given a state, where the denoiser has one (2212.11972)."""
    scan_rate: float = 1.0
    """Learning rate of the scans' own parameters, over the stage's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or set(self.tasks) - set(TASKS[1:]):
            raise PochadeError(f"tasks: {self.tasks!r} given, allowed are one or more of {', '.join(TASKS[1:])}")
        drops = self.text_dropout, self.source_dropout, self.joint_dropout
        if sum(drops) > 1:
            raise PochadeError(
                f"text_dropout, source_dropout, joint_dropout: {', '.join(map(str, drops))} given, allowed are shares "
                "that together are 1 at most"
            )


class EditTask(FlowTask):
    """``FlowTask`` on {..., "source" [B, C, H, W], "source_mask" [B, 1, H, W], "task" [B]}; all of the network learns.

    "latents" are those of the picture after, or of any picture where a sample has no source: zeros and task -1. The
    text is the instruction, or the caption. Which samples lose text, source or both comes from each sample's own key.

    Args:
        denoiser: with the tasks of ``settings`` in its configuration.
        settings: density, weighting, probabilities.
    """

    def __init__(self, denoiser: Any, settings: EditSettings) -> None:
        own = ("density", "density_scale", "time_shift", "weighting", "self_conditioning_prob", "scan_rate")
        super().__init__(denoiser, FlowSettings(cfg_dropout=0.0, **{name: getattr(settings, name) for name in own}))
        self.dropout = settings.text_dropout, settings.source_dropout, settings.joint_dropout

    def conditioning(self, batch: Batch) -> Conditioning:
        text = encoded_conditioning(batch)
        conditioning = Conditioning(
            text.tokens,
            text.mask,
            text.pooled,
            source=batch["source"],
            source_mask=batch["source_mask"],
            task=batch["task"],
        )
        u = keyed_uniform(batch["seed"].to(batch["source"].device), 1, Stream.ADDED_DROPPED)[:, 0]
        low = 0.0
        for parts, probability in zip((("text",), ("source",), ("text", "source")), self.dropout, strict=True):
            conditioning = conditioning.drop(*parts, rows=(low <= u) & (u < low + probability))
            low += probability
        return conditioning


EditStage = Stage[EditSettings, PairData]
PAIRS = 12
"""Pairs of a sheet."""
COLUMNS = 9
"""Of a sheet: three pictures of three pairs in a row."""


@dataclass(kw_only=True)
class EditWork(ModelWork):
    """A model that learns to edit; a sheet shows pairs: before, as the network makes it, and the target."""

    pairs: CachedPairs
    report: Report | None
    """What became of the files of the pairs."""

    def notes(self) -> list[str]:
        of_pairs = [] if self.report is None else [f"{self.pairs.pairs} pairs to train on; {self.report.summary()}"]
        encoder, cut = text_of(self.pipeline), ""
        if encoder is not None and self.pairs.longest == encoder.max_tokens:  # else none was cut
            cut = cut_texts("instruction", self.pairs.named_instructions(), encoder)
        return [*of_pairs, *([cut] if cut else []), *super().notes()]

    def preview(self) -> Image.Image:
        total = self.pairs.pairs * self.pairs.draws
        shown = torch.arange(0, total, -(-total // PAIRS))
        rows = self.pairs.of_rows(shown)
        batch = {name: value for name, value in rows.items() if isinstance(value, Tensor)}
        names = ("tokens", "mask", "pooled", "source", "source_mask", "task")
        conditioning = Conditioning(**{name: batch[name] for name in names})
        after = self.generate(prompt_embeds=conditioning, output_type="pt")
        device = self.pipeline.denoiser.device
        before, target = (self.pipeline.decode_latents(batch[name].to(device)) for name in ("source", "latents"))
        images = [to_image(2 * row[i] - 1) for i in range(len(shown)) for row in (before, after, target)]
        words = zip([TASKS[int(task)] for task in batch["task"]], self.pairs.instructions(shown), strict=True)
        captions = [caption for task, instruction in words for caption in (task, instruction, "target")]
        return sheet(images, captions, columns=COLUMNS)


class EditKind(Kind[EditSettings, PairData]):
    """Teaching a model to edit, on latents of pairs, and of pictures without a source."""

    produces = "denoiser"

    def check(self, stage: EditStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        settings = stage.task
        data: dict[str, Dataset | PairDataset] = {}
        if settings.model is None and latest_base(earlier) is not None:
            size = self.size(stage, earlier)
            data["data.source"] = stage.data.images(size).open(stage=stage.name)
        else:
            pipeline = self.model(stage, settings.model, components)
            size = pipeline.default_size
            if settings.generate:
                dataset = stage.data.images(size).open(stage=stage.name)
                check_conditioning(pipeline, dataset, "task.model")
                data["data.source"] = dataset
        return data | {"data.pairs": stage.data.open_pairs(settings.tasks, size, stage=stage.name)}

    def size(self, stage: EditStage, earlier: Sequence[AnyStage]) -> int:
        """Rows and columns in pixels, of the stage itself or of the model that a stage before trains."""
        at = latest_base(earlier)
        if stage.data.size is not None or at is None:
            return stage.data.size or 0
        return kind_of(earlier[at]).size(earlier[at], earlier[:at])

    def model(self, stage: EditStage, start: str | None, components: Components) -> TextToImagePipeline:
        """The model that a stage starts from, with an input for a source and the tasks.

        Raises PochadeError where there is none, it was distilled to few steps, or it reads no sentences.
        """
        if start is None:
            raise PochadeError(
                "task.model: none given, and no stage before trains a denoiser: name a model or a folder"
            )
        pipeline = components.pipeline(start)
        check_teacher(start, pipeline, "task.model")
        denoiser: Any = pipeline.denoiser
        if pipeline.text_encoder is None or not denoiser.config.text_dim:
            raise PochadeError(f"task.model: {start!r} reads no sentences, and instructions are sentences")
        size = stage.data.size or pipeline.default_size
        check_size(size, pipeline.size_multiple)
        pipeline.register_modules(denoiser=with_source(denoiser, stage))
        pipeline.register_to_config(default_size=size)
        return pipeline

    def autoencoder(self, stage: EditStage, earlier: Sequence[AnyStage], components: Components) -> Any:
        return components.pipeline(str(stage.task.model)).autoencoder

    def build(self, stage: EditStage, inputs: Inputs) -> Work:
        start = inputs.model(stage.task.model, "denoiser")
        pipeline = self.model(stage, start, inputs.components)
        settings, size = stage.task, pipeline.default_size
        pairs = stage.data.open_pairs(settings.tasks, size, stage=stage.name)
        data: dict[str, Dataset | PairDataset] = {"data.pairs": pairs}
        with encoding_on(inputs.device, pipeline.autoencoder, pipeline.text_encoder) as encoders:
            cached = cache_pairs(pairs, stage.data.draws, encoders, inputs.cache, progress=inputs.progress)
            samples: Samples = cached
            if settings.generate:
                dataset = stage.data.images(size).open(stage=stage.name)
                latents = inputs.cache_latents(dataset, size, encoders)
                samples = PairsAndPictures(cached, latents, settings.generate)
                data["data.source"] = dataset
        return EditWork(
            stage=stage,
            task=EditTask(pipeline.denoiser, settings),
            samples=samples,
            data=data,
            start=hub.resolve(start),
            autoencoder=hub.resolve(start),
            pipeline=pipeline,
            shown=[],
            pairs=cached,
            report=pairs.report,
        )

    def synthetic(self, stage: EditStage, earlier: Sequence[AnyStage], components: Components) -> EditStage:
        stage = with_synthetic_pictures(stage)
        return replace(stage, data=replace(stage.data, pairs=SyntheticPairSource(SYNTHETIC_PICTURES), draws=1))


def latest_base(earlier: Sequence[AnyStage]) -> int | None:
    """The number of the last stage before that trains a denoiser which samples in many steps; None without one."""
    numbers = [number for number, stage in enumerate(earlier) if kind_of(stage).produces == "denoiser"]
    return numbers[-1] if numbers else None


def with_source(denoiser: Any, stage: EditStage) -> Any:
    """A copy of a network with an input for a source, and the tasks and options of a stage."""
    known = [name for name in inspect.signature(denoiser.with_source).parameters if name != "tasks"]
    options = read_options(stage.task.options, known, f"{type(denoiser).__name__}.with_source")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        return denoiser.with_source(stage.task.tasks, **options)
