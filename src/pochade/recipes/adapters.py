"""The stage that adds a control input to a trained model and trains it alone."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pochade.data.edges import edges, edges_image, load_canny
from pochade.data.images import sheet
from pochade.data.latents import CachedLatents, Pictures
from pochade.denoisers.iris import IRISDenoiser
from pochade.errors import FailureError, PochadeError
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes.autoencoders import check_size
from pochade.recipes.caches import cache_edges, cache_latents
from pochade.recipes.results import Result, main_first, passed_over, say
from pochade.recipes.sources import as_pictures, open_images
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.loop import train as train_stage
from pochade.training.stage import Stage
from pochade.training.tasks.control import ControlSettings, ControlTask

SHOWN = 12
STEPS = 20
"""Of the sampling for the sheets, at most."""


def controlled(stage: Stage) -> TextToImagePipeline:
    """The model that a stage names (``ControlSettings``), with a control input: its own, or a new one.

    Raises:
        PochadeError: none is named, there is none, or it can have no such input.
    """
    settings: ControlSettings = stage.task
    if settings.model is None:
        raise PochadeError("task.model: none given, allowed is the name or the folder of a trained IRIS model")
    load_canny()
    if stage.initialise_from is not None:
        raise PochadeError(
            f"initialise_from: {stage.initialise_from!r} given, but the start is task.model: allowed is none"
        )
    pipeline = TextToImagePipeline.from_pretrained(settings.model)
    denoiser: Any = pipeline.denoiser
    if not isinstance(denoiser, IRISDenoiser):
        kind = type(denoiser).__name__
        raise PochadeError(f"task.model: {settings.model!r} holds a {kind}, allowed is a model with an IRISDenoiser")
    check_size(stage.data.size, pipeline.size_multiple)
    if denoiser.control is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)
            fresh = denoiser.with_control()
        pipeline.register_modules(denoiser=fresh)
    pipeline.register_to_config(default_size=stage.data.size)
    return pipeline


def run_control(stage: Stage, folder: Path, resume: bool, out: Path) -> Result:
    """Train the control input of a model (``ControlSettings``) on edges into ``folder``, caching below ``out``."""
    result = Result(folder / "model", folder / "final" / "model.safetensors")
    if resume and (result.model / hub.INDEX).is_file():
        return passed_over(stage, result)
    pipeline = controlled(stage)
    dataset = open_images(stage.data)
    encoder: Any = pipeline.text_encoder
    frozen = None if isinstance(encoder, ClassLabelEncoder) else encoder
    with main_first():
        name = None if frozen is None else frozen.identity
        latents = cache_latents(stage.data.size, out, pipeline.autoencoder, frozen, name, dataset)
        data = cache_edges(stage.data.size, out, pipeline.autoencoder, latents, dataset)
    task = ControlTask(pipeline.denoiser, stage.task)
    pictures = partial(_paint_pairs, stage.name, pipeline, latents, as_pictures(dataset))
    train_stage(stage, task, data, folder, resume=resume, sample_sheet=pictures)
    with main_first() as main:
        if main:
            pipeline.save_pretrained(result.model, dtype=torch.float16)
    return result


def _paint_pairs(name: str, pipeline: TextToImagePipeline, latents: CachedLatents, pictures: Pictures) -> Any:
    """Edges of some pictures beside what is painted along them; None where the network paints nothing."""
    pipeline.set_progress_bar_config(disable=True)
    items = range(0, latents.pictures, -(-latents.pictures // SHOWN))
    lines = [edges(pictures.image(item)) for item in items]
    told = [latents.in_words(item, np.random.default_rng(0)) for item in items]
    encoder: Any = pipeline.text_encoder
    prompts = [one["caption"] if "caption" in one else encoder.names[one["class_label"]] for one in told]
    steps = min(STEPS, pipeline.default_steps)
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    try:
        images = pipeline(prompts, control=torch.stack(lines), num_inference_steps=steps, generator=seeds).images
    except FailureError as error:  # a network that paints nothing yet is no reason to stop its training
        say(f"{name}: no sample sheet: {error}")
        return None
    pairs = [picture for one, image in zip(lines, images, strict=True) for picture in (edges_image(one), image)]
    return sheet(pairs, [caption for prompt in prompts for caption in ("edges", prompt)])
