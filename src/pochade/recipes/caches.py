"""What the stages on latents cache below the folder of their run."""

import json
from pathlib import Path
from typing import Any

import torch

from pochade.data.cache import edges, image_prompts, latents, pairs, velocities
from pochade.data.cache.edges import CachedEdges
from pochade.data.cache.image_prompts import CachedImagePrompts
from pochade.data.cache.latents import CachedLatents, LatentEncoders
from pochade.data.cache.pairs import CachedPairs
from pochade.data.cache.velocities import CachedVelocities
from pochade.data.sources.pairs.pair import PairDataset
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.stages.distillation import TeacherSettings, answers_of


def _encoders(autoencoder: Any, encoder: Any = None, name: str | None = None) -> LatentEncoders:
    return LatentEncoders(autoencoder.encode, _identity(autoencoder), None if encoder is None else encoder.encode, name)


def cache_latents(
    size: int, out: Path, autoencoder: Any, encoder: Any, encoder_name: str | None, dataset: Any
) -> CachedLatents:
    """Latents of ``dataset`` with the text vectors of ``encoder`` (None: with the words, or with classes)."""
    encoders = _encoders(autoencoder, encoder, encoder_name)
    return latents.cache_latents(dataset.dataset, size, encoders, out / "cache")


def _identity(autoencoder: Any) -> str:
    """What the encoder makes of one picture tells encoders apart; the decoder does not matter here."""
    side = max(32, 2 * int(autoencoder.downsampling))
    with torch.no_grad():
        probe = autoencoder.encode(torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side))
    return str([round(value, 3) for value in probe.flatten().tolist()])


def cache_pairs(size: int, out: Path, autoencoder: Any, encoder: Any, pairs_: PairDataset, draws: int) -> CachedPairs:  # noqa: ARG001
    """Latents of ``draws`` draws of all pairs, with the text vectors of their instructions."""
    return pairs.cache_pairs(pairs_, draws, _encoders(autoencoder, encoder, str(encoder.identity)), out / "cache")


def cache_edges(size: int, out: Path, autoencoder: Any, latents_: CachedLatents, dataset: Any) -> CachedEdges:
    """Latents of the edges of the pictures of ``dataset``, of which the latents are."""
    return edges.cache_edges(dataset.dataset, size, _encoders(autoencoder), latents_, out / "cache")


def cache_references(
    size: int, out: Path, latents_: CachedLatents, encoder: Any, dataset: Any, views: int
) -> CachedImagePrompts:
    """Features of the pictures of ``dataset``, of which the latents are, as references."""
    # A folder keeps its name when other weights are put into it.
    probe = [
        round(value, 3) for value in encoder(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)).flatten().tolist()
    ]
    identity = json.dumps([encoder.identity, probe])
    return image_prompts.cache_image_prompts(dataset.dataset, size, latents_, encoder, identity, views, out / "cache")


def cache_velocities(
    settings: TeacherSettings,
    teacher: TextToImagePipeline,
    source: Path,
    latents_: CachedLatents,
    dataset: Any,  # noqa: ARG001
    out: Path,
) -> CachedVelocities:
    """The answers of the model in the folder ``source`` on the latents, which are those of its autoencoder.

    They do not depend on the student: students of any family and any text encoder share them.
    """
    asked = ("guidance", "density", "density_scale", "time_shift", "drop")
    told = json.dumps([hub.model_sha256(source), *(getattr(settings, name) for name in asked)])
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    answer = answers_of(teacher.denoiser, teacher.text_encoder, settings, device or torch.device("cpu"))
    return velocities.cache_velocities(latents_, answer, settings.records, told, out / "cache")
