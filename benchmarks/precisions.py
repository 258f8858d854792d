"""What smaller weights do to pictures: PSNR and KID of a bundle's pictures from those of the same model in float32.

    python benchmarks/conversions.py open-drawings --only onnx
    python benchmarks/precisions.py open-drawings [--pictures 50] [--work build/runtimes]

Captions of OpenMoji in the model's styles, one seed each, four steps. *Another seed* is float32 with other noise: how
far pictures of the same captions are from each other anyway. KID compares one half of the captions in float32 with the
other half in each precision, float32 itself among them: its estimate holds for independent pictures alone, and is below
zero for pairs. Into docs/benchmarks/precisions.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pochade.arguments import EVERYWHERE
from pochade.data.sources import open_source
from pochade.evaluation.kid import kid
from pochade.evaluation.pictures import pooled_features
from pochade.export.samples import psnr
from pochade.features.lite0 import load_lite0
from pochade.files import write_json
from pochade.runtime import Bundle
from runtimes import MODELS, ROOT, STEPS, place, size

PRECISIONS = ("fp32", "int8", "w8a16")


def pictures(folder: Path, prompts: list[str], threads: int, seed: int = 0) -> np.ndarray:
    """[N, H, W, 3] in bytes."""
    bundle = Bundle(folder, threads=threads)
    made = [
        bundle.generate(prompt, seed=seed + i, steps=STEPS, guidance_interval=EVERYWHERE)
        for i, prompt in enumerate(prompts)
    ]
    return np.stack([np.asarray(picture.image) for picture in made])


def captions(count: int, styles: tuple[str, ...]) -> list[str]:
    """So many captions, spread over the data, each with a style where there are such."""
    data = open_source("openmoji")
    chosen = [data.item(i).captions[0] for i in range(0, len(data), len(data) // count)][:count]
    return [f"{text}, {styles[i % len(styles)]} style" if styles else text for i, text in enumerate(chosen)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS[:1], metavar="MODEL")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "runtimes", help="folder of the bundles")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "precisions.json")
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    net = load_lite0()

    def features(images: np.ndarray) -> torch.Tensor:
        return pooled_features(net, torch.from_numpy(images).permute(0, 3, 1, 2))

    for model in options.models:
        places = {name: place(options.work, model, "onnx", name) for name in PRECISIONS}
        prompts = captions(options.pictures, Bundle(places["fp32"]).manifest.model.styles)
        made = {name: pictures(at, prompts, options.threads) for name, at in places.items() if at.exists()}
        made["another seed"] = pictures(places["fp32"], prompts, options.threads, seed=10_000)
        exact = made["fp32"]
        rows: dict[str, Any] = {}
        for name, images in made.items():
            each = sorted(psnr([a], [b]) or 0.0 for a, b in zip(exact, images, strict=True))
            mean, std = kid(features(exact[::2]), features(images[1::2]))
            rows[name] = {"psnr": psnr([*exact], [*images]), "median_psnr": each[len(each) // 2]}
            rows[name] |= {"kid": mean, "kid_std": std}
            if name in places:
                rows[name]["disk_mb"] = size(places[name])
            print(model, name, rows[name], flush=True)
        record[model] = {"pictures": len(prompts), "steps": STEPS, "rows": rows}
        write_json(options.out, record)


if __name__ == "__main__":
    main()
