"""Fixtures of the tests of pipelines."""

from pathlib import Path

import pytest

from pochade.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture
def pipe(toy_pipeline_folder: Path) -> TextToImagePipeline:
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe
