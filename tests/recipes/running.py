"""What the tests of recipes share: running one by name, and a network of its settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pochade.recipes import stages_of
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stages.flow import FlowSettings
from pochade.training.stages.models import build_denoiser as build


def train(recipe: str, overrides: Iterable[str], out: Path, resume: bool = False, only: str | None = None) -> Path:
    """Run a recipe with ``field=value`` overrides; returns the folder of the last stage's model."""
    return run(override(stages_of(recipe), overrides), out, resume=resume, only=only)


def build_denoiser(settings: FlowSettings, **changes: Any) -> Any:
    """The network of a stage's settings with random weights."""
    return build(settings.family, settings.variant, settings.options, **changes)
