"""What it costs to take memory from the system at every call, beside memory that was freed and kept.

    python benchmarks/allocator.py

Each row is a process of its own, with the C library as it is and with what pochade sets (``pochade.allocator``), in
turn. Time is the mean of the calls of a process; of the rounds the median is shown, since blocks that are taken anew in
one process may by chance be kept in the next. Writes docs/benchmarks/allocator.json.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from measuring import processor
from pochade.allocator import KEPT, keep_freed_memory
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.denoisers import build
from pochade.files import write_text
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
SECONDS = 3.0
"""Calls of a process take so long together."""


def of_denoiser(family: str, variant: str, tokens: int, batch: int = 1) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """A network and a call of it."""
    network = build(family, variant)
    side = math.isqrt(tokens) * network.config["patch_size"]
    network = build(family, variant, sample_size=side)
    latents, text = torch.randn(batch, network.config["latent_channels"], side, side), torch.randn(batch, 16, 384)
    conditioning = Conditioning(tokens=text, mask=torch.ones(batch, 16, dtype=torch.bool), pooled=text.mean(1))
    return network, lambda: network(latents, torch.full((batch,), 0.5), conditioning).velocity


def step(family: str, variant: str, tokens: int) -> Callable[[], object]:
    return torch.no_grad()(of_denoiser(family, variant, tokens)[1])


def decode(pixels: int) -> Callable[[], object]:
    network = TinyAutoencoder().eval()
    latents = torch.randn(1, network.config["latent_channels"], pixels // 8, pixels // 8)
    return torch.no_grad()(lambda: network.decode(latents))


def training(network: nn.Module, forward: Callable[[], torch.Tensor]) -> Callable[[], object]:
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)

    def run() -> None:
        forward().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


def train_autoencoder(pixels: int, batch: int) -> Callable[[], object]:
    network, pictures = TinyAutoencoder(), torch.rand(batch, 3, pixels, pixels)
    return training(network, lambda: network.decode(network.encode(pictures)))


CASES: dict[str, tuple[Callable[[], Callable[[], object]], int | None]] = {
    "step of LRF `nano`, 1,024 tokens": (lambda: step("lrf", "nano", 1024), KEPT),
    "step of LiRA `tiny`, 1,024 tokens": (lambda: step("lira", "tiny", 1024), KEPT),
    "step of MicroForge `nano`, 1,024 tokens": (lambda: step("microforge", "nano", 1024), KEPT),
    "decoding 256 px, tiny autoencoder": (lambda: decode(256), KEPT),
    "training step of LRF `nano`, 64 x 64 tokens": (lambda: training(*of_denoiser("lrf", "nano", 64, 64)), None),
    "training step of the tiny autoencoder, 8 x 128 px": (lambda: train_autoencoder(128, 8), None),
}
"""What is measured -> what makes a call, and the memory that pochade keeps in such a process."""


def measure(name: str, *, kept: bool) -> dict[str, float]:
    """A case in this process."""
    make, most = CASES[name]
    if kept:
        keep_freed_memory(most)
    torch.manual_seed(0)
    call = make()
    for _ in range(3):
        call()
    before, start, calls = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        call()
        calls += 1
    seconds, after = (time.perf_counter() - start) / calls, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": 1e3 * seconds,
        "pages": (after.ru_minflt - before.ru_minflt) / calls,
        "peak_megabytes": after.ru_maxrss * 1024 / 1e6,
    }


def middle(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The round of the median time."""
    return sorted(rounds, key=lambda found: found["ms"])[len(rounds) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case is not None:
        name, side = args.case
        print(json.dumps(measure(name, kept=side == "kept")))
        return
    rows: dict[str, Any] = {}
    for name in CASES:
        found: dict[str, list[dict[str, float]]] = {"taken anew": [], "kept": []}
        for _ in range(args.rounds):
            for side, measured in found.items():
                command = [sys.executable, __file__, "--case", name, side]
                measured.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        rows[name] = {side: middle(measured) for side, measured in found.items()}
        print(name, rows[name], flush=True)
    about = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
    write_text(DOCS / "allocator.json", json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
