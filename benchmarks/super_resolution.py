"""How near an enlarged picture comes to the one that was made smaller: bicubic, back-projected, generated.

    python benchmarks/super_resolution.py
    python benchmarks/super_resolution.py --model lira-nano --strengths 0.2 --pictures 64

Held-out OpenMoji drawings of 128 x 128 pixels are made smaller by the mean of blocks, rounded to bytes, and enlarged
again. Each model is run with its input kept at every step, the first one also without that, and its autoencoder alone.
KID (Lite0) is that between the results and the originals. Writes docs/benchmarks/super_resolution.json and .md.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import pochade
from pochade.data.sources.openmoji import OpenMoji
from pochade.evaluation.kid import kid
from pochade.features.lite0 import load_lite0
from pochade.files import write_text
from pochade.images.canvas import resample
from pochade.images.decode import to_tensor
from pochade.pipelines.super_resolution import agree

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
SIZE = 128
BATCH = 16
ROUNDS = 5
"""How often an autoencoder alone encodes and decodes, and the result is made to agree with the input."""
MARGIN = 32
"""Pixels beyond the border that an autoencoder alone sees, of the border's colours."""


class AtTheEndAlone(pochade.SuperResolutionPipeline):
    """What is predicted at a step need not agree with the input; the start and the result do."""

    def _edit(self, canvas: Tensor, call: Any, **options: Any) -> Tensor:
        return super()._edit(canvas, call, **{**options, "constrain": None})


@torch.no_grad()
def by_autoencoder(autoencoder: Any, small: Tensor) -> Tensor:
    """What an autoencoder makes of enlarged pictures [B, 3, h, w] in [0, 1] without a denoiser: [B, 3, SIZE, SIZE]."""
    large = agree(resample(small, SIZE, SIZE), small)
    for _ in range(ROUNDS):
        wide = F.pad(large, (MARGIN,) * 4, mode="replicate") * 2 - 1
        decoded = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in wide.split(BATCH)]) / 2 + 0.5
        large = agree(decoded.clamp(0, 1)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN], small)
    return large


def psnr(images: Tensor, truth: Tensor) -> list[float]:
    """In dB, one for each picture of [B, 3, H, W] in [0, 1]."""
    return (-10 * torch.log10((images - truth).square().flatten(1).mean(1))).tolist()


def row(
    name: str, factor: int, strength: float | None, images: Tensor, truth: Tensor, features: Callable[[Tensor], Tensor]
) -> dict[str, object]:
    """A line of the table."""
    values = np.array(psnr(images, truth))
    error = values.std(ddof=1) / len(values) ** 0.5
    mean, std = kid(features(truth), features(images))
    found = {"name": name, "factor": factor, "strength": strength, "psnr": values.mean(), "standard_error": error}
    found |= {"kid": mean, "kid_std": std}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["iris-nano", "lrf-openmoji", "lira-nano"])
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.2, 0.4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data = OpenMoji("held_out")
    chosen = np.linspace(0, len(data.groups()) - 1, args.pictures).astype(int)
    truth = torch.stack([to_tensor(data.image(int(i), SIZE)) for i in chosen]) / 2 + 0.5
    network = load_lite0()

    def features(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([network.pooled(part * 2 - 1) for part in images.split(BATCH)])

    rows: list[dict[str, object]] = []
    small = {factor: (F.avg_pool2d(truth, factor) * 255).round() / 255 for factor in (2, 4)}
    for factor, input_ in small.items():
        bicubic = resample(input_, SIZE, SIZE)
        rows.append(row("bicubic", factor, None, bicubic, truth, features))
        rows.append(row("bicubic, back-projected", factor, None, agree(bicubic, input_), truth, features))
    ways: list[tuple[str, str, type[pochade.SuperResolutionPipeline]]] = [
        (f"{args.model[0]}, input kept at the end alone", args.model[0], AtTheEndAlone),
        *((name, name, pochade.SuperResolutionPipeline) for name in args.model),
    ]
    for title, name, kind in ways:
        pipe = kind.from_pretrained(name)
        pipe.set_progress_bar_config(disable=True)
        for factor, input_ in small.items():
            if kind is pochade.SuperResolutionPipeline:
                enlarged = by_autoencoder(pipe.autoencoder, input_)
                rows.append(row(f"{name}, autoencoder alone", factor, None, enlarged, truth, features))
            for strength in args.strengths:
                parts = [
                    pipe(
                        image=part,
                        factor=factor,
                        strength=strength,
                        num_inference_steps=args.steps,
                        generator=torch.Generator().manual_seed(args.seed + BATCH * n),
                        output_type="pt",
                    ).images
                    for n, part in enumerate(input_.split(BATCH))
                ]
                rows.append(row(title, factor, strength, torch.cat(parts), truth, features))

    record = {"pictures": args.pictures, "size": SIZE, "steps": args.steps, "rows": rows}
    write_text(DOCS / "super_resolution.json", json.dumps(record, indent=1) + "\n")
    lines = [
        "# Super-resolution without training",
        "",
        f"`python benchmarks/super_resolution.py` repeats this page. {args.pictures} held-out drawings of OpenMoji of "
        f"{SIZE} x {SIZE} pixels, made smaller by the",
        f"mean of blocks and enlarged again in {args.steps} steps: PSNR in dB, mean and its standard error; KID "
        "(Lite0) between results and originals, and its",
        "standard deviation over subsets.",
        "",
        "| | strength | 2x | KID | 4x | KID |",
        "|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["name"], r["strength"]) for r in rows):
        cells = {
            r["factor"]: f"{r['psnr']:.2f} ± {r['standard_error']:.2f} | {r['kid']:.3f} ± {r['kid_std']:.3f}"
            for r in rows
            if key == (r["name"], r["strength"])
        }
        lines.append(f"| {key[0]} | {'-' if key[1] is None else key[1]} | {cells[2]} | {cells[4]} |")
    write_text(DOCS / "super_resolution.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
