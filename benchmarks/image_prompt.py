"""How well an image prompt is followed, and what the text prompt loses by it.

    python benchmarks/image_prompt.py runs/image-prompt/1-image_prompt/model --image-prompts openmoji+FOLDER

Prompts are captions of drawings; each is sampled with an image prompt that is another, held-out picture, with that of
the next prompt, and without one. "colours" is the total variation between the colours of the result and those of its
own image prompt (joint histograms of 4 x 4 x 4 bins; 0 equal, 1 nothing in common). "features" is the root mean square
difference of their features, in deviations over the training set: that is what the network was trained to read, so it
is no independent measure. R@1 is the fraction of samples whose caption is found among 100 by a probe fitted to real
drawings alone. Writes docs/benchmarks/image_prompt.json and docs/images/image_prompt.png.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from measuring import GUIDED_THROUGHOUT, write_png
from pochade.data.sources import open_source
from pochade.evaluation.pictures import caption_embeddings, pooled_features, read_splits, to_pil, to_uint8
from pochade.evaluation.retrieval import RetrievalProbe
from pochade.features import style
from pochade.features.lite0 import load_lite0
from pochade.files import write_text
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
BATCH = 25
BINS = 4
SHOWN = (5, 7)
"""Image prompts and prompts on the sheet."""
SHOWN_SCALE = 0.3
"""Of the image prompts there."""


def colours(image: Tensor) -> Tensor:
    """The joint histogram [BINS^3] of a picture, uint8 [3, H, W]; its sum is 1."""
    bins = (image.long() * BINS // 256).flatten(1)
    index = (bins[0] * BINS + bins[1]) * BINS + bins[2]
    return torch.bincount(index, minlength=BINS**3).float() / index.numel()


def between(one: Tensor, other: Tensor) -> float:
    """Total variation of two histograms, in [0, 1]."""
    return float((one - other).abs().sum()) / 2


def generate(pipe: Any, prompts: list[str], features: Tensor | None, scale: float, steps: int) -> Tensor:
    """A picture for each prompt, uint8 [n, 3, H, W], the i-th from seed i."""
    images: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        rows = range(start, min(start + BATCH, len(prompts)))
        part = None if features is None else features[rows.start : rows.stop]
        options = {} if part is None else {"image_prompt": part, "image_prompt_scale": scale}
        images.append(
            pipe(
                [prompts[i] for i in rows],
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(i) for i in rows],
                output_type="pt",
                **options,
            ).images
        )
    return (torch.cat(images) * 255).round().to(torch.uint8)


def held_out_pictures(source: str, size: int, prompts: list[str]) -> list[Image.Image]:
    """Pictures of a source that were held out of training, one for each prompt, none of them with that caption."""
    pictures = open_source(source, "held_out")
    step = max(1, len(pictures) // len(prompts))
    chosen: list[int] = []
    for i, prompt in enumerate(prompts):
        item = i * step
        while prompt in pictures.item(item % len(pictures)).captions:
            item += 1
        chosen.append(item % len(pictures))
    return [pictures.image(item, size) for item in chosen]


def evenly(count: int, chosen: int) -> list[int]:
    """All indices, first so many that lie evenly."""
    first = [i * count // chosen for i in range(min(chosen, count))]
    return [*first, *sorted(set(range(count)) - set(first))]


def measured(values: list[float], name: str) -> dict[str, float]:
    """Mean and standard error."""
    return {name: fmean(values), f"{name} standard error": stdev(values) / len(values) ** 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--image-prompts", default="openmoji", help="where they come from, as data.source in training")
    parser.add_argument("--samples", type=int, default=100, help="prompts of each split")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.2, 0.3, 1.0])
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(args.model, **GUIDED_THROUGHOUT)
    pipe.set_progress_bar_config(disable=True)
    size, branch = pipe.default_size, pipe.denoiser.image_prompt
    encoder: Any = style.load(pipe.denoiser.config.image_prompt_encoder)
    net = load_lite0()
    real = read_splits(open_source("openmoji", "all"), size).present()
    embeddings = {split: caption_embeddings(pictures.captions) for split, pictures in real.items()}
    probe = RetrievalProbe.fit(pooled_features(net, real["train"].images), embeddings["train"])
    record: dict[str, Any] = {"size": size, "steps": args.steps, "image_prompts": args.image_prompts}
    record |= {"encoder": pipe.denoiser.config.image_prompt_encoder, "rows": []}
    images: list[Image.Image] = []
    features = torch.zeros(0)
    for split, pictures in real.items():
        order = evenly(len(pictures.captions), args.samples)
        captions, concepts = ([part[i] for i in order] for part in (pictures.captions, pictures.concepts))
        prompts = captions[: args.samples]
        images = held_out_pictures(args.image_prompts, size, prompts)
        features = pipe.encode_image_prompt(images)
        histograms = [colours(to_uint8(image)) for image in images]
        ways: list[tuple[str, Tensor | None, float]] = [("none", None, 0.0)]
        ways += [("its own", features, scale) for scale in args.scales]
        ways += [("another", features.roll(-1, 0), scale) for scale in args.scales]
        for way, shown, scale in ways:
            made = generate(pipe, prompts, shown, scale, args.steps)
            found = encoder(made.float() / 127.5 - 1)
            apart = ((found - features) * branch.rate.float()).square().mean((1, 2)).sqrt()
            precision = probe.precision(pooled_features(net, made), embeddings[split][order], concepts)
            row = {"split": split, "image_prompt": way, "scale": scale, "pictures": len(prompts)}
            row |= measured([between(colours(x), h) for x, h in zip(made, histograms, strict=True)], "colours")
            row |= measured(apart.tolist(), "features")
            row |= {"R@1": precision.top1, "R@1 standard error": precision.standard_error1}
            record["rows"].append(row)
            print(json.dumps(row), flush=True)
    write_text(args.output / "benchmarks" / "image_prompt.json", json.dumps(record, indent=2) + "\n")
    captions = [real["train"].captions[i] for i in evenly(len(real["train"].captions), SHOWN[1])]
    page = _page(pipe, images, features, captions, args.steps)
    write_png(args.output / "images" / "image_prompt.png", page)


def _page(pipe: Any, images: list[Image.Image], features: Tensor, captions: list[str], steps: int) -> Image.Image:
    """Image prompts down, prompts across; the first row is without an image prompt."""
    rows, columns = SHOWN
    prompts = captions[:columns]
    chosen = list(range(0, len(images), max(1, len(images) // rows)))[:rows]
    blank = Image.new("RGB", (pipe.default_size, pipe.default_size), "white")
    cells = [blank, *map(to_pil, generate(pipe, prompts, None, 0.0, steps))]
    for i in chosen:
        same = features[i : i + 1].expand(columns, -1, -1)
        cells += [images[i], *map(to_pil, generate(pipe, prompts, same, SHOWN_SCALE, steps))]
    labels = [x for first in ("no image prompt", *["image prompt"] * len(chosen)) for x in (first, *prompts)]
    return sheet(cells, labels, columns=columns + 1, cell=pipe.default_size)


if __name__ == "__main__":
    main()
