"""What a model that was trained to edit does to held-out drawings, beside baselines without training.

    python benchmarks/editing.py microforge-nano=runs/edit/1-edit/model
    python benchmarks/editing.py lrf-openmoji=runs/lrf/1-edit/model --tasks edit --pairs 200
    python benchmarks/editing.py microforge-nano:channels=runs/channels/1-edit/model

Before the = stands the model that its training started from, and behind a colon a suffix if there are several:
the former edits without training, beside copying the input and enlarging bicubically. Pairs are of concepts that no
training saw. Writes --output/benchmarks/editing.json (--output is docs), in which other models stay, and
--output/images/editing-MODEL.png. The training's last loss is read from beside the model, where it lies in its run.
Pictures generated from captions alone, before and after, are kept below --pictures, so that an interrupted run goes on.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import pochade
from measuring import GUIDED_THROUGHOUT, quality, write_png
from pochade.data.sources.pairs.openmoji import EDITS, OpenMojiPairs
from pochade.data.sources.pairs.pair import DIFFERENT, Pair
from pochade.evaluation.report import evaluate
from pochade.files import write_text
from pochade.images.canvas import resample
from pochade.images.decode import to_image, to_tensor
from pochade.images.sheets import sheet
from pochade.pipelines.super_resolution import agree

DOCS = Path(__file__).parents[1] / "docs"
BATCH = 25
SHOWN = 4
"""Pairs of each task on the sheet."""
FACTORS = (2, 4)
UNGUIDED = 1.0
"""Guidance scale of inpainting: more of it generates further from the average, and so from any one target."""
STRENGTH = 0.5
"""At which an instruction is tried as a description, by a model that was not trained for it."""
TASKS = ("inpaint", "super_resolution", "edit", "local", "generate")
LOCAL = "local"
"""The kind of edit that goes with a mask."""


def pictures(images: Sequence[Image.Image]) -> Tensor:
    """[n, 3, H, W] in [0, 1]."""
    return torch.stack([to_tensor(image) for image in images]) / 2 + 0.5


def psnr(one: Tensor, other: Tensor, where: Tensor | None = None) -> list[float]:
    """In dB, one for each picture of [n, 3, H, W] in [0, 1]; ``where`` [n, 1, H, W] marks the pixels that count."""
    weight = torch.ones_like(one[:, :1]) if where is None else where
    squares = ((one - other).square().mean(1, keepdim=True) * weight).flatten(1).sum(1)
    return (-10 * torch.log10((squares / weight.flatten(1).sum(1)).clamp_min(1e-10))).tolist()


def distances(one: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Between pictures, of the pixels that count: [n]."""
    return ((one - other) * where).flatten(1).norm(dim=1)


def mean(values: Sequence[float], name: str) -> dict[str, float]:
    """With its standard error."""
    array = np.array(values)
    return {name: float(array.mean()), f"{name} standard error": float(array.std(ddof=1) / len(array) ** 0.5)}


def in_batches(call: Callable[..., Any], count: int, *lists: Sequence[Any] | Tensor, seed: int) -> Tensor:
    """What a pipeline gives for the items of some lists, the i-th from a seed of its own."""
    parts: list[Tensor] = []
    for start in range(0, count, BATCH):
        rows = slice(start, min(start + BATCH, count))
        seeds = [torch.Generator().manual_seed(seed + i) for i in range(rows.start, rows.stop)]
        parts.append(call(*(values[rows] for values in lists), generator=seeds, output_type="pt").images)
    return torch.cat(parts)


def loaded(kind: str, folder: str) -> Any:
    """A pipeline that shows no bars of its own."""
    pipe = getattr(pochade, kind).from_pretrained(folder, **GUIDED_THROUGHOUT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(size: int, kinds: Sequence[str], count: int, seed: int) -> list[Pair]:
    """Pairs of held-out concepts, each of another drawing as far as there are so many."""
    data = OpenMojiPairs(size, "held_out", dict.fromkeys(kinds, 1.0))
    order = np.random.default_rng(seed).permutation(len(data))
    return [data.pair(int(order[i % len(order)]), np.random.default_rng([seed, i])) for i in range(count)]


def last_loss(log: Path) -> dict[str, float]:
    """The loss at the end of a training; nothing where there is no log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return {"loss": losses[-1]} if losses else {}


class Bench:
    """One trained model and the one that its training started from."""

    def __init__(self, name: str, folder: str, args: Any) -> None:
        self.name, self.folder, self.args = name, folder, args
        self.start = name.partition(":")[0]
        self.rows: list[dict[str, Any]] = []
        self.shown: list[tuple[Image.Image, str]] = []
        config = pochade.TextToImagePipeline.from_pretrained(folder)
        self.size, self.tasks = config.default_size, tuple(config.denoiser.config.tasks)

    def row(self, task: str, way: str, **figures: Any) -> None:
        self.rows.append({"model": self.name, "task": task, "way": way, **figures})
        print(json.dumps(self.rows[-1]), flush=True)

    def show(self, *columns: tuple[Tensor, str]) -> None:
        """A row of the sheet: pictures [3, H, W] in [0, 1] with what is written below them."""
        self.shown += [(to_image(2 * image - 1), text) for image, text in columns]

    def ways(self, kind: str) -> list[tuple[str, Any]]:
        return [("without training", loaded(kind, self.start)), ("trained", loaded(kind, self.folder))]

    def inpaint(self) -> None:
        pairs = drawn(self.size, ["inpaint"], self.args.pairs, self.args.seed)
        truth, prompts = pictures([pair.target for pair in pairs]), [pair.instruction for pair in pairs]
        masks = [pair.mask for pair in pairs]
        holes = torch.stack([torch.from_numpy(np.array(mask) >= 128)[None] for mask in masks]).float()
        grey = pictures([pair.source for pair in pairs])
        found = {"the hole as it is, grey": grey, "white": truth * (1 - holes) + holes}
        for way, pipe in self.ways("InpaintPipeline"):

            def call(prompt: Any, image: Any, mask: Any, pipe: Any = pipe, **options: Any) -> Any:
                steps = self.args.steps
                return pipe(prompt, image, mask, num_inference_steps=steps, guidance_scale=UNGUIDED, **options)

            found[way] = in_batches(call, len(pairs), prompts, truth, masks, seed=self.args.seed)
        for way, images in found.items():
            outside = float(((images - truth) * (1 - holes)).abs().max())
            self.row("inpaint", way, pairs=len(pairs), outside=outside, **mean(psnr(images, truth, holes), "psnr"))
        for i in range(SHOWN):
            self.show((grey[i], "inpaint"), (found["without training"][i], "without training"))
            self.show((found["trained"][i], prompts[i]), (truth[i], "target"))

    def super_resolution(self) -> None:
        pairs = drawn(self.size, ["inpaint"], self.args.pairs, self.args.seed + 1)
        truth = pictures([pair.target for pair in pairs])
        for factor in FACTORS:
            small = (F.avg_pool2d(truth, factor) * 255).round() / 255
            bicubic = resample(small, self.size, self.size)
            found = {"bicubic": bicubic, "bicubic, back-projected": agree(bicubic, small)}
            for way, pipe in self.ways("SuperResolutionPipeline"):

                def call(image: Any, pipe: Any = pipe, factor: int = factor, **options: Any) -> Any:
                    return pipe(image=image, factor=factor, num_inference_steps=self.args.steps, **options)

                found[way] = in_batches(call, len(pairs), small, seed=self.args.seed)
            for way, images in found.items():
                figures = mean(psnr(images, truth), "psnr")
                self.row("super_resolution", way, pairs=len(pairs), factor=factor, **figures)
        for i in range(SHOWN):
            self.show((bicubic[i], "4x, bicubic"), (found["without training"][i], "without training"))
            self.show((found["trained"][i], "trained"), (truth[i], "target"))

    def edit(self) -> None:
        pairs = drawn(self.size, [kind for kind in EDITS if kind != LOCAL], self.args.pairs, self.args.seed + 2)
        before, target = (pictures([getattr(p, side) for p in pairs]) for side in ("source", "target"))
        kinds, words = [pair.name.rpartition("-")[2] for pair in pairs], [pair.instruction for pair in pairs]
        calls = {
            "without training": lambda words, image, pipe, **options: pipe(words, image, STRENGTH, **options),
            "trained": lambda words, image, pipe, **options: pipe(
                instruction=words,
                image=image,
                guidance_scale=self.args.guidance,
                image_guidance_scale=self.args.image_guidance,
                **options,
            ),
        }
        found = {"the input": before}
        for way, pipe in self.ways("ImageToImagePipeline"):

            def call(*rows: Any, way: str = way, pipe: Any = pipe, **options: Any) -> Any:
                return calls[way](*rows, pipe=pipe, num_inference_steps=self.args.steps, **options)

            found[way] = in_batches(call, len(pairs), words, before, seed=self.args.seed)
        with torch.no_grad():
            latents = torch.cat([pipe.autoencoder.encode(part * 2 - 1) for part in target.split(BATCH)])
            found["the target, coded and decoded"] = torch.cat([pipe.decode_latents(z) for z in latents.split(BATCH)])
        untouched = ((before - target).abs().amax(1, keepdim=True) < DIFFERENT / 255).float()
        for way, images in found.items():
            distance = torch.cdist(images.flatten(1), target.flatten(1))
            right = distance.argmin(1) == torch.arange(len(pairs))
            nearer = distance.diagonal() < (images - before).flatten(1).norm(dim=1)
            self.row(
                "edit",
                way,
                pairs=len(pairs),
                **mean(right.double().tolist(), "R@1"),
                **mean(nearer.double().tolist(), "nearer"),
                **mean(psnr(images, target), "psnr"),
                **mean(psnr(images, before, untouched), "kept"),
                kinds={
                    kind: [float(nearer[[k == kind for k in kinds]].double().mean()), kinds.count(kind)]
                    for kind in sorted(set(kinds))
                },
            )
        for kind in sorted(set(kinds)):
            i = kinds.index(kind)
            self.show((before[i], "before"), (found["without training"][i], "without training"))
            self.show((found["trained"][i], words[i]), (target[i], "target"))

    def local(self) -> None:
        """One area recoloured, marked by the mask alone."""
        pairs = drawn(self.size, [LOCAL], self.args.pairs, self.args.seed + 3)
        before, target = (pictures([getattr(p, side) for p in pairs]) for side in ("source", "target"))
        words, masks = [pair.instruction for pair in pairs], [pair.mask for pair in pairs]
        marked = torch.stack([torch.from_numpy(np.array(mask) >= 128)[None] for mask in masks]).float()
        scales = {"guidance_scale": self.args.guidance, "image_guidance_scale": self.args.image_guidance}

        def call(pipe: Any, *rows: Any, **options: Any) -> Any:
            names = ("instruction", "image", "mask_image")[: len(rows)]
            steps = self.args.steps
            return pipe(**dict(zip(names, rows, strict=True)), num_inference_steps=steps, **scales, **options)

        inpainter, editor = (loaded(kind, self.folder) for kind in ("InpaintPipeline", "ImageToImagePipeline"))
        found = {
            "the input": before,
            "without the mask": in_batches(partial(call, editor), len(pairs), words, before, seed=self.args.seed),
            "trained": in_batches(partial(call, inpainter), len(pairs), words, before, masks, seed=self.args.seed),
        }
        for way, images in found.items():
            nearer = distances(images, target, marked) < distances(images, before, marked)
            self.row(
                "local",
                way,
                pairs=len(pairs),
                outside=float(((images - before) * (1 - marked)).abs().max()),
                **mean(nearer.double().tolist(), "nearer"),
                **mean(psnr(images, target, marked), "psnr"),
            )
        for i in range(SHOWN):
            self.show((before[i] * (0.4 + 0.6 * marked[i]), "marked"), (found["without the mask"][i], "without a mask"))
            self.show((found["trained"][i], words[i]), (target[i], "target"))

    def generate(self) -> None:
        for way, folder in (("before", self.start), ("after", self.folder)):
            pipe = loaded("TextToImagePipeline", folder)
            report = evaluate(
                pipe,
                "openmoji",
                samples=self.args.samples,
                steps=self.args.steps,
                guidance=pipe.default_guidance,
                out=self.args.pictures / f"{self.start if way == 'before' else self.name}-{way}",
                model=folder,
                progress=False,
            ).figures
            self.row("generate", way, **quality(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="MODEL=FOLDER of the trained model")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0, help="towards the words of an instruction")
    parser.add_argument("--image-guidance", type=float, default=1.5)
    parser.add_argument("--samples", type=int, default=375, help="pictures from captions, of both splits together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, default=Path("runs/editing"))
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    path = args.output / "benchmarks" / "editing.json"
    for item in args.models:
        name, _, folder = item.partition("=")
        bench = Bench(name, folder, args)
        for task in args.tasks:
            if task in (*bench.tasks, "generate") or (task == LOCAL and "edit" in bench.tasks):
                getattr(bench, task)()
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
        made = {(row["model"], row["task"]) for row in bench.rows}
        record["rows"] = [row for row in record["rows"] if (row["model"], row["task"]) not in made] + bench.rows
        settings = {"steps": args.steps, "guidance": args.guidance, "image guidance": args.image_guidance}
        record[name] = {"size": bench.size, **settings, **last_loss(Path(folder).parent / "metrics.jsonl")}
        write_text(path, json.dumps(record, indent=2) + "\n")
        if bench.shown:
            page = sheet(*(list(part) for part in zip(*bench.shown, strict=True)), columns=8, cell=bench.size)
            write_png(args.output / "images" / f"editing-{name.replace(':', '-')}.png", page)


if __name__ == "__main__":
    main()
