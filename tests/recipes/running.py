"""What the tests of recipes share: running one by name, and a network of its settings."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.data.prepare.writer import Record, picture_record, write_shards
from pochade.errors import PochadeError
from pochade.recipes import stages_of
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stages.flow import FlowSettings
from pochade.training.stages.models import build_denoiser as build

FAST = ("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=0", "log_every=1", "save_every=2")
TINY_AUTOENCODER = (
    "task.latent_channels=4",
    "task.width=8",
    "task.encoder_blocks=0,0,1,0",
    "task.decoder_blocks=0,1,0,0",
    "task.perceptual=0",
)
OPTIONS = "task.options=dim=16,heads=2,hidden=24,blocks=1"

FISH = ("tench", "goldfish", "great white shark")
"""The classes of ``fish_shards``."""


def train(recipe: str, overrides: Iterable[str], out: Path, resume: bool = False, only: str | None = None) -> Path:
    """Run a recipe with ``field=value`` overrides; returns the folder of the last stage's model."""
    return run(override(stages_of(recipe), overrides), out, resume=resume, only=only)


def refused(match: str, out: Path, recipe: str, *overrides: str) -> None:
    """The recipe ends with one line before anything is written."""
    with pytest.raises(PochadeError, match=match) as caught:
        train(recipe, overrides, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def build_denoiser(settings: FlowSettings, **changes: Any) -> Any:
    """The network of a stage's settings with random weights."""
    return build(settings.family, settings.variant, settings.options, **changes)


def sample(pipeline: Any, prompt: str, seed: int = 0) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipeline(prompt, num_inference_steps=2, generator=generator, output_type="np").images[0]


def fish_shards(folder: Path, *, captions: bool) -> Path:
    """Twelve pictures with captions, or with classes."""

    def record(i: int) -> Record:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).resize((72, 72)).save(buffer, "JPEG")
        words = [f"fish number {i}"] if captions else []
        return picture_record(f"{i:05d}", buffer.getvalue(), ".jpg", words, label=i % 3)

    write_shards(map(record, range(12)), folder, class_names=FISH)
    return folder
