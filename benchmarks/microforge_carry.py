"""What the plan state between steps gains: pictures and their jitter with and without it.

    python benchmarks/microforge_carry.py microforge-nano
    python benchmarks/microforge_carry.py base=runs/study/2-base/model a5=runs/study/2-a5/model a1=runs/study/2-a1/model

A model with a plan state is measured twice: as it is, and with the state dropped after every step.
Jitter is the root mean square of the change of the predicted latents (of unit variance) from one step to the next,
mean over steps and pictures. Writes docs/benchmarks/microforge_carry.json; models that it holds under other names stay.
"""

import argparse
import itertools
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from measuring import GUIDED_THROUGHOUT, quality
from pochade.data.sources.openmoji import OpenMoji
from pochade.evaluation.report import evaluate
from pochade.files import write_text
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"


def forgetful(pipe: Any) -> Any:
    """``pipe``, its denoiser without the state of the step before."""
    remembering = pipe.denoiser.forward

    def forward(*args: Any, state: Any = None, **kwargs: Any) -> Any:  # noqa: ARG001
        return remembering(*args, **kwargs)

    pipe.denoiser.forward = forward
    return pipe


def jitter(pipe: Any, prompts: list[str], steps: int, guidance: float) -> float:
    """Of the predicted latents from step to step."""
    predicted: list[torch.Tensor] = []

    def record(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> None:
        predicted.append(tensors["predicted_data"])

    pipe.set_progress_bar_config(disable=True)
    pipe(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        output_type="latent",
        callback_on_step_end=record,
        callback_on_step_end_tensor_inputs=["predicted_data"],
    )
    changes = [(b - a).square().mean((1, 2, 3)).sqrt() for a, b in itertools.pairwise(predicted)]
    return fmean(float(change.mean()) for change in changes)


def measure(name: str, folder: str, carries: bool, args: Any) -> dict[str, Any]:
    """A row of the table."""
    pipe = TextToImagePipeline.from_pretrained(folder, **GUIDED_THROUGHOUT)
    if not carries:
        pipe = forgetful(pipe)
    data = OpenMoji("train")
    firsts = [concept[0] for concept in data.groups().values()]
    prompts = [data.item(i).caption for i in firsts[:: len(firsts) // args.prompts]]
    guidance = pipe.default_guidance
    row: dict[str, Any] = {"model": name, "carries": carries, "guidance": guidance}
    row["jitter"] = {steps: jitter(pipe, prompts[: args.prompts], steps, guidance) for steps in args.steps}
    report = evaluate(
        pipe,
        "openmoji",
        samples=args.samples,
        steps=max(args.steps),
        guidance=guidance,
        size=pipe.default_size,
        out=args.pictures / f"{name}-{'carries' if carries else 'forgets'}",
        model=name,
        progress=False,
    ).figures
    row |= quality(report)
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="NAME of a shipped model, or NAME=FOLDER")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 10, 20])
    parser.add_argument("--prompts", type=int, default=32, help="pictures of which the jitter is taken")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--pictures", type=Path, default=Path("runs/carry"))
    parser.add_argument("--output", type=Path, default=DOCS / "microforge_carry.json")
    args = parser.parse_args()
    record = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {"rows": []}
    for item in args.models:
        name, _, folder = item.partition("=")
        carries = TextToImagePipeline.from_pretrained(folder or name).denoiser.state_shape is not None
        rows = [measure(name, folder or name, kept, args) for kept in ((True, False) if carries else (False,))]
        record["rows"] = [row for row in record["rows"] if row["model"] != name] + rows
        write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
