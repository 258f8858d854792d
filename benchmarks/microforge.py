"""MicroForge's memory at 512 px beside what the published design names, and what its kinds of modulation cost.

    python benchmarks/microforge.py

Writes docs/benchmarks/microforge.json. Weights are those of denoiser and decoder in float16 (no text encoder, as
there); activations the most that a step or the decoder holds in tensors, measured in float32 and halved.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from measuring import counted, processor, timed, write
from pochade import denoisers
from pochade.evaluation.profile.models import load, open_gates
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
PUBLISHED = {"tiny": 76, "small": 308, "base": 530}
"""MB at 512 px in float16, without a text encoder."""
TEXT_TOKENS = 64
ROUNDS = 20


def call(denoiser: Any, side: int) -> Any:
    """A step of one picture, as a function of nothing."""
    config = denoiser.config
    words = torch.randn(1, TEXT_TOKENS, config.text_dim)
    told = Conditioning(words, torch.ones(1, TEXT_TOKENS, dtype=torch.bool), torch.randn(1, config.pooled_dim))
    latents, t = torch.randn(1, config.latent_channels, side, side), torch.full((1,), 0.5)
    state = None if denoiser.state_shape is None else torch.zeros(1, *denoiser.state_shape)
    return lambda: denoiser(latents, t, told, state=state)


@torch.no_grad()
def memory(variant: str, pixels: int) -> dict[str, Any]:
    """Weights and activations of one size."""
    denoiser = load(f"microforge:{variant}", "denoiser")
    decoder = load(f"microforge:{variant}", "decoder")
    side = pixels // decoder.downsampling
    latents = torch.randn(1, denoiser.config.latent_channels, side, side)
    parts = {"denoiser": call(denoiser, side), "decoder": lambda: decoder.decode(latents)}
    found: dict[str, Any] = {"variant": variant, "published_mb": PUBLISHED[variant], "weights_mb": 0.0}
    for name, step in parts.items():
        module = denoiser if name == "denoiser" else decoder.decoder
        found["weights_mb"] += 2 * sum(p.numel() for p in module.parameters()) / 1e6
        operations, most = counted(step, "cpu")
        found |= {f"{name}_activations_mb": most / 2e6, f"{name}_gflop": operations / 1e9}
    most = max(found["denoiser_activations_mb"], found["decoder_activations_mb"])
    return {**found, "total_mb": found["weights_mb"] + most}


@torch.no_grad()
def modulation(variant: str, rounds: int) -> dict[str, Any]:
    """Grouped modulation against a matrix a block: parameters, and the step at its own size, side by side."""
    sides = {}
    for kind in ("grouped", "full"):
        torch.manual_seed(0)
        sides[kind] = open_gates(denoisers.build("microforge", variant, modulation=kind)).eval()
    steps = {kind: call(model, model.config.sample_size) for kind, model in sides.items()}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds + 1):
        for kind, step in steps.items():
            best[kind] = min(best[kind], timed(step, "cpu"))
    return {
        "variant": variant,
        **{f"{kind}_parameters": sum(p.numel() for p in model.parameters()) for kind, model in sides.items()},
        **{f"{kind}_ms": 1e3 * seconds for kind, seconds in best.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=DOCS / "microforge.json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    record = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pixels": args.pixels,
        "memory": [memory(variant, args.pixels) for variant in PUBLISHED],
        "modulation": [modulation(variant, args.rounds) for variant in denoisers.variants("microforge")],
    }
    write(args.output, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
