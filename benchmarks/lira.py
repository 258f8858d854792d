"""LiRA at the token grids of 1024 px, its time a token, its cost of text, and its reasoning loop's share.

    python benchmarks/lira.py

Writes docs/benchmarks/lira.json. Batch 1, float32, weights at random; times are the minimum of interleaved runs. What
is promised: a token costs at 16,384 tokens what it costs at 1,024, within 20 %; 512 text tokens cost what 77 cost,
within 10 %; the reasoning loop takes 0.5 % of the computation.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the memory profile is silent; read when torch is imported

import torch
from torch import Tensor, nn

from measuring import counted, processor, rounds_for, timed
from pochade.allocator import KEPT, keep_freed_memory
from pochade.denoisers import build
from pochade.files import write_text
from pochade.nn.cpu.inference import by_loops
from pochade.types import Conditioning

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks" / "lira.json"
TEXT_DIM = 384
AUTOENCODERS: dict[str, dict[str, int]] = {
    "f32": {"latent_channels": 32, "patch_size": 1},
    "f8, patch 2": {"latent_channels": 8, "patch_size": 2},
}
PIXELS_A_TOKEN = {"f32": 32, "f8, patch 2": 16}


def network(variant: str, side: int, **overrides: Any) -> nn.Module:
    patch = overrides.get("patch_size", 1)
    return build("lira", variant, sample_size=side * patch, **overrides)


def inputs(model: nn.Module, side: int, text_tokens: int) -> tuple[Tensor, Tensor, Conditioning]:
    """Latents of side x side tokens, a time and a text."""
    config: Any = model.config
    cells = side * config.patch_size
    text = torch.randn(1, text_tokens, TEXT_DIM)
    mask = torch.ones(1, text_tokens, dtype=torch.bool)
    conditioning = Conditioning(tokens=text, mask=mask, pooled=text.mean(1))
    return torch.randn(1, config.latent_channels, cells, cells), torch.full((1,), 0.5), conditioning


def fastest(steps: dict[str, Callable[[], Any]], most: int) -> dict[str, float]:
    """Seconds of each step, the minimum of runs side by side; each has run once before."""
    least, wanted, done = dict.fromkeys(steps, math.inf), dict.fromkeys(steps, 1), 0
    while done < max(wanted.values()):
        for name, step in steps.items():
            if done < wanted[name]:
                least[name] = min(least[name], timed(step, "cpu"))
                wanted[name] = rounds_for(least[name], most)
        done += 1
    return least


def forward_step(model: nn.Module, side: int, text_tokens: int) -> Callable[[], Any]:
    model.requires_grad_(False)
    given = inputs(model, side, text_tokens)
    return torch.no_grad()(lambda: model(*given))


def training_step(model: nn.Module, side: int, text_tokens: int) -> Callable[[], Any]:
    """Forward, backward and AdamW, of a network in training."""
    latents, t, conditioning = inputs(model, side, text_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        out = model(latents, t, conditioning)
        ((out.velocity - latents).square().mean() + out.aux["loss_ponder"].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def native(
    variants: Sequence[str], pixels: int, text_tokens: int, rounds: int, gigabytes: float
) -> list[dict[str, Any]]:
    """Time and memory of a forward pass and a training step of a square picture."""
    rows: list[dict[str, Any]] = []
    for mode, make in {"forward": forward_step, "training step": training_step}.items():
        for variant in variants:
            held_a_token = 0.0
            for autoencoder, overrides in AUTOENCODERS.items():
                side = pixels // PIXELS_A_TOKEN[autoencoder]
                row: dict[str, Any] = {"mode": mode, "variant": variant, "autoencoder": autoencoder, "tokens": side**2}
                rows.append(row)
                if held_a_token * side**2 > gigabytes * 2**30:
                    print(f"{mode}, {variant}, {side**2} tokens: not run", flush=True)
                    continue
                model = network(variant, side, **overrides).train(mode != "forward")
                row["parameters"] = sum(p.numel() for p in model.parameters())
                step = make(model, side, text_tokens)
                if mode != "forward":
                    step()  # the optimiser makes its moments at the first step
                operations, held = counted(step, "cpu")
                held_a_token = held / side**2
                # Weights, and the two moments of a training step, lie there before it.
                resident = 4 * row["parameters"] * (1 if mode == "forward" else 3)
                row["milliseconds"] = 1e3 * fastest({mode: step}, rounds)[mode]
                row["gigaflop"] = operations / 1e9
                row["step_megabytes"], row["total_megabytes"] = held / 2**20, (held + resident) / 2**20
                print(
                    f"{mode}, {variant}, {side**2} tokens: {row['milliseconds']:.0f} ms, "
                    f"{row['total_megabytes']:.0f} MB, of which {row['step_megabytes']:.0f} MB for the step",
                    flush=True,
                )
    return rows


def a_token(variants: Sequence[str], tokens: Sequence[int], text_tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Microseconds a token of a forward pass."""
    rows: list[dict[str, Any]] = []
    for variant in variants:
        model = network(variant, 32, **AUTOENCODERS["f32"]).eval()
        steps = {str(n): forward_step(model, math.isqrt(n), text_tokens) for n in tokens}
        for step in steps.values():
            step()
        for n, seconds in fastest(steps, rounds).items():
            rows.append({"variant": variant, "tokens": int(n), "microseconds_a_token": 1e6 * seconds / int(n)})
            print(f"{variant}, {n} tokens: {rows[-1]['microseconds_a_token']:.1f} us a token", flush=True)
    return rows


@torch.no_grad()
def text(variant: str, lengths: Sequence[int], side: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step, of one fusion with its text's state, and of one fusion that is given the state."""
    model: Any = network(variant, side, **AUTOENCODERS["f32"]).eval()
    fusion = next(block.text for block in model.layers if block.text is not None)
    x = torch.randn(1, side**2, model.config.dim)
    steps: dict[str, Callable[[], Any]] = {}
    for m in lengths:
        words, mask = torch.randn(1, m, model.config.dim), torch.ones(1, m, dtype=torch.bool)
        state = fusion.context(words, mask)
        steps[f"step {m}"] = forward_step(model, side, m)
        steps[f"fusion {m}"] = by_loops(lambda words=words, mask=mask: fusion(x, fusion.context(words, mask)))
        steps[f"read {m}"] = by_loops(lambda state=state: fusion(x, state))
    for step in steps.values():
        step()
    found = fastest(steps, rounds)
    rows: list[dict[str, Any]] = []
    for m in lengths:
        times = {f"{part}_milliseconds": 1e3 * found[f"{part} {m}"] for part in ("step", "fusion", "read")}
        rows.append({"variant": variant, "tokens": side**2, "text_tokens": m, **times})
        print(rows[-1], flush=True)
    return rows


@torch.no_grad()
def reasoning(variant: str, side: int, text_tokens: int, rounds: int) -> list[dict[str, Any]]:
    """The loop's share of the time and of the operations of a step, halting as before training and with all steps."""
    model: Any = network(variant, side, **AUTOENCODERS["f32"]).eval().requires_grad_(False)
    loop, given = model.reasoning, inputs(model, side, text_tokens)
    seen: list[tuple[Any, ...]] = []
    hook = loop.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    model(*given)
    hook.remove()
    x, embedding = seen[0][:2]
    weights = [sum(p.numel() for p in part.parameters()) for part in (loop, model)]
    rows: list[dict[str, Any]] = []
    for depth in (None, model.config.reasoning_steps):
        steps: dict[str, Callable[[], Any]] = {
            "step": lambda depth=depth: model(*given, depth=depth),
            "loop": by_loops(lambda depth=depth: loop(x, embedding, depth)),
        }
        operations = {name: counted(step, "cpu")[0] for name, step in steps.items()}
        found = fastest(steps, rounds)
        row = {
            "variant": variant,
            "tokens": side**2,
            "steps": depth or int(model(*given).aux["reasoning_steps"].item()),
            "share_of_time": found["loop"] / found["step"],
            "share_of_operations": operations["loop"] / operations["step"],
            "share_of_parameters": weights[0] / weights[1],
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variants", nargs="+", default=["tiny", "small"], help="at the size of the picture")
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384], help="for the time a token")
    parser.add_argument("--text-tokens", type=int, default=77)
    parser.add_argument("--rounds", type=int, default=20, help="the most runs")
    parser.add_argument("--limit-gigabytes", type=float, default=14, help="leave out a step that would hold more")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.pixels % max(PIXELS_A_TOKEN.values()) or any(math.isqrt(n) ** 2 != n for n in args.tokens):
        parser.error("--pixels, --tokens: a multiple of 32 and square numbers are needed")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory(KEPT)  # as commands do
    side = args.pixels // PIXELS_A_TOKEN["f32"]
    below = list(dict.fromkeys(("nano", args.variants[0])))
    record = {
        "processor": processor(),
        "threads": args.threads,
        "torch": torch.__version__,
        "text_tokens": args.text_tokens,
        "rounds": args.rounds,
        "limit_gigabytes": args.limit_gigabytes,
        "pixels": args.pixels,
        "native": native(args.variants, args.pixels, args.text_tokens, args.rounds, args.limit_gigabytes),
        "a_token": a_token(below, args.tokens, args.text_tokens, args.rounds),
        "text": [row for v in below for row in text(v, (77, 512), side, args.rounds)],
        "reasoning": [
            row
            for v in dict.fromkeys(("nano", *args.variants))
            for row in reasoning(v, side, args.text_tokens, args.rounds)
        ],
    }
    write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
