"""The stages that add an input to a trained model, for a control or a reference, and train it alone."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from pochade.data.cache.image_prompts import CachedImagePrompts
from pochade.data.cache.latents import CachedLatents
from pochade.denoisers.iris import IRISDenoiser
from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.errors import FailureError, PochadeError
from pochade.features import style
from pochade.images.edges import edges, edges_image, load_canny
from pochade.images.sheets import sheet
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes.autoencoders import check_size
from pochade.recipes.caches import cache_edges, cache_latents, cache_references
from pochade.recipes.results import Result, main_first, passed_over, say
from pochade.recipes.sources import Pictures, as_pictures, open_images
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.loop import train as train_stage
from pochade.training.stage import Stage
from pochade.training.stages.control import ControlTask
from pochade.training.stages.image_prompt import ReferenceSettings, ReferenceTask

SHOWN = 12
STEPS = 20
"""Of the sampling for the sheets, at most."""


def controlled(stage: Stage) -> TextToImagePipeline:
    """The model that a stage names (``ControlSettings``), with a control input: its own, or a new one.

    Raises:
        PochadeError: none is named, there is none, or it can have no such input.
    """
    _check_start(stage, "IRIS")
    load_canny()
    pipeline = _start(stage, IRISDenoiser)
    denoiser: Any = pipeline.denoiser
    if denoiser.control is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)
            fresh = denoiser.with_control()
        pipeline.register_modules(denoiser=fresh)
    return pipeline


def referenced(stage: Stage) -> tuple[TextToImagePipeline, bool]:
    """The model that a stage names (``ReferenceSettings``), with a reference, and whether that is a new one.

    Raises:
        PochadeError: none is named, there is none, it can have no such input, or it has one for other features.
    """
    settings: ReferenceSettings = stage.task
    _check_start(stage, "MicroForge")
    pipeline = _start(stage, MicroForgeDenoiser)
    denoiser: Any = pipeline.denoiser
    if denoiser.image_prompt is not None:
        known = denoiser.config.image_prompt_encoder
        if settings.encoder not in (None, known):
            raise PochadeError(
                f"task.encoder: {settings.encoder!r} given, but {settings.model!r} has a reference of {known!r}"
            )
        return pipeline, False
    encoder = style.load(settings.encoder or "lite0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        fresh = denoiser.with_image_prompt(encoder.dim, encoder.identity)
    pipeline.register_modules(denoiser=fresh)
    return pipeline, True


def _check_start(stage: Stage, family: str) -> None:
    if stage.task.model is None:
        raise PochadeError(f"task.model: none given, allowed is the name or the folder of a trained {family} model")
    if stage.initialise_from is not None:
        raise PochadeError(
            f"initialise_from: {stage.initialise_from!r} given, but the start is task.model: allowed is none"
        )


def _start(stage: Stage, kind: type[Any]) -> TextToImagePipeline:
    """The model that a stage names, for the size of its pictures. Raises PochadeError where its denoiser is another."""
    name = stage.task.model
    pipeline = TextToImagePipeline.from_pretrained(name)
    if not isinstance(pipeline.denoiser, kind):
        found = type(pipeline.denoiser).__name__
        wanted = f"{'an' if kind is IRISDenoiser else 'a'} {kind.__name__}"
        raise PochadeError(f"task.model: {name!r} holds a {found}, allowed is a model with {wanted}")
    check_size(stage.data.size, pipeline.size_multiple)
    pipeline.register_to_config(default_size=stage.data.size)
    return pipeline


def run_control(stage: Stage, folder: Path, resume: bool, out: Path) -> Result:
    """Train the control input of a model (``ControlSettings``) on edges into ``folder``, caching below ``out``."""
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return passed_over(stage, result)
    pipeline = controlled(stage)
    dataset = open_images(stage.data)
    with main_first():
        latents = _latents(stage, pipeline, dataset, out)
        data = cache_edges(stage.data.size, out, pipeline.autoencoder, latents, dataset)
    task = ControlTask(pipeline.denoiser, stage.task)
    pictures = partial(_paint_pairs, stage.name, pipeline, latents, as_pictures(dataset))
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with main_first() as main:
        if main:
            pipeline.save_pretrained(result.model, dtype=torch.float16)
    return result


def run_reference(stage: Stage, folder: Path, resume: bool, out: Path) -> Result:
    """Train the reference input of a model (``ReferenceSettings``) into ``folder``, caching below ``out``."""
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return passed_over(stage, result)
    pipeline, is_new = referenced(stage)
    dataset = open_images(stage.data)
    encoder = style.load(pipeline.denoiser.config.image_prompt_encoder)
    with main_first():
        latents = _latents(stage, pipeline, dataset, out)
        data = cache_references(stage.data.size, out, latents, encoder, dataset, stage.task.views)
    if is_new:
        pipeline.denoiser.image_prompt.standardise(*data.statistics())
    task = ReferenceTask(pipeline.denoiser, stage.task)
    pictures = partial(_paint_styles, stage.name, pipeline, latents, data, dataset)
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with main_first() as main:
        if main:
            pipeline.save_pretrained(result.model, dtype=torch.float16)
    return result


def _latents(stage: Stage, pipeline: TextToImagePipeline, dataset: Any, out: Path) -> CachedLatents:
    """Latents of the data as the model sees them, with what it is told of them."""
    encoder: Any = pipeline.text_encoder
    frozen = None if isinstance(encoder, ClassLabelEncoder) else encoder
    name = None if frozen is None else frozen.identity
    return cache_latents(stage.data.size, out, pipeline.autoencoder, frozen, name, dataset)


def _prompts(pipeline: TextToImagePipeline, latents: CachedLatents, items: range) -> list[str]:
    """What each of some pictures is called."""
    pictures = torch.tensor(items)
    told: Any = latents.of_pictures(pictures, pictures, words=True)
    encoder: Any = pipeline.text_encoder
    return told["caption"] if "caption" in told else [encoder.names[label] for label in told["class_label"].tolist()]


def _paint_pairs(name: str, pipeline: TextToImagePipeline, latents: CachedLatents, pictures: Pictures) -> Any:
    """Edges of some pictures beside what is painted along them; None where the network paints nothing."""
    items = range(0, latents.pictures, -(-latents.pictures // SHOWN))
    lines = [edges(pictures.image(item)) for item in items]
    prompts = _prompts(pipeline, latents, items)
    images = _paint(name, pipeline, prompts, control=torch.stack(lines))
    if images is None:
        return None
    pairs = [picture for one, image in zip(lines, images, strict=True) for picture in (edges_image(one), image)]
    return sheet(pairs, [caption for prompt in prompts for caption in ("edges", prompt)])


def _paint_styles(
    name: str, pipeline: TextToImagePipeline, latents: CachedLatents, data: CachedImagePrompts, dataset: Any
) -> Any:
    """Some pictures, and beside each the next one's words in its style; None where the network paints nothing."""
    items = range(0, latents.pictures, -(-latents.pictures // SHOWN))
    pictures = as_pictures(dataset)
    prompts = _prompts(pipeline, latents, items)
    prompts = prompts[1:] + prompts[:1]
    images = _paint(name, pipeline, prompts, image_prompt=data.features(torch.tensor(items)))
    if images is None:
        return None
    shown = zip(items, images, strict=True)
    pairs = [picture for item, image in shown for picture in (pictures.image(item), image)]
    return sheet(pairs, [caption for prompt in prompts for caption in ("image prompt", prompt)])


def _paint(name: str, pipeline: TextToImagePipeline, prompts: list[str], **told: Any) -> Any:
    """A picture for each prompt; None where the network paints nothing."""
    pipeline.set_progress_bar_config(disable=True)
    steps = min(STEPS, pipeline.default_steps)
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    try:
        return pipeline(prompts, num_inference_steps=steps, generator=seeds, **told).images
    except FailureError as error:  # a network that paints nothing yet is no reason to stop its training
        say(f"{name}: no sample sheet: {error}")
        return None
