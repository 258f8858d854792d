"""How well a trained control is followed: what is given and what is generated, with the control and without.

    python benchmarks/iris_control.py runs/control/1-control/model

Controls are those of real drawings, of the kind that the model takes, or, of a pose, of drawn figures; each is sampled
with its own caption, with that of another picture, and without text. Of edges, recall is the share of the edge pixels
given that lie within a pixel of a generated one, precision the share of the generated ones that lie within a pixel of
one given. Of depth and pose, IoU is that of what is drawn, that is not white, in the picture that the control is of and
in the sample; recall is that of the steps of the depth map among the generated edges, and the share of the limbs where
something is drawn. Each is also measured against the control of another picture, which is what chance gives. Writes
docs/benchmarks/iris_control.json and docs/images/iris-control.png, with the name of another kind in theirs.
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
from pochade.data.sources import open_source
from pochade.files import write_text
from pochade.images.controls import KINDS, control_image
from pochade.images.decode import to_tensor
from pochade.images.edges import edges
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
BATCH = 25
SHOWN = 10
WHITE = 0.8
"""In [-1, 1], above which all channels of a pixel are where nothing is drawn."""
WAYS = ("followed", "another caption", "no words", "not followed", "no words, not followed")


def agreement(kind: str, control: Tensor, original: Image.Image, image: Image.Image) -> dict[str, float]:
    """How well a picture follows a control [C, H, W] of a kind, that of ``original``."""
    if kind == "edges":
        return _agreement(control, edges(image))
    figure, drawn = (to_tensor(picture).amin(0, keepdim=True) < WHITE for picture in (original, image))
    if kind == "depth":
        recall = _agreement(edges(control_image(control)), edges(image))["recall"]
    else:
        limbs = control.amax(0, keepdim=True) > 0.5
        recall = float((limbs & drawn).sum() / limbs.sum())
    return {"IoU": float((figure & drawn).sum() / (figure | drawn).sum().clamp_min(1)), "recall": recall}


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
    parser.add_argument("--data", default="openmoji", help="a source whose pictures have the control")
    parser.add_argument("--splits", nargs="+", default=["train", "held_out"])
    args = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    kind = pipe.denoiser.input_spec().control
    guidance = {"guidance": pipe.default_guidance, "guidance_interval": pipe.default_guidance_interval}
    record: dict[str, Any] = {"kind": kind, "size": pipe.default_size, "steps": args.steps, **guidance, "rows": []}
    shown: list[tuple[str, Any]] = []
    for split in args.splits:
        data = open_source(args.data, split)
        concepts = list(data.groups().values())
        firsts = [concept[0] for concept in concepts][:: max(1, len(concepts) // args.samples)]
        firsts = firsts[: args.samples]
        captions = [data.item(i).caption for i in firsts]
        others = captions[1:] + captions[:1]
        originals = [data.image(i, pipe.default_size) for i in firsts]
        lines = [KINDS[kind].tensor(data.control(i, pipe.default_size, kind)) for i in firsts]
        pictures = {
            "followed": sample(pipe, captions, lines, args.steps),
            "another caption": sample(pipe, others, lines, args.steps),
            "no words": sample(pipe, [""] * len(lines), lines, args.steps),
            "not followed": sample(pipe, captions, None, args.steps),
            "no words, not followed": sample(pipe, [""] * len(lines), None, args.steps),
        }
        for way in WAYS:
            given = list(zip(lines, originals, strict=True))
            pairs = [agreement(kind, *one, image) for one, image in zip(given, pictures[way], strict=True)]
            moved = zip(given[1:] + given[:1], pictures[way], strict=True)
            chance = [agreement(kind, *one, image) for one, image in moved]
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
