"""How well a trained control is followed: what is given and what is generated, with the control and without.

    python benchmarks/iris_control.py runs/control/1-control/model

Controls are those of real drawings, of the kind that the model takes; each is sampled with its own caption, with that
of another drawing, and without text. Of edges, recall is the share of the edge pixels given that lie within a pixel of
a generated one, precision the share of the generated ones that lie within a pixel of one given. Of depth, recall is
that of the steps of the map among the generated edges, and IoU that of what stands before the page and what is drawn,
that is not white. Each is also measured against the control of another drawing, which is what chance gives. Writes
docs/benchmarks/iris_control.json and docs/images/iris-control.png, for depth with "depth" in their names.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from measuring import write_png
from pochade.data.sources.openmoji import OpenMoji
from pochade.files import write_text
from pochade.images.controls import KINDS, control_image
from pochade.images.decode import to_tensor
from pochade.images.edges import edges
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
BATCH = 25
SHOWN = 10
NEAR, WHITE = 0.25, 0.8
"""Of a depth map, what stands before the page; in [-1, 1], a channel of what is drawn on it."""
WAYS = ("followed", "another caption", "no words", "not followed", "no words, not followed")


def agreement(kind: str, control: Tensor, image: Image.Image) -> dict[str, float]:
    """How well a picture follows a control [1, H, W] of a kind."""
    if kind == "depth":
        recall = _agreement(edges(control_image(control)), edges(image))["recall"]
        figure, drawn = control > NEAR, to_tensor(image).amin(0, keepdim=True) < WHITE
        return {"IoU": float((figure & drawn).sum() / (figure | drawn).sum().clamp_min(1)), "recall": recall}
    return _agreement(control, edges(image))


def _agreement(given: Tensor, generated: Tensor) -> dict[str, float]:
    """Recall and precision of edges [1, H, W] within a pixel."""
    near_given, near_generated = (max_pool2d(x, 3, 1, 1) for x in (given, generated))
    recall = (given * near_generated).sum() / given.sum().clamp_min(1)
    precision = (generated * near_given).sum() / generated.sum().clamp_min(1)
    return {"recall": float(recall), "precision": float(precision)}


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
    parser.add_argument("--splits", nargs="+", default=["train", "held_out"])
    args = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    kind = pipe.denoiser.input_spec().control
    record: dict[str, Any] = {"kind": kind, "size": pipe.default_size, "steps": args.steps, "rows": []}
    shown: list[tuple[str, Any]] = []
    for split in args.splits:
        data = OpenMoji(split)
        concepts = list(data.groups().values())
        firsts = [concept[0] for concept in concepts][:: max(1, len(concepts) // args.samples)]
        firsts = firsts[: args.samples]
        captions = [data.item(i).caption for i in firsts]
        others = captions[1:] + captions[:1]
        lines = [KINDS[kind].tensor(data.control(i, pipe.default_size, kind)) for i in firsts]
        pictures = {
            "followed": sample(pipe, captions, lines, args.steps),
            "another caption": sample(pipe, others, lines, args.steps),
            "no words": sample(pipe, [""] * len(lines), lines, args.steps),
            "not followed": sample(pipe, captions, None, args.steps),
            "no words, not followed": sample(pipe, [""] * len(lines), None, args.steps),
        }
        for way in WAYS:
            pairs = [agreement(kind, given, image) for given, image in zip(lines, pictures[way], strict=True)]
            moved = zip(lines[1:] + lines[:1], pictures[way], strict=True)
            chance = [agreement(kind, given, image) for given, image in moved]
            row: dict[str, Any] = {"split": split, "way": way, "pictures": len(pairs)}
            for name in pairs[0]:
                values = [pair[name] for pair in pairs]
                row |= {name: fmean(values), f"{name} standard error": stdev(values) / len(values) ** 0.5}
                row[f"{name} by chance"] = fmean(pair[name] for pair in chance)
            record["rows"].append(row)
            print(json.dumps(row), flush=True)
        for i in list(range(0, len(firsts), max(1, len(firsts) // SHOWN)))[: SHOWN // 2]:
            shown += [(kind, control_image(lines[i]).convert("RGB")), (captions[i], pictures["followed"][i])]
            shown += [
                ("no words", pictures["no words"][i]),
                (f"{captions[i]}, no {kind}", pictures["not followed"][i]),
            ]
    name = "" if kind == "edges" else f"_{kind}"
    write_text(args.output / "benchmarks" / f"iris_control{name}.json", json.dumps(record, indent=2) + "\n")
    page = sheet([image for _, image in shown], [text for text, _ in shown], columns=8, cell=pipe.default_size)
    write_png(args.output / "images" / f"iris-control{name.replace('_', '-')}.png", page)


if __name__ == "__main__":
    main()
