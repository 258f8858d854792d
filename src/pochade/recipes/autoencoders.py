"""Autoencoders in recipes: loading any of them by name or folder, training them, and distilling their decoders."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from pochade.autoencoders import pretrained as published
from pochade.autoencoders import tiny_decoder
from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.deep_compression import DeepCompressionVAE
from pochade.autoencoders.load_diffusers import load_diffusers
from pochade.autoencoders.pretrained import PretrainedAutoencoder
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.wavelet import WaveletVAE
from pochade.errors import PochadeError
from pochade.images.decode import to_image, to_tensor
from pochade.images.sheets import sheet
from pochade.pipelines import hub
from pochade.pipelines.loading import load_component, load_components
from pochade.recipes.results import Result, main_first, passed_over, write_folder
from pochade.recipes.sources import as_pictures, open_images
from pochade.training.checkpoint import load_weights
from pochade.training.loop import train as train_stage
from pochade.training.stage import Stage
from pochade.training.stages.autoencoder import AutoencoderSettings, AutoencoderTask, build_autoencoder
from pochade.training.stages.decoder import DecoderSettings, DecoderTask

MEASURED_PIXELS = 4096 * 64**2
"""Enough for statistics of latents."""
OWN: dict[str, type[ImageAutoencoder]] = {
    cls.__name__: cls for cls in (TinyAutoencoder, WaveletVAE, DeepCompressionVAE, PretrainedAutoencoder)
}


def load_autoencoder(name_or_folder: str) -> Any:
    """An autoencoder from its own folder, from a model (by name or folder), or one of diffusers by folder or hub name.

    Raises:
        PochadeError: there is none, or its weights do not fit.
    """
    folder = Path(name_or_folder).expanduser()
    if name_or_folder in hub.shipped() or (folder / hub.INDEX).is_file():
        parts = load_components(hub.resolve(name_or_folder), {"text_encoder": None, "denoiser": None})
        if "autoencoder" not in parts:
            raise PochadeError(f"autoencoder: {name_or_folder!r} given, a model that has none")
        return parts["autoencoder"]
    if (folder / "config.json").is_file():
        kind = hub.read_json(folder / "config.json").get("_class_name")
        if kind == tiny_decoder.TinyVAEDecoder.__name__:
            raise PochadeError(f"autoencoder: {name_or_folder!r} holds a decoder alone, which cannot encode")
        if kind in OWN:
            return load_component(OWN[kind], folder)
    theirs = load_diffusers(name_or_folder, (AutoencoderTiny, *published.CLASSES))
    if isinstance(theirs, AutoencoderTiny):
        return TinyAutoencoder.from_network(theirs, name_or_folder)
    return PretrainedAutoencoder.from_network(theirs)


def check_size(size: int, downsampling: int) -> None:
    """Raises PochadeError where pictures of ``size`` pixels a side are not a whole number of latent cells."""
    if size % downsampling:
        raise PochadeError(f"data.size: {size} given, allowed are multiples of {downsampling}, a cell of the latents")


def run_autoencoder(stage: Stage, folder: Path, resume: bool) -> Result:
    """Train an autoencoder (``AutoencoderSettings``) into ``folder``."""
    result = Result(folder / "model", folder / "model")
    if resume and (result.model / "config.json").is_file():
        return passed_over(stage, result)
    settings: AutoencoderSettings = stage.task
    torch.manual_seed(stage.seed)
    autoencoder = build_autoencoder(settings)
    stage = _started(stage, autoencoder)
    task = AutoencoderTask(autoencoder, settings, _perceptual(settings))
    dataset = open_images(stage.data)

    def through(images: Tensor) -> Tensor:
        return autoencoder(images.to(autoencoder.device))  # which the loop moves

    train_stage(stage, task, dataset, folder, resume=resume, sample_sheet=_pairs(stage, dataset, through))
    with main_first() as main:
        if main:
            _measure_statistics(autoencoder, as_pictures(dataset))
            write_folder(result.model, autoencoder.save_pretrained)
    return result


def run_decoder(stage: Stage, folder: Path, resume: bool, trained: Path | None) -> Result:
    """Distil a decoder (``DecoderSettings``) into ``folder``; ``trained`` is the autoencoder where none is named."""
    result = Result(folder / "model", folder / "model")
    if resume and (result.model / "config.json").is_file():
        return passed_over(stage, result)
    settings: DecoderSettings = stage.task
    teacher = load_autoencoder(settings.autoencoder or str(trained))
    torch.manual_seed(stage.seed)
    decoder = tiny_decoder.for_autoencoder(settings.size, teacher.config.latent_channels, teacher.downsampling)
    stage = _started(stage, decoder)
    task = DecoderTask(teacher, decoder, settings, _perceptual(settings))
    dataset = open_images(stage.data)

    def through(images: Tensor) -> Tensor:
        return decoder(teacher.encode(images.to(teacher.device)).to(decoder.device))

    train_stage(stage, task, dataset, folder, resume=resume, sample_sheet=_pairs(stage, dataset, through))
    with main_first() as main:
        if main:
            write_folder(result.model, decoder.save_pretrained)
    return result


def _started(stage: Stage, network: Any) -> Stage:
    """The stage with its start weights settled: with an adversary, which itself starts anew, they are loaded here."""
    if not stage.task.adversarial or stage.initialise_from is None:
        return stage
    load_weights(network, stage.initialise_from)
    return replace(stage, initialise_from=None)


def _perceptual(settings: AutoencoderSettings | DecoderSettings) -> Any:
    if not settings.perceptual:
        return None
    from pochade.features.lite0 import load_lite0
    from pochade.features.perceptual import PerceptualLoss

    return PerceptualLoss(load_lite0())


def _pairs(stage: Stage, dataset: Any, through: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
    """A sheet of about 24 pictures, held-out ones where there are any, beside what comes ``through`` the network."""
    shown = as_pictures(_held_out(stage.data) or dataset)
    images = torch.stack([to_tensor(shown.image(i)) for i in range(0, len(shown), math.ceil(len(shown) / 24))])

    def pictures() -> Any:
        decoded = through(images).cpu().clamp(-1, 1)
        pairs = [to_image(x) for pair in zip(images, decoded, strict=True) for x in pair]
        return sheet(pairs, ["original", "decoded"] * len(images))

    return pictures


def _held_out(data: Any) -> Any:
    """The held-out pictures, or None where there are so few pictures that none is held out."""
    try:
        return open_images(data, "held_out")
    except PochadeError:  # the training split was opened before, so this one is empty
        return None


@torch.no_grad()
def _measure_statistics(autoencoder: ImageAutoencoder, pictures: Any) -> None:
    """Mean and deviation of the raw latents over training pictures: 4,096 at 64 px, fewer of larger ones."""
    several = max(1, MEASURED_PIXELS // math.prod(pictures.image(0).size))
    chosen = range(0, len(pictures), math.ceil(len(pictures) / several))
    raw: list[Tensor] = []
    for start in range(0, len(chosen), 16):
        images = torch.stack([to_tensor(pictures.image(i)) for i in chosen[start : start + 16]])
        raw.append(autoencoder.encode_raw(images.to(autoencoder.device)).cpu())
    values = torch.cat(raw)
    autoencoder.set_statistics(values.mean((0, 2, 3)), values.std((0, 2, 3)))
