"""Linear layers by oneDNN beside torch's own product (MKL on x86), alone and within steps of the families.

    python benchmarks/linear.py

Both sides run in one process, in turn; times are the least of the rounds. Writes docs/benchmarks/linear.json.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pochade.nn.linear as layers
from measuring import processor, timed
from pochade.allocator import keep_freed_memory
from pochade.denoisers import build
from pochade.files import write_text
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
PRODUCTS = ((16, 224, 672), (64, 224, 1216), (256, 224, 1216), (1024, 608, 224), (4096, 224, 672), (4096, 512, 1536))
"""Rows, columns in and out, as in LRF ``nano`` and a network of twice its width."""
FAMILIES = ("lrf", "lira", "microforge", "iris")
TOKENS = (64, 256, 1024)
BATCH = {"lrf": 64, "lira": 16, "microforge": 32, "iris": 16}
"""Of a training step of 64 tokens."""


def least(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each side."""
    for step in sides.values():
        step()
    found = dict.fromkeys(sides, math.inf)
    for _ in range(rounds):
        for name, step in sides.items():
            found[name] = min(found[name], 1e3 * timed(step, "cpu"))
    return found


def products(rounds: int) -> list[dict[str, Any]]:
    """A product and its two gradients."""
    rows: list[dict[str, Any]] = []
    for count, inner, outer in PRODUCTS:
        x, weight, bias = torch.randn(count, inner), torch.randn(outer, inner), torch.randn(outer)
        grad = torch.randn(count, outer)
        pairs: dict[str, dict[str, Callable[[], Tensor]]] = {
            "forward": {
                "torch": lambda x=x, w=weight, b=bias: F.linear(x, w, b),
                "oneDNN": lambda x=x, w=weight, b=bias: layers.onednn_linear(x, w, b),
            },
            "of the input": {
                "torch": lambda g=grad, w=weight: g @ w,
                "oneDNN": lambda g=grad, w=weight: layers.onednn_linear(g, w.t()),
            },
            "of the weights": {
                "torch": lambda g=grad, x=x: g.t() @ x,
                "oneDNN": lambda g=grad, x=x: layers.transposed_product(g, x),
            },
        }
        for name, sides in pairs.items():
            found = least(sides, 10 * rounds)
            rows.append({"rows": count, "in": inner, "out": outer, "what": name, **found})
            print(rows[-1], flush=True)
    return rows


def of_family(family: str, tokens: int, batch: int) -> tuple[torch.nn.Module, Callable[[], Tensor]]:
    """A network and a call of it."""
    config = build(family, "nano").config
    side = math.isqrt(tokens) * config["patch_size"]
    network = build(family, "nano", sample_size=side)
    latents, text = torch.randn(batch, config["latent_channels"], side, side), torch.randn(batch, 16, 384)
    conditioning = Conditioning(tokens=text, mask=torch.ones(batch, 16, dtype=torch.bool), pooled=text.mean(1))
    t = torch.full((batch,), 0.5)
    return network, lambda: network(latents, t, conditioning).velocity


def chosen(*, onednn: bool, step: Callable[[], object]) -> Callable[[], object]:
    """The step with one of the products."""

    def run() -> object:
        layers.AMD_VECTORS = onednn
        return step()

    return run


def steps(rounds: int) -> list[dict[str, Any]]:
    """A forward pass of one picture, and a training step."""
    rows: list[dict[str, Any]] = []
    for family in FAMILIES:
        for tokens in TOKENS:
            with torch.no_grad():
                step = of_family(family, tokens, 1)[1]
                rows.append({"family": family, "what": "forward", "tokens": tokens, "batch": 1, **both(step, rounds)})
            print(rows[-1], flush=True)
        network, forward = of_family(family, 64, BATCH[family])
        optimiser = torch.optim.AdamW(network.parameters(), fused=True)

        def train(forward: Callable[[], Tensor] = forward, optimiser: torch.optim.Optimizer = optimiser) -> None:
            forward().square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()

        found = both(train, max(3, rounds // 2))
        rows.append({"family": family, "what": "training step", "tokens": 64, "batch": BATCH[family], **found})
        print(rows[-1], flush=True)
    return rows


def both(step: Callable[[], object], rounds: int) -> dict[str, float]:
    """Milliseconds by torch's product and by oneDNN's."""
    return least({"torch": chosen(onednn=False, step=step), "oneDNN": chosen(onednn=True, step=step)}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    keep_freed_memory(None)
    torch.manual_seed(0)
    record = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "products": products(args.rounds),
        "steps": steps(args.rounds),
    }
    write_text(DOCS / "linear.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
