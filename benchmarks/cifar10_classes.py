"""What a run of ``lrf-cifar10`` gave: loss, minutes, reconstruction, and KID (Lite0) by class.

    python benchmarks/cifar10_stand_in.py stand-in.tar.gz
    pochade train lrf-cifar10 data.source=cifar10:stand-in.tar.gz --out runs/stand-in
    python benchmarks/cifar10_classes.py runs/stand-in cifar10:stand-in.tar.gz

Of each class as many pictures are generated as are compared of the training and of the test batches. Writes
docs/benchmarks/cifar10_classes.json and docs/images/cifar10-classes.png.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from measuring import processor, write_png
from pochade.data.progress import progress_bar
from pochade.data.sources import open_source
from pochade.evaluation.kid import kid
from pochade.evaluation.pictures import pooled_features, to_pil, to_uint8
from pochade.evaluation.reconstruction import psnr
from pochade.features.lite0 import load_lite0
from pochade.files import write_json
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs"
STAGE = "2-flow"
STEPS, GUIDANCE, INTERVAL = 20, 3.0, (0.4, 0.8)
BATCH = 100
SHOWN = 12
"""Pictures of each class on the sheet."""
LAST = 4
"""The loss is the mean over the last of so many parts of the training."""


def generated(pipe: TextToImagePipeline, name: str, count: int, seed: int) -> Tensor:
    """uint8 [count, 3, 32, 32] of a class."""
    parts: list[Tensor] = []
    for start in range(0, count, BATCH):
        rows = range(start, min(start + BATCH, count))
        images = pipe(
            [name] * len(rows),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            guidance_interval=INTERVAL,
            generator=[torch.Generator().manual_seed(seed + i) for i in rows],
            output_type="pt",
        ).images
        parts.append((images * 255).round().to(torch.uint8))
    return torch.cat(parts)


def training(run: Path) -> dict[str, float]:
    """Loss and time of the denoiser, from its log."""
    lines = [json.loads(line) for line in (run / STAGE / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "seconds_per_step" in line]
    steps = lines[-1]["step"]
    return {
        "steps": steps,
        "loss": fmean(line["loss"] for line in lines if line["step"] > steps * (1 - 1 / LAST)),
        "seconds per step": min(line["seconds_per_step"] for line in lines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--pictures", type=int, default=500, help="of each class")
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(args.run / STAGE / "model")
    pipe.set_progress_bar_config(disable=True)
    net = load_lite0()
    random = np.random.default_rng(0)
    sides = {"train": open_source(args.data, "train"), "test": open_source(args.data, "held_out")}
    of_class = {side: np.array([data.item(i).label for i in range(len(data))]) for side, data in sides.items()}
    rows: list[dict[str, Any]] = []
    shown: list[tuple[Image.Image, str]] = []
    features: dict[str, list[Tensor]] = {"train": [], "test": [], "made": []}
    with progress_bar(True) as bar:
        task = bar.add_task("classes", total=len(sides["train"].classes))
        for label, name in enumerate(sides["train"].classes):
            made = generated(pipe, name, args.pictures, label * args.pictures)
            shown += [(to_pil(image), "" if i else name) for i, image in enumerate(made[:SHOWN])]
            row: dict[str, Any] = {"class": name}
            features["made"].append(pooled_features(net, made))
            for side, data in sides.items():
                chosen = random.permutation(np.flatnonzero(of_class[side] == label))[: args.pictures]
                real = torch.stack([to_uint8(data.image(int(i), 32)) for i in chosen])
                features[side].append(pooled_features(net, real))
                row[side], row[f"{side} std"] = kid(features[side][-1], features["made"][-1])
            rows.append(row)
            bar.advance(task)
    together = {name: torch.cat(parts) for name, parts in features.items()}
    test = sides["test"]
    images = torch.stack([to_uint8(test.image(i, 32)) for i in random.permutation(len(test))[: args.pictures].tolist()])
    pixels = images.float() / 127.5 - 1
    autoencoder: Any = pipe.autoencoder
    with torch.no_grad():
        decoded = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in pixels.split(BATCH)])
    record: dict[str, Any] = {
        "data": Path(args.data).name,
        "processor": processor(),
        **training(args.run),
        "sampling": {"steps": STEPS, "guidance": GUIDANCE, "guidance_interval": INTERVAL},
        "pictures of each class": args.pictures,
        "autoencoder psnr": float(psnr(decoded.clamp(-1, 1), pixels).mean()),
        "autoencoder parameters": sum(p.numel() for p in autoencoder.parameters()),
        "classes": rows,
    }
    for side in sides:
        record[side], record[f"{side} std"] = kid(together[side], together["made"])
    record["test beside train"], _ = kid(together["train"], together["test"])
    write_json(args.output / "benchmarks" / "cifar10_classes.json", record)
    write_png(
        args.output / "images" / "cifar10-classes.png",
        sheet(*(list(part) for part in zip(*shown, strict=True)), columns=SHOWN, cell=64),
    )
    print(json.dumps({name: value for name, value in record.items() if name != "classes"}))


if __name__ == "__main__":
    main()
