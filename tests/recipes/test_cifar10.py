"""The recipe lrf-cifar10 at toy size, on CIFAR-10's format."""

from pathlib import Path

import numpy as np
import pytest

from pochade.errors import PochadeError
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from recipes.running import FAST, sample, train


def test_cifar10_from_its_archive(archive: Path, taesd: Path, tmp_path: Path):
    overrides = [f"data.source=cifar10:{archive}", f"autoencoder.task.ready={taesd}", *FAST, "sample_every=2"]
    model = train("lrf-cifar10", overrides, tmp_path / "run")
    assert (tmp_path / "run" / "2-flow" / "samples" / "step-000002.png").is_file()
    pipeline = TextToImagePipeline.from_pretrained(model)
    assert sum(p.numel() for p in pipeline.denoiser.parameters()) == pytest.approx(1.47e6, rel=0.02)
    assert pipeline.denoiser.config.num_classes == 10
    assert pipeline.text_encoder.names[3] == "cat"
    assert sample(pipeline, "cat").shape == (32, 32, 3)
    assert np.isfinite(sample(pipeline, "")).all()
    with pytest.raises(PochadeError, match="did you mean 'truck'"):
        sample(pipeline, "truk")


def test_cifar10_as_published():
    *_, stage = stages_of("lrf-cifar10")
    assert stage.batch_size == 128
    assert stage.steps == pytest.approx(30 * 50_000 / 128, abs=1)
    assert stage.task.variant == "cifar"
