"""The stage that teaches a trained model to edit."""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pochade import denoisers
from pochade.data.cache.pairs import CachedPairs, PairsAndPictures
from pochade.data.sources import parse_source
from pochade.data.sources.pairs import OpenMojiPairSource, parse_pairs, read_kinds
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import FailureError, PochadeError
from pochade.images.decode import to_image
from pochade.images.sheets import sheet
from pochade.pipelines import hub
from pochade.pipelines.schedulers import takes_few_steps
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes.autoencoders import check_size
from pochade.recipes.caches import cache_latents, cache_pairs
from pochade.recipes.results import Result, main_first, passed_over, say
from pochade.recipes.sources import open_images
from pochade.recipes.stages import ImageData, PairData
from pochade.training.loop import train as train_stage
from pochade.training.stage import Stage, read_options
from pochade.training.stages.edit import EditSettings, EditTask
from pochade.types import TASKS, Conditioning

SHOWN = 12
COLUMNS = 9
"""Of the sheets: three pictures of three pairs in a row."""
STEPS = 20
"""Of the sampling for the sheets, at most."""


def editor(stage: Stage, trained: Path | None = None) -> TextToImagePipeline:
    """The model that a stage names (``EditSettings``), or else ``trained``, with an input for a source and its tasks.

    Raises:
        PochadeError: there is none, it can have no such input, it was distilled to few steps, or it reads no sentences.
    """
    settings: EditSettings = stage.task
    check_start(stage)
    start = settings.model or trained
    if start is None:
        raise PochadeError("task.model: none given, and no stage before trains a denoiser: name a model or a folder")
    pipeline = TextToImagePipeline.from_pretrained(start)
    if takes_few_steps(pipeline.scheduler):
        raise PochadeError(
            f"task.model: {settings.model!r} was distilled to few steps: allowed is the model that it was made of"
        )
    denoiser: Any = pipeline.denoiser
    kind = type(denoiser).__name__
    if not hasattr(denoiser, "with_source"):
        raise PochadeError(
            f"task.model: {settings.model!r} holds a {kind}, which has no input for a picture: allowed are models of "
            f"the families {', '.join(denoisers.with_source())}"
        )
    if pipeline.text_encoder is None or not denoiser.config.text_dim:
        raise PochadeError(f"task.model: {settings.model!r} reads no sentences, and instructions are sentences")
    size = stage.data.size or pipeline.default_size
    check_size(size, pipeline.size_multiple)
    pipeline.register_modules(denoiser=sourced(denoiser, stage))
    pipeline.register_to_config(default_size=size)
    return pipeline


def check_start(stage: Stage) -> None:
    """Raises PochadeError where a stage would begin otherwise than from a model."""
    if stage.initialise_from is not None:
        raise PochadeError(
            f"initialise_from: {stage.initialise_from!r} given, but the start is task.model: allowed is none"
        )


def sourced(denoiser: Any, stage: Stage) -> Any:
    """A copy of a network with an input for a source, and the tasks and options of a stage (``EditSettings``)."""
    settings: EditSettings = stage.task
    known = [name for name in inspect.signature(denoiser.with_source).parameters if name != "tasks"]
    options = read_options(settings.options, known, f"{type(denoiser).__name__}.with_source")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        return denoiser.with_source(settings.tasks, **options)


def pairs_of(data: PairData, tasks: Sequence[str], size: int) -> PairDataset:
    """The pairs of the tasks.

    Raises:
        PochadeError: there are none, of one of the tasks there are none, or kinds are named that teach another one.
    """
    if data.pairs.startswith("SET "):
        raise PochadeError(f"data.pairs: not set; add {data.pairs.removeprefix('SET ')!r} to the command")
    pairs = parse_pairs(data.pairs)
    if data.kinds and data.pairs != "openmoji":
        raise PochadeError(f"data.kinds: {', '.join(data.kinds)} given, but only OpenMoji's pairs have any")
    if data.kinds:
        pairs = OpenMojiPairSource(tuple(read_kinds(",".join(data.kinds)).items()))
    pairs = pairs.with_pictures(parse_source(data.source)) if data.pairs == "pictures" else pairs
    return pairs.open(size, "train" if data.held_out else "all", tasks=tasks)


def pictures_of(data: PairData, size: int) -> ImageData:
    """The pictures without a source."""
    return ImageData(data.source, size, held_out=data.held_out)


def run_edit(stage: Stage, folder: Path, resume: bool, out: Path, trained: Path | None) -> Result:
    """Train a model (``EditSettings``; where it names none, ``trained``) to edit into ``folder``, caching below
    ``out``."""
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return passed_over(stage, result)
    pipeline = editor(stage, trained)
    settings, size = stage.task, pipeline.default_size
    autoencoder, encoder = pipeline.autoencoder, pipeline.text_encoder
    pairs = pairs_of(stage.data, settings.tasks, size)
    with main_first():
        cached = cache_pairs(size, out, autoencoder, encoder, pairs, stage.data.draws)
        data: Any = cached
        if settings.generate:
            pictures = open_images(pictures_of(stage.data, size))
            latents = cache_latents(size, out, autoencoder, encoder, encoder.identity, pictures)
            data = PairsAndPictures(cached, latents, settings.generate)
    task = EditTask(pipeline.denoiser, settings)
    train_stage(
        stage, task, data, folder, resume=resume, sample_sheet=partial(_paint_edits, stage.name, pipeline, cached)
    )
    with main_first() as main:
        if main:
            pipeline.save_pretrained(result.model, dtype=torch.float16)
    return result


def _paint_edits(name: str, pipeline: TextToImagePipeline, cached: CachedPairs) -> Any:
    """Some pairs, each as it was, as the network makes it, and as it should be; None where it paints nothing."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(pipeline.denoiser.device)  # the loop moves the denoiser alone
    total = cached.pairs * cached.draws
    shown = range(0, total, -(-total // SHOWN))
    rows = torch.tensor(shown)
    items: Any = cached.of_rows(rows)
    told = {part: items[part] for part in ("tokens", "mask", "pooled", "source", "source_mask", "task")}
    asked = Conditioning(**told)
    seeds = [torch.Generator().manual_seed(i) for i in range(len(rows))]
    steps = min(STEPS, pipeline.default_steps)
    try:
        after = pipeline(prompt_embeds=asked, num_inference_steps=steps, generator=seeds, output_type="pt").images
    except FailureError as error:  # a network that paints nothing yet is no reason to stop its training
        say(f"{name}: no sample sheet: {error}")
        return None
    device = pipeline.denoiser.device
    before, target = (pipeline.decode_latents(z.to(device)) for z in (told["source"], items["latents"]))
    images = [to_image(2 * many[i] - 1) for i in range(len(rows)) for many in (before, after, target)]
    tasks = [TASKS[task] for task in items["task"].tolist()]
    words = [(*both, "target") for both in zip(tasks, cached.instructions(rows), strict=True)]
    return sheet(images, [caption for row in words for caption in row], columns=COLUMNS)
