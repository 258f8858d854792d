"""Prompts and calls that tests of pipelines share."""

from typing import Any

import torch

from pochade.pipelines.text_to_image import TextToImagePipeline

APPLE, CAT, HOUSE = "a red apple", "a sleeping cat", "a blue house with a door and two green pears"


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def sample(pipe: TextToImagePipeline, prompt: Any, generator: Any, **changes: Any) -> torch.Tensor:
    return pipe(prompt, generator=generator, **{"num_inference_steps": 3, "output_type": "pt"} | changes).images
