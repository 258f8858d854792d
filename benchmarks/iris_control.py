"""How well a trained control is followed: edges given and edges generated, with the control and without.

    python benchmarks/iris_control.py runs/control/1-control/model

Edges are those of real drawings; each is sampled with its own caption, with that of another drawing, and without text.
Recall is the share of the edge pixels given that lie within a pixel of a generated one, precision the share of the
generated ones that lie within a pixel of one given. Writes docs/benchmarks/iris_control.json and
docs/images/iris-control.png.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from measuring import write_png
from pochade.data.sources.openmoji import OpenMoji
from pochade.files import write_text
from pochade.images.edges import edges, edges_image
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
BATCH = 25
SHOWN = 10
WAYS = ("followed", "another caption", "no words", "not followed", "no words, not followed")


def agreement(given: Tensor, generated: Tensor) -> tuple[float, float]:
    """Recall and precision of edges [1, H, W] within a pixel."""
    near_given, near_generated = (max_pool2d(x, 3, 1, 1) for x in (given, generated))
    recall = (given * near_generated).sum() / given.sum().clamp_min(1)
    return float(recall), float((generated * near_given).sum() / generated.sum().clamp_min(1))


def sample(pipe: Any, captions: list[str], lines: list[Tensor] | None, steps: int) -> list[Any]:
    """A picture for each caption, the i-th from seed i."""
    images: list[Any] = []
    for start in range(0, len(captions), BATCH):
        rows = range(start, min(start + BATCH, len(captions)))
        images += pipe(
            [captions[i] for i in rows],
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(i) for i in rows],
            control=None if lines is None else torch.stack([lines[i] for i in rows]),
        ).images
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=100, help="drawings of each split")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    record: dict[str, Any] = {"size": pipe.default_size, "steps": args.steps, "rows": []}
    shown: list[tuple[str, Any]] = []
    for split in ("train", "held_out"):
        data = OpenMoji(split)  # pyright: ignore[reportArgumentType]
        concepts = list(data.groups().values())
        firsts = [concept[0] for concept in concepts][:: max(1, len(concepts) // args.samples)]
        firsts = firsts[: args.samples]
        captions = [data.item(i).caption for i in firsts]
        others = captions[1:] + captions[:1]
        lines = [edges(data.image(i, pipe.default_size)) for i in firsts]
        pictures = {
            "followed": sample(pipe, captions, lines, args.steps),
            "another caption": sample(pipe, others, lines, args.steps),
            "no words": sample(pipe, [""] * len(lines), lines, args.steps),
            "not followed": sample(pipe, captions, None, args.steps),
            "no words, not followed": sample(pipe, [""] * len(lines), None, args.steps),
        }
        for way in WAYS:
            pairs = [agreement(given, edges(image)) for given, image in zip(lines, pictures[way], strict=True)]
            row: dict[str, Any] = {"split": split, "way": way, "pictures": len(pairs)}
            for name, values in zip(("recall", "precision"), zip(*pairs, strict=True), strict=True):
                row |= {name: fmean(values), f"{name} standard error": stdev(values) / len(values) ** 0.5}
            record["rows"].append(row)
            print(json.dumps(row), flush=True)
        for i in list(range(0, len(firsts), max(1, len(firsts) // SHOWN)))[: SHOWN // 2]:
            shown += [("edges", edges_image(lines[i]).convert("RGB")), (captions[i], pictures["followed"][i])]
            shown += [
                ("no words", pictures["no words"][i]),
                (captions[i] + ", no edges", pictures["not followed"][i]),
            ]
    write_text(args.output / "benchmarks" / "iris_control.json", json.dumps(record, indent=2) + "\n")
    page = sheet([image for _, image in shown], [text for text, _ in shown], columns=8, cell=pipe.default_size)
    write_png(args.output / "images" / "iris-control.png", page)


if __name__ == "__main__":
    main()
