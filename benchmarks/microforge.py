"""MicroForge's memory at 512 px beside what the published design names, and what each of its parts costs.

    python benchmarks/microforge.py

Writes docs/benchmarks/microforge.json. Weights are those of denoiser and decoder in float16 (no text encoder, as
there); activations the most that a step or the decoder holds in tensors, measured in float32 and halved.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from measuring import counted, processor, timed
from pochade import denoisers
from pochade.evaluation.profile.models import load, randomise_zero_init
from pochade.files import write_text
from pochade.recipes.studies import STUDIES
from pochade.training.overrides import read_options
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
PUBLISHED = {"tiny": 76, "small": 308, "base": 530}
"""MB at 512 px in float16, without a text encoder."""
TEXT_TOKENS = 64
ROUNDS = 20


def call(denoiser: Any, side: int, batch: int = 1) -> Any:
    """A step, as a function of nothing."""
    config = denoiser.config
    words = torch.randn(batch, TEXT_TOKENS, config.text_dim)
    mask = torch.ones(batch, TEXT_TOKENS, dtype=torch.bool)
    conditioning = Conditioning(words, mask, torch.randn(batch, config.pooled_dim))
    latents, t = torch.randn(batch, config.latent_channels, side, side), torch.full((batch,), 0.5)
    state = None if denoiser.state_shape is None else torch.zeros(batch, *denoiser.state_shape)
    return lambda: denoiser(latents, t, conditioning, state=state)


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


def modulation(variant: str) -> dict[str, Any]:
    """Parameters with grouped modulation and with a matrix a block."""
    with torch.device("meta"):
        sides = {kind: denoisers.build("microforge", variant, modulation=kind) for kind in ("grouped", "full")}
    counts = {f"{kind}_parameters": sum(p.numel() for p in model.parameters()) for kind, model in sides.items()}
    return {"variant": variant, **counts}


@torch.no_grad()
def switches(batch: int, rounds: int) -> list[dict[str, Any]]:
    """A step of nano with each of its parts left out or replaced, side by side in every round."""
    cases = {name: case for name, case in STUDIES["microforge"].cases.items() if not case.changes}
    known = denoisers.parameters("microforge")
    models: dict[str, Any] = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        options = read_options(case.options, known, "microforge")
        models[name] = randomise_zero_init(denoisers.build("microforge", "nano", latent_channels=32, **options)).eval()
    found = [
        {"case": name, "about": case.about, "parameters": sum(p.numel() for p in models[name].parameters()), "ms": {}}
        for name, case in cases.items()
    ]
    for side in (4, 8, 32):
        steps = [call(models[row["case"]], side, batch if side < 32 else 1) for row in found]
        best = [float("inf")] * len(steps)
        for _ in range(rounds + 1):
            best = [min(most, timed(step, "cpu")) for most, step in zip(best, steps, strict=True)]
        for row, seconds in zip(found, best, strict=True):
            row["ms"][side * side] = 1e3 * seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch", type=int, default=8, help="of the steps with parts left out; 1 from 1,024 tokens on")
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
        "modulation": [modulation(variant) for variant in denoisers.variants("microforge")],
        "batch": args.batch,
        "switches": switches(args.batch, args.rounds),
    }
    write_text(args.output, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
