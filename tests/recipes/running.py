"""What the tests of recipes share: running one by name, and a network of its settings."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pochade.data.prepare.writer import Record, picture_record, write_shards
from pochade.recipes import stages_of
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stages.flow import FlowSettings
from pochade.training.stages.models import build_denoiser as build

FISH = ("tench", "goldfish", "great white shark")
"""The classes of ``fish_shards``."""


def train(recipe: str, overrides: Iterable[str], out: Path, resume: bool = False, only: str | None = None) -> Path:
    """Run a recipe with ``field=value`` overrides; returns the folder of the last stage's model."""
    return run(override(stages_of(recipe), overrides), out, resume=resume, only=only)


def build_denoiser(settings: FlowSettings, **changes: Any) -> Any:
    """The network of a stage's settings with random weights."""
    return build(settings.family, settings.variant, settings.options, **changes)


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
