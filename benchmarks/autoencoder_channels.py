"""How many latent channels? Autoencoders with C = 4, 8 and 16 trained on OpenMoji for the same number of steps.

Everything but C is the same, so the cost is the same within 1 %. Prints and writes a table of held-out PSNR.

    python benchmarks/autoencoder_channels.py --steps 1500
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from pochade.data.sources.openmoji import OpenMoji
from pochade.features.lite0 import load_lite0
from pochade.features.perceptual import PerceptualLoss
from pochade.files import write_text
from pochade.images.decode import to_tensor
from pochade.training.stages.autoencoder import AutoencoderSettings, AutoencoderTask, build_autoencoder

BATCH = 4


def train(channels: int, steps: int, data: OpenMoji, held_out: torch.Tensor, threads: int) -> dict[str, float]:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    settings = AutoencoderSettings(latent_channels=channels)
    autoencoder = build_autoencoder(settings)
    perceptual = PerceptualLoss(load_lite0())
    task = AutoencoderTask(autoencoder, settings, perceptual)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), 2e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 100) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    groups = list(data.groups().values())
    start = time.perf_counter()
    for step in range(steps):
        rng = np.random.default_rng([0, step])
        variants = [groups[i][int(rng.integers(len(groups[i])))] for i in rng.integers(len(groups), size=BATCH)]
        rows = [to_tensor(data.image(i, 64)) for i in variants]
        batch = {"image": torch.stack(rows), "seed": torch.arange(BATCH) + step * BATCH}
        out = task(batch)
        out["loss"].backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(
                f"C={channels} step {step} psnr {float(out['psnr']):.2f} {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    with torch.no_grad():
        error = torch.cat([(autoencoder(x).clamp(-1, 1) - x).square().mean((1, 2, 3)) for x in held_out.split(32)])
        distance = torch.stack([perceptual(autoencoder(x), x) for x in held_out.split(32)]).mean()
    return {
        "channels": channels,
        "parameters": sum(p.numel() for p in autoencoder.parameters()),
        "steps": steps,
        "seconds": time.perf_counter() - start,
        "held_out_psnr": float((10 * torch.log10(4 / error)).mean()),
        "perceptual": float(distance),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--channels", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/autoencoder_channels.json"))
    arguments = parser.parse_args()
    data, held = OpenMoji("train"), OpenMoji("held_out")
    held_out = torch.stack([to_tensor(held.image(variants[0], 64)) for variants in held.groups().values()])
    rows = [train(c, arguments.steps, data, held_out, arguments.threads) for c in arguments.channels]
    write_text(arguments.out, json.dumps(rows, indent=1) + "\n")
    for row in rows:
        figures = f"{row['held_out_psnr']:.2f} dB, perceptual {row['perceptual']:.3f}, {row['seconds']:.0f} s"
        print(f"C = {row['channels']:2d}: {figures}")


if __name__ == "__main__":
    main()
