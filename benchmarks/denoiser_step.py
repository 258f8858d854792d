"""One denoiser step of LRF beside diffusers' PixArt and SANA transformers of equal parameters.

    python benchmarks/denoiser_step.py

Writes docs/benchmarks/denoiser_step.md and .json. Times are the minimum of interleaved runs; a 1024^3 matrix
product, timed in the same rounds, is what the arithmetic rate is compared with.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the memory profile is silent; read when torch is imported

import torch
from diffusers import PixArtTransformer2DModel, SanaTransformer2DModel
from diffusers import __version__ as diffusers_version
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from measuring import MATRIX, peak, processor, timed, write
from pochade.denoisers import build
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
TEXT_DIM = 384


@dataclass
class Entry:
    """A network at one grid, and what was measured."""

    name: str
    variant: str
    tokens: int
    parameters: int
    milliseconds: float = math.inf
    peak_megabytes: float = 0.0
    gigaflop: float = 0.0
    gigaflop_per_second: float = 0.0
    share_of_matmul: float = 0.0


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def lrf(variant: str, side: int, recursions: int) -> nn.Module:
    patch = build_config(variant)["patch_size"]
    return build("lrf", variant, sample_size=side * patch, recursions=recursions)


def build_config(variant: str) -> dict[str, Any]:
    with torch.device("meta"):
        return dict(build("lrf", variant).config)


def pixart(width: int, layers: int, *, head: int, channels: int, patch: int, side: int) -> nn.Module:
    return PixArtTransformer2DModel(
        num_attention_heads=width // head,
        attention_head_dim=head,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        cross_attention_dim=width,
        sample_size=side * patch,
        patch_size=patch,
        caption_channels=TEXT_DIM,
        use_additional_conditions=False,
    )


def sana(width: int, layers: int, *, head: int, channels: int, patch: int, side: int) -> nn.Module:
    return SanaTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=width // head,
        attention_head_dim=head,
        num_layers=layers,
        num_cross_attention_heads=width // head,
        cross_attention_head_dim=head,
        cross_attention_dim=width,
        caption_channels=TEXT_DIM,
        sample_size=side * patch,
        patch_size=patch,
    )


def equal(make: Callable[..., nn.Module], target: int, width: int, **options: Any) -> nn.Module:
    """The peer within 10 % of ``target`` parameters whose width is nearest to ``width``."""
    head = options["head"]
    for step in range(12):
        for candidate in {width + step * head, width - step * head}:
            for layers in range(1, 33):
                if candidate < head:
                    continue
                with torch.device("meta"):
                    size = count(make(candidate, layers, **options))
                if abs(size - target) <= 0.1 * target:
                    return make(candidate, layers, **options)
                if size > 1.1 * target:
                    break
    raise SystemExit(f"no {make.__name__} of {target} parameters")


def calls(variant: str, tokens: int, text_tokens: int, batch: int, device: str) -> dict[str, tuple[nn.Module, Any]]:
    """Name -> (network, a step of it) on equal latents and equal text."""
    config = build_config(variant)
    side, patch, channels = math.isqrt(tokens), config["patch_size"], config["latent_channels"]
    head = config["dim"] // config["heads"]
    networks = {"LRF": lrf(variant, side, 2), "LRF, depth 1": lrf(variant, side, 1)}
    target = count(networks["LRF"])
    options = {"head": head, "channels": channels, "patch": patch, "side": side}
    networks["PixArt"] = equal(pixart, target, config["dim"], **options)
    networks["SANA"] = equal(sana, target, config["dim"], **options)
    latents = torch.randn(batch, channels, side * patch, side * patch, device=device)
    text = torch.randn(batch, text_tokens, TEXT_DIM, device=device)
    mask = torch.ones(batch, text_tokens, dtype=torch.bool, device=device)
    told = Conditioning(tokens=text, mask=mask, pooled=text.mean(1))
    t = torch.full((batch,), 0.5, device=device)
    peer = {"encoder_hidden_states": text, "encoder_attention_mask": mask.long(), "return_dict": False}
    steps: dict[str, tuple[nn.Module, Any]] = {}
    for name, network in networks.items():
        network.eval().requires_grad_(False).to(device)
        if name.startswith("LRF"):
            steps[name] = network, lambda n=network: n(latents, t, told)
        elif name == "PixArt":
            steps[name] = (
                network,
                lambda n=network: n(
                    latents,
                    timestep=t * 1000,
                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                    **peer,
                ),
            )
        else:
            steps[name] = network, lambda n=network: n(latents, timestep=t * 1000, **peer)
    return steps


def measure(
    variant: str, tokens: int, text_tokens: int, *, batch: int, rounds: int, device: str
) -> tuple[list[Entry], float]:
    """The entries of one variant and grid, and the matrix product's GFLOP/s."""
    steps = calls(variant, tokens, text_tokens, batch, device)
    a, b = torch.randn(2, MATRIX, MATRIX, device=device)
    entries = {name: Entry(name, variant, tokens, count(network)) for name, (network, _) in steps.items()}
    for name, (_, step) in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        entries[name].gigaflop = counter.get_total_flops() / 1e9
        entries[name].peak_megabytes = peak(step, device) / 2**20
    product = math.inf
    for _ in range(rounds):
        product = min(product, timed(lambda: a @ b, device))
        for name, (_, step) in steps.items():
            entries[name].milliseconds = min(entries[name].milliseconds, 1e3 * timed(step, device))
    rate = 2 * MATRIX**3 / product / 1e9
    for entry in entries.values():
        entry.gigaflop_per_second = entry.gigaflop / entry.milliseconds * 1e3
        entry.share_of_matmul = entry.gigaflop_per_second / rate
    return list(entries.values()), rate


def markdown(entries: Iterable[Entry], about: dict[str, Any]) -> str:
    head = [
        "# A denoiser step beside its peers",
        f"""`python benchmarks/denoiser_step.py` repeats this page. One call of each denoiser on random latents and
{about["text_tokens"]} text tokens of width {TEXT_DIM}, batch {about["batch"]}, float32. PixArt and SANA are those
of diffusers, at the width nearest to LRF's that brings their parameters within 10 %. LRF applies its blocks
twice, so at equal parameters it computes more; *depth 1* applies them once.""",
        f"""Times are the minimum of {about["rounds"]} interleaved runs. *Ratio* is against the faster peer. *Share*
is the arithmetic rate as a share of that of a {MATRIX} x {MATRIX} x {MATRIX} matrix product timed in the same
rounds. *Memory* is the most that the call holds beside weights and inputs.""",
        f"""{about["processor"]}, {about["threads"]} thread(s), torch {about["torch"]}, diffusers
{about["diffusers"]}; the matrix product ran at {about["matmul_gigaflop_per_second"]:.0f} GFLOP/s.""",
    ]
    columns = ("size", "tokens", "network", "parameters", "ms", "ratio", "memory, MB", "GFLOP", "GFLOP/s", "share")
    lines = ["\n\n".join(head), "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    rows = list(entries)
    for e in rows:
        peers = [
            o.milliseconds
            for o in rows
            if (o.variant, o.tokens) == (e.variant, e.tokens) and not o.name.startswith("LRF")
        ]
        lines.append(
            f"| {e.variant} | {e.tokens} | {e.name} | {e.parameters / 1e6:.2f} M | {e.milliseconds:.2f} | "
            f"{e.milliseconds / min(peers):.2f} | {e.peak_megabytes:.1f} | {e.gigaflop:.2f} | "
            f"{e.gigaflop_per_second:.1f} | {e.share_of_matmul:.0%} |"
        )
    return "\n".join(lines) + "\n"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", default=["nano", "small"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64, 256, 1024])
    parser.add_argument("--text-tokens", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    if any(math.isqrt(n) ** 2 != n for n in args.tokens):
        parser.error("--tokens: square numbers are needed")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    entries: list[Entry] = []
    rates: list[float] = []
    for variant in args.variants:
        for tokens in args.tokens:
            found, rate = measure(
                variant, tokens, args.text_tokens, batch=args.batch, rounds=args.rounds, device=args.device
            )
            entries += found
            rates.append(rate)
            for e in found:
                row = f"{e.variant:6} {tokens:5} {e.name:13} {e.parameters / 1e6:6.2f} M {e.milliseconds:8.2f} ms"
                row += f" {e.peak_megabytes:7.1f} MB {e.gigaflop:7.2f} GFLOP {e.share_of_matmul:6.1%}"
                print(row, flush=True)
    about = {
        "processor": processor(args.device),
        "threads": args.threads,
        "torch": torch.__version__,
        "diffusers": diffusers_version,
        "batch": args.batch,
        "text_tokens": args.text_tokens,
        "rounds": args.rounds,
        "matmul_gigaflop_per_second": max(rates),
    }
    write(args.output / "denoiser_step.md", markdown(entries, about))
    record = {**about, "entries": [asdict(e) for e in entries]}
    write(args.output / "denoiser_step.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
