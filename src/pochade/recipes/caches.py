"""What the stages on latents cache below the folder of their run."""

import json
from pathlib import Path
from typing import Any

import torch

from pochade.data.cache.edges import CachedEdges, build_edges
from pochade.data.cache.latents import CachedLatents, build_cache, fingerprint
from pochade.data.cache.pairs import CachedPairs, build_pairs, fingerprint_pairs
from pochade.data.cache.references import CachedReferences, build_references
from pochade.data.cache.velocities import CachedVelocities, build_velocities
from pochade.data.sources.pairs.pair import PairDataset
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes.sources import as_pictures
from pochade.training.stages.distillation import TeacherSettings, answers_of


def cache_latents(
    size: int, out: Path, autoencoder: Any, encoder: Any, encoder_name: str | None, dataset: Any
) -> CachedLatents:
    """Latents of ``dataset`` with the text vectors of ``encoder`` (None: with the words, or with classes)."""
    pictures = as_pictures(dataset)
    name = fingerprint(pictures, _identity(autoencoder), str(encoder_name), str(size))
    encode_text = None if encoder is None else encoder.encode
    return build_cache(pictures, autoencoder.encode, encode_text, out / "cache" / name)


def _identity(autoencoder: Any) -> str:
    """What the encoder makes of one picture tells encoders apart; the decoder does not matter here."""
    side = max(32, 2 * int(autoencoder.downsampling))
    with torch.no_grad():
        probe = autoencoder.encode(torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side))
    return str([round(value, 3) for value in probe.flatten().tolist()])


def cache_pairs(size: int, out: Path, autoencoder: Any, encoder: Any, pairs: PairDataset, draws: int) -> CachedPairs:
    """Latents of ``draws`` draws of all pairs, with the text vectors of their instructions."""
    words = pairs.fingerprint()
    name = fingerprint_pairs(pairs, _identity(autoencoder), str(encoder.identity), words, str(size), str(draws))
    return build_pairs(pairs, draws, autoencoder.encode, encoder.encode, out / "cache" / f"pairs-{name}")


def cache_edges(size: int, out: Path, autoencoder: Any, latents: CachedLatents, dataset: Any) -> CachedEdges:
    """Latents of the edges of the pictures of ``dataset``, of which ``latents`` are."""
    pictures = as_pictures(dataset)
    name = fingerprint(pictures, _identity(autoencoder), str(size))
    return build_edges(latents, pictures, autoencoder.encode, out / "cache" / f"edges-{name}")


def cache_references(
    size: int, out: Path, latents: CachedLatents, encoder: Any, dataset: Any, views: int
) -> CachedReferences:
    """Features of the pictures of ``dataset``, of which ``latents`` are, as references."""
    pictures = as_pictures(dataset)
    # A folder keeps its name when other weights are put into it.
    probe = [
        round(value, 3) for value in encoder(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)).flatten().tolist()
    ]
    name = fingerprint(pictures, encoder.identity, str(probe), str(size), str(views))
    return build_references(latents, pictures, encoder, out / "cache" / f"references-{name}", views)


def cache_velocities(
    settings: TeacherSettings,
    teacher: TextToImagePipeline,
    source: Path,
    latents: CachedLatents,
    dataset: Any,
    out: Path,
) -> CachedVelocities:
    """The answers of the model in the folder ``source`` on ``latents``, which are those of its autoencoder.

    They do not depend on the student: students of any family and any text encoder share them.
    """
    asked = ("guidance", "records", "density", "density_scale", "time_shift", "drop")
    told = json.dumps([*latents.latent_shape, *(getattr(settings, name) for name in asked)])
    name = fingerprint(as_pictures(dataset), hub.model_sha256(source), told)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    answer = answers_of(teacher.denoiser, teacher.text_encoder, settings, device or torch.device("cpu"))
    return build_velocities(latents, answer, settings.records, out / "cache" / f"teacher-{name}")
