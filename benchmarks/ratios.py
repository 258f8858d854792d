"""What keeping the ratios of pictures gives a LoRA, beside cropping all to squares, at equal steps.

    python benchmarks/ratios.py runs/ratios

Makes captioned pictures of three ratios of drawings that the base knows: one alone (1:1), two above each other (3:5)
and two beside each other (5:3), trains a LoRA in buckets and one on squares, and measures both and the base at 256x256
and at 192x320, each on the held-out pictures of that shape. The held-out ones are pairs that were not seen, of concepts
that were. An interrupted run goes on. Writes docs/benchmarks/ratios.json and docs/images/ratios.webp.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evening import DOCS, adapted, pochade, slug
from measuring import GUIDED_THROUGHOUT, processor, quality
from pochade.data.cache.latents import cache_latents
from pochade.data.dataset import Dataset, Shape
from pochade.data.sources import open_source
from pochade.files import atomic_file, write_json
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.held_out import HeldOut
from pochade.training.stages.lora import LoRASettings, LoRATask
from pochade.training.stages.models import encoding_on, text_of

BASE, STYLE = "open-drawings", "openmoji style"
CONCEPTS, EACH, HELD_OUT = 300, 400, 80
"""How many drawings; pairs of each shape; and how many pictures of each shape are held out."""
UNIT = 96
"""Pixels of a third of a square's side."""
GRIDS: dict[str, tuple[Shape, str]] = {"square": ((3, 3), ""), "tall": ((3, 5), "above"), "wide": ((5, 3), "beside")}
"""Kind of picture -> its shape, and the word between two drawings."""
SIZES: dict[str, Shape] = {"square": (256, 256), "tall": (192, 320)}
"""What is measured, at which width and height."""
RUNS = {"squares": "data.ratios=none", "buckets": "data.ratios=2"}
SHOWN = 6


def picture(drawings: Dataset, kind: str, one: int, other: int) -> tuple[Image.Image, str]:
    """A picture of one or two drawings, and its caption."""
    (wide, high), word = GRIDS[kind]
    page = Image.new("RGB", (wide * UNIT, high * UNIT), "white")
    shown = [one, other] if word else [one]
    cell = page.width // (len(shown) if wide > high else 1), page.height // (len(shown) if high > wide else 1)
    side = min(cell)
    for place, index in enumerate(shown):
        at = (place * cell[0], 0) if wide > high else (0, place * cell[1])
        page.paste(drawings.image(index, side), (at[0] + (cell[0] - side) // 2, at[1] + (cell[1] - side) // 2))
    names = [drawings.item(index).captions[0].removesuffix(f", {STYLE}") for index in shown]
    return page, f"{f' {word} '.join(names)}, {STYLE}"


def compose(folder: Path) -> None:
    """The data: a folder of each kind of picture with its list."""
    drawings = open_source("drawings::sets=openmoji", "train")
    draw = random.Random(0)
    pool = draw.sample(range(len(drawings)), CONCEPTS)
    for kind in GRIDS:
        part = folder / kind
        part.mkdir(parents=True)
        pairs = [(one, one) for one in pool] if kind == "square" else [draw.sample(pool, 2) for _ in range(EACH)]
        lines: list[str] = []
        for number, (one, other) in enumerate(pairs):
            image, caption = picture(drawings, kind, one, other)
            name = f"{number:03}.png"
            image.save(part / name)
            split = "held_out" if number < HELD_OUT else "train"
            lines.append(json.dumps({"file_name": name, "text": caption, "split": split}))
        (part / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(name: str, options: argparse.Namespace) -> Path:
    """The folder of the base with the LoRA merged into it."""
    folder = options.out / slug(name)
    if not (folder / "1-lora" / "model").is_dir():
        steps = (f"steps={options.steps}", f"batch_size={options.batch}", "accumulate=1", "warmup_steps=20")
        quiet = ("sample_every=0", "log_every=20", "save_every=100", "keep=1", RUNS[name])
        data = f"data.source={options.out / 'data'}"
        pochade(folder, "train", "lora", f"task.base={BASE}", data, *steps, *quiet, "--out", str(folder), "--resume")
    if not (folder / "merged").is_dir():
        adapter = str(folder / "1-lora" / "model")
        pochade(options.out / "merging", "merge", BASE, "--lora", adapter, "-o", str(folder / "merged"))
    return folder / "merged"


def losses(model: str, out: Path) -> dict[str, float]:
    """The error of the velocity on the held-out pictures of each shape, with the same noises for all models."""
    pipeline = TextToImagePipeline.from_pretrained(model, **GUIDED_THROUGHOUT)
    task = LoRATask(pipeline.denoiser, LoRASettings(base=BASE)).eval()
    found: dict[str, float] = {}
    device = torch.device("cpu")
    with encoding_on(device, pipeline.autoencoder, text_of(pipeline)) as encoders:
        for kind, shape in SIZES.items():
            data = open_source(str(out / "data" / kind), "held_out")
            samples = cache_latents(data, shape, encoders, out / "cache", progress=False)
            found[kind] = HeldOut(samples, 8, device).loss(task)
    return found


def measure(name: str, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the record."""
    folder = options.out / slug(name)
    row: dict[str, Any] = {"name": name, "losses": losses(model, options.out)}
    spent = folder / "processor.json"
    if spent.is_file():
        row |= json.loads(spent.read_text()) | {"trained parameters": adapted(folder)}
    for kind, (width, height) in SIZES.items():
        out = folder / f"report-{kind}"
        if not (out / "report.json").is_file():
            about = ("--size", f"{width}x{height}", "--samples", str(options.samples), "--device", "cpu")
            data = str(options.out / "data" / kind)
            pochade(options.out / "evaluating", "evaluate", model, data, *about, "-o", str(out))
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        retrieval = report["held_out"]["retrieval"]
        real = {"R@1 real": retrieval["real"]["R@1"], "R@1 error": retrieval["generated"]["R@1 standard error"]}
        row[kind] = quality(report) | real
    return row


def shown(models: dict[str, str], data: Dataset) -> Image.Image:
    """Held-out pictures of the tall shape, and what each model makes of their captions."""
    width, height = SIZES["tall"]
    captions = [data.item(index).captions[0] for index in range(SHOWN)]
    pictures = [data.fitted(index, width, height) for index in range(SHOWN)]
    for model in models.values():
        pipeline = TextToImagePipeline.from_pretrained(model, **GUIDED_THROUGHOUT)
        pipeline.set_progress_bar_config(disable=True)
        drawn = [torch.Generator().manual_seed(seed) for seed in range(SHOWN)]
        pictures += pipeline(captions, width=width, height=height, generator=drawn).images
    labels = [caption.removesuffix(f", {STYLE}") for caption in captions]
    labels += [name for name in models for _ in captions]
    return sheet(pictures, labels, columns=SHOWN, cell=height // 2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=HELD_OUT, help="captions of each split")
    parser.add_argument("--output", type=Path, default=DOCS / "ratios.json")
    options = parser.parse_args(arguments)
    if not (options.out / "data").is_dir():
        compose(options.out / "making")
        (options.out / "making").rename(options.out / "data")
    counts = {kind: len(open_source(str(options.out / "data" / kind), "train")) for kind in GRIDS}
    models = {"base": BASE} | {name: str(train(name, options)) for name in RUNS}
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        rows.append(measure(name, model, options))
        print(json.dumps(rows[-1]), flush=True)
    about = {"base": BASE, "processor": processor(), "steps": options.steps, "batch": options.batch}
    about |= {"samples": options.samples, "pictures": counts, "sizes": SIZES}
    write_json(options.output, about | {"rows": rows})
    with atomic_file(DOCS.parent / "images" / "ratios.webp") as file:
        data = open_source(str(options.out / "data" / "tall"), "held_out")
        shown(models, data).save(file, format="WEBP", quality=85)


if __name__ == "__main__":
    main()
