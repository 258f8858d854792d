"""Whether the convolution beside each scan of MicroForge hides the scan's path: depthwise kernels of 3, 5 and 7.

    python benchmarks/microforge_kernels.py runs/kernels

Trains ``nano`` without the convolution and with each kernel on the same latents, batches and noises, and takes the
power spectrum of what each block's scan and convolution add to the tokens, along its path (rows or columns) and across
it, on held-out latents. A scan's neighbours along the path are its neighbours in time, those across are up to two rows
away: where the path shows, the two spectra differ. The same of the error of the velocity, along rows and along columns.
Writes docs/benchmarks/microforge_kernels.json, and what is trained to the folder named, where an interrupted call goes
on.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evening import DOCS, pochade
from measuring import processor
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.data.sources import open_source
from pochade.files import write_json
from pochade.flow.path import velocity
from pochade.nn.zigzag_scan import ZigzagScan
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.loader import draw
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow
from pochade.training.stages.models import encoding_on, text_of

DATA, AUTOENCODER = "drawings::sets=openmoji", "lrf-openmoji"
KERNELS = (0, 3, 5, 7)
"""0: no convolution."""
BATCH, BATCHES = 16, 8
"""Held-out samples at a time, and how often."""


def spectrum(values: Tensor, axis: int) -> Tensor:
    """Power at the frequencies 1 to N / 2 along an axis of [B, D, H, W], as shares of all of it: [N / 2]."""
    power = torch.fft.rfft(values.double(), dim=axis).abs().square().movedim(axis, -1)[..., 1:]
    power[..., :-1] *= 2  # the last frequency has no twin
    total = power.sum(dim=tuple(range(power.ndim - 1)))
    return total / total.sum()


class Watched:
    """The spectra of what the scans of a network give, along their paths and across, while it is watched."""

    def __init__(self, denoiser: Any) -> None:
        self.along: list[Tensor] = []
        self.across: list[Tensor] = []
        self.handles = [
            module.register_forward_hook(self.see) for module in denoiser.modules() if isinstance(module, ZigzagScan)
        ]

    def see(self, module: ZigzagScan, inputs: tuple[Any, ...], output: Tensor) -> None:
        height, width = inputs[1:3]
        grid = output.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        rows, columns = spectrum(grid, 3), spectrum(grid, 2)
        both = (columns, rows) if module.path.startswith("columns") else (rows, columns)
        self.along.append(both[0])
        self.across.append(both[1])


def train(kernel: int, options: argparse.Namespace) -> Path:
    folder = options.out / str(kernel)
    if not (folder / "1-flow" / "model").is_dir():
        if not (folder / "cache").is_dir():
            shutil.copytree(options.out / "encoding" / "cache", folder / "cache")
        chosen = f"depthwise_kernel={kernel}" if kernel else "depthwise=false"
        changes = (f"data.source={DATA}", f"data.size={options.size}", f"task.options={chosen}")
        steps = (f"steps={options.steps}", f"batch_size={options.batch}", "warmup_steps=50", "sample_every=0")
        shared = ("log_every=50", "save_every=100", "keep=1", f"seed={options.seed}")
        pochade(folder, "train", "denoiser", *changes, *steps, *shared, "--out", str(folder), "--resume")
    return folder / "1-flow"


@torch.no_grad()
def measure(kernel: int, options: argparse.Namespace, held_out: CachedLatents) -> dict[str, Any]:
    """A row of the record."""
    run = train(kernel, options)
    denoiser: Any = TextToImagePipeline.from_pretrained(str(run / "model")).denoiser
    settings = FlowSettings("microforge", "nano", time_shift=2.0)
    task, watched = FlowTask(denoiser, settings).eval(), Watched(denoiser)
    errors: list[Tensor] = []
    for number in range(BATCHES):
        batch = draw(held_out, 0, range(number * BATCH, (number + 1) * BATCH), BATCH)
        flow = draw_flow(batch["latents"], batch["seed"], settings)
        errors.append(task.predict(batch, flow).velocity - velocity(batch["latents"], flow.eps))
    error = torch.cat(errors)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "kernel": kernel,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "held-out loss": [line["held_out_loss"] for line in lines if "held_out_loss" in line][-1],
        "error": float(error.square().mean()),
        "along": torch.stack(watched.along).mean(0).tolist(),
        "across": torch.stack(watched.across).mean(0).tolist(),
        "error along rows": spectrum(error, 3).tolist(),
        "error along columns": spectrum(error, 2).tolist(),
        **json.loads((options.out / str(kernel) / "processor.json").read_text()),
    }


def encode(options: argparse.Namespace) -> CachedLatents:
    """The held-out latents; those of both splits are encoded once for all runs."""
    pipeline = TextToImagePipeline.from_pretrained(AUTOENCODER)
    folder = options.out / "encoding" / "cache"
    with encoding_on(torch.device("cpu"), pipeline.autoencoder, text_of(pipeline)) as encoders:
        sides = [cache_latents(open_source(DATA, s), options.size, encoders, folder) for s in ("train", "held_out")]
    return sides[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DOCS / "microforge_kernels.json")
    options = parser.parse_args(arguments)
    held_out = encode(options)
    rows: list[dict[str, Any]] = []
    for kernel in KERNELS:
        rows.append(measure(kernel, options, held_out))
        print(json.dumps(rows[-1]), flush=True)
    about = {name: getattr(options, name) for name in ("steps", "batch", "size", "seed")}
    write_json(options.output, {**about, "data": DATA, "processor": processor(), "rows": rows})


if __name__ == "__main__":
    main()
