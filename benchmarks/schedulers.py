"""diffusers' schedulers and numbers of steps with each model: how near their pictures are to the model's own.

    python benchmarks/schedulers.py

Writes docs/benchmarks/schedulers.json. A picture is compared with that of the same prompt and seed by the model's own
scheduler and number of steps, by the cosine of their features (EfficientNet-Lite0); the same between pictures of
different prompts says what is unrelated.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from measuring import GUIDED_THROUGHOUT
from pochade.evaluation.pictures import pooled_features, to_uint8
from pochade.features.lite0 import EfficientNetLite0, load_lite0
from pochade.files import write_text
from pochade.pipelines import hub
from pochade.pipelines.schedulers import SCHEDULERS, StepsWarning, make_scheduler, shift_of
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
PROMPTS = ("red apple", "cat face", "sunflower", "house")
STEPS = (2, 4, 8)


def features(pipe: TextToImagePipeline, net: EfficientNetLite0, steps: int | None = None) -> Tensor:
    """[prompts, 1280], of unit length."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StepsWarning)
        images = pipe(list(PROMPTS), num_inference_steps=steps, generator=generators).images
    pooled = pooled_features(net, torch.stack([to_uint8(image) for image in images]))
    return torch.nn.functional.normalize(pooled, dim=1)


def measure(model: str, net: EfficientNetLite0) -> dict[str, Any]:
    """The rows of one model."""
    pipe = TextToImagePipeline.from_pretrained(model, **GUIDED_THROUGHOUT)
    pipe.set_progress_bar_config(disable=True)
    own = features(pipe, net)
    cosines = own @ own.T
    count = len(PROMPTS)
    unrelated = (cosines.sum() - cosines.trace()) / (count * (count - 1))
    rows: dict[str, dict[str, float]] = {}
    shift = shift_of(pipe.scheduler)
    for name in SCHEDULERS:
        pipe.scheduler = make_scheduler(name, shift)
        rows[name] = {str(steps): float((features(pipe, net, steps) * own).sum(1).mean()) for steps in STEPS}
    found = {"model": model, "steps": pipe.default_steps, "unrelated": float(unrelated), "cosines": rows}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(hub.shipped()))
    parser.add_argument("--output", type=Path, default=DOCS / "schedulers.json")
    args = parser.parse_args()
    net = load_lite0()
    record = {"prompts": len(PROMPTS), "models": [measure(model, net) for model in args.models]}
    write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
