"""One denoiser step of a family beside diffusers' PixArt and SANA transformers of equal parameters.

    python benchmarks/denoiser_step.py --family lira

Writes docs/benchmarks/FAMILY_step.md and .json (of LRF, denoiser_step.md and .json). Times are the minimum of
interleaved runs; a 1024^3 matrix product, timed in the same rounds, is what the arithmetic rate is compared with.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the memory profile is silent; read when torch is imported

import torch
from diffusers import PixArtTransformer2DModel, SanaTransformer2DModel
from diffusers import __version__ as diffusers_version
from torch import nn

from measuring import MATRIX, counted, processor, rounds_for, timed
from pochade.allocator import KEPT, keep_freed_memory
from pochade.denoisers import build
from pochade.files import write_text
from pochade.nn.linear import linear
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
TEXT_DIM = 384
PEERS = ("PixArt", "SANA")


@dataclass(frozen=True)
class Family:
    """What is measured of a family by default, and remarks on it."""

    title: str
    variants: tuple[str, ...]
    tokens: tuple[int, ...]
    note: str
    depths: tuple[int, ...] = ()
    """Depths to measure beside the configured one."""
    file: str = ""


FAMILIES = {
    "lrf": Family(
        "LRF",
        ("nano", "small"),
        (16, 64, 256, 1024),
        "LRF applies its blocks twice, so at equal parameters it computes more; *depth 1* applies them once.",
        (1,),
        "denoiser_step",
    ),
    "lira": Family(
        "LiRA",
        ("nano", "tiny"),
        (64, 256, 1024, 4096, 16384),
        "LiRA's reasoning loop, untrained, takes the five steps that its prior expects.",
    ),
    "iris": Family(
        "IRIS",
        ("nano", "tiny", "small"),
        (64, 256, 1024, 4096),
        "IRIS applies its core eight times, so at equal parameters it computes more; *depth 4* applies it four times. "
        "The peers *as depth 4* and *as depth 8* have the parameters of IRIS counted as often as they are used; the "
        "ratio *in use* is against the faster of those.",
        (4,),
    ),
    "microforge": Family(
        "MicroForge",
        ("nano", "small"),
        (64, 256, 1024),
        "MicroForge makes its plan in every step, its planner is among the parameters.",
    ),
}


@dataclass
class Entry:
    """A network at one grid, and what was measured: nothing where it would have passed the limits."""

    name: str
    variant: str
    tokens: int
    parameters: int
    milliseconds: float | None = None
    peak_megabytes: float = 0.0
    gigaflop: float = 0.0
    gigaflop_per_second: float = 0.0
    share_of_matmul: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What all grids share."""

    text_tokens: int
    batch: int
    rounds: int
    device: str
    limit_seconds: float
    limit_gigabytes: float


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build_config(family: str, variant: str) -> dict[str, Any]:
    with torch.device("meta"):
        return dict(build(family, variant).config)


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
    """The peer within 10 % of ``target`` parameters whose width is nearest to ``width``, then the nearest in size."""
    head = options["head"]
    for step in range(12):
        for candidate in {width + step * head, max(width - step * head, head)}:
            sizes: dict[int, int] = {}
            for layers in range(1, 33):
                with torch.device("meta"):
                    sizes[layers] = count(make(candidate, layers, **options))
                if sizes[layers] > target:
                    break
            best = min(sizes, key=lambda layers: abs(sizes[layers] - target))
            if abs(sizes[best] - target) <= 0.1 * target:
                return make(candidate, best, **options)
    raise SystemExit(f"no {make.__name__} of {target} parameters")


def calls(family: str, variant: str, tokens: int, setting: Setting) -> dict[str, tuple[nn.Module, Any]]:
    """Name -> (network, a step of it) on equal latents and equal text."""
    config = build_config(family, variant)
    side, patch, channels = math.isqrt(tokens), config["patch_size"], config["latent_channels"]
    batch, device = setting.batch, setting.device
    own = build(family, variant, sample_size=side * patch)
    options = {"head": config["dim"] // config["heads"], "channels": channels, "patch": patch, "side": side}
    # How a peer's name ends -> its parameters: those of the family, and where it iterates those in use.
    own_sizes = {"": count(own)}
    if hasattr(own, "effective_parameters"):
        depths = sorted({*FAMILIES[family].depths, config["iterations"]})
        own_sizes |= {as_depth(depth): own.effective_parameters(depth) for depth in depths}
    peers = {
        f"{name}{ending}": equal(make, size, config["dim"], **options)
        for ending, size in own_sizes.items()
        for name, make in zip(PEERS, (pixart, sana), strict=True)
    }
    for network in (own, *peers.values()):
        network.eval().requires_grad_(False).to(device)
    latents = torch.randn(batch, channels, side * patch, side * patch, device=device)
    text = torch.randn(batch, setting.text_tokens, TEXT_DIM, device=device)
    mask = torch.ones(batch, setting.text_tokens, dtype=torch.bool, device=device)
    conditioning = Conditioning(tokens=text, mask=mask, pooled=text.mean(1))
    t = torch.full((batch,), 0.5, device=device)
    shared = {
        "timestep": t * 1000,
        "encoder_hidden_states": text,
        "encoder_attention_mask": mask.long(),
        "return_dict": False,
    }
    sizes = {"resolution": None, "aspect_ratio": None}
    title = FAMILIES[family].title
    steps: dict[str, tuple[nn.Module, Any]] = {title: (own, lambda: own(latents, t, conditioning))}
    for depth in FAMILIES[family].depths:
        steps[f"{title}, depth {depth}"] = own, lambda depth=depth: own(latents, t, conditioning, depth=depth)
    for name, peer in peers.items():
        further = {"added_cond_kwargs": sizes} if name.startswith("PixArt") else {}
        steps[name] = peer, lambda peer=peer, further=further: peer(latents, **further, **shared)
    return steps


def as_depth(depth: int) -> str:
    """How the name of a peer ends that has the parameters of a family counted in use."""
    return f" as depth {depth}"


def ratio(e: Entry, rows: Sequence[Entry], ending: str = "") -> str:
    """Time against that of the faster peer on the same grid whose name ends so, a dash where none was run."""
    peers = {f"{name}{ending}" for name in PEERS}
    beside = [o for o in rows if (o.variant, o.tokens) == (e.variant, e.tokens) and o.name in peers]
    fastest = min((o.milliseconds for o in beside if o.milliseconds is not None), default=None)
    return "–" if fastest is None or e.milliseconds is None else f"{e.milliseconds / fastest:.2f}"


def ratio_in_use(e: Entry, rows: Sequence[Entry], family: str) -> str:
    """As ``ratio``, at as many parameters in use, for the rows of a family that iterates."""
    title, _, depth = e.name.partition(", depth ")
    if title != FAMILIES[family].title:
        return "–"
    return ratio(e, rows, as_depth(int(depth or build_config(family, e.variant)["iterations"])))


def too_large(name: str, tokens: int, smaller: Iterable[Entry], setting: Setting) -> bool:
    """Whether a network would pass the limits, estimated from smaller grids: time and memory grow by a power of N.

    From one grid the power is taken to be 2, from two that between them, 2 at most.
    """
    known = sorted((e.tokens, e.milliseconds, e.peak_megabytes) for e in smaller if e.name == name and e.milliseconds)
    if not known:
        return False
    last = known[-1]
    for now, limit in ((1, 1e3 * setting.limit_seconds), (2, 1e3 * setting.limit_gigabytes)):
        power = 2.0
        if len(known) > 1:
            before = known[-2]
            power = min(2.0, math.log(last[now] / before[now]) / math.log(last[0] / before[0]))
        if last[now] * (tokens / last[0]) ** power > limit:
            return True
    return False


def measure(
    family: str, variant: str, tokens: int, setting: Setting, smaller: Sequence[Entry] = ()
) -> tuple[list[Entry], float]:
    """The entries of one variant and grid, and the matrix product's GFLOP/s."""
    steps = calls(family, variant, tokens, setting)
    device = setting.device
    a, b = torch.randn(2, MATRIX, MATRIX, device=device)
    entries = {name: Entry(name, variant, tokens, count(network)) for name, (network, _) in steps.items()}
    run = {name: step for name, (_, step) in steps.items() if not too_large(name, tokens, smaller, setting)}
    least, wanted = dict.fromkeys(run, math.inf), dict.fromkeys(run, 1)
    for name, step in run.items():
        operations, held = counted(step, device)
        entries[name].gigaflop, entries[name].peak_megabytes = operations / 1e9, held / 2**20
    product, done = math.inf, 0
    while done < max(wanted.values(), default=0):
        product = min(product, timed(lambda: linear(a, b), device))
        for name, step in run.items():
            if done < wanted[name]:
                least[name] = min(least[name], timed(step, device))
                wanted[name] = rounds_for(least[name], setting.rounds)
        done += 1
    rate = 2 * MATRIX**3 / product / 1e9
    for name, seconds in least.items():
        entries[name].milliseconds = 1e3 * seconds
        entries[name].gigaflop_per_second = entries[name].gigaflop / seconds
        entries[name].share_of_matmul = entries[name].gigaflop_per_second / rate
    return list(entries.values()), rate


def markdown(family: str, entries: Iterable[Entry], about: dict[str, Any]) -> str:
    own = FAMILIES[family]
    option = "" if family == "lrf" else f" --family {family}"
    head = [
        "# A denoiser step beside its peers" if family == "lrf" else f"# A step of {own.title} beside its peers",
        f"""`python benchmarks/denoiser_step.py{option}` repeats this page. One call of each denoiser on random latents
and {about["text_tokens"]} text tokens of width {TEXT_DIM}, batch {about["batch"]}, float32. PixArt and SANA are those
of diffusers, at the width nearest to {own.title}'s that brings their parameters within 10 %. {own.note}""",
        f"""Times are the minimum of {about["rounds"]} interleaved runs, of fewer where a run takes seconds. *Ratio* is
against the faster peer. *Share* is the arithmetic rate as a share of that of a {MATRIX} x {MATRIX} x {MATRIX} matrix
product timed in the same rounds. *Memory* is the most that the call holds beside weights and inputs. *Not run* is what
would take more than {about["limit_seconds"]:g} seconds or {about["limit_gigabytes"]:g} GB.""",
        f"""{about["processor"]}, {about["threads"]} thread(s), torch {about["torch"]}, diffusers
{about["diffusers"]}; the matrix product ran at {about["matmul_gigaflop_per_second"]:.0f} GFLOP/s.""",
    ]
    rows = list(entries)
    iterates = any(" as depth " in e.name for e in rows)
    columns = ["size", "tokens", "network", "parameters", "ms", "ratio", *(["in use"] if iterates else [])]
    columns += ["memory, MB", "GFLOP", "GFLOP/s", "share"]
    lines = ["\n\n".join(head), "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for e in rows:
        row = f"| {e.variant} | {e.tokens} | {e.name} | {e.parameters / 1e6:.2f} M |"
        if e.milliseconds is None:
            lines.append(f"{row} not run |{' – |' * (len(columns) - 5)}")
            continue
        ratios = [ratio(e, rows), *([ratio_in_use(e, rows, family)] if iterates else [])]
        lines.append(
            f"{row} {e.milliseconds:.2f} | {' | '.join(ratios)} | {e.peak_megabytes:.1f} | {e.gigaflop:.2f} | "
            f"{e.gigaflop_per_second:.1f} | {e.share_of_matmul:.0%} |"
        )
    return "\n".join(lines) + "\n"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, default="lrf")
    parser.add_argument("--variants", nargs="+", help="sizes (two of each family)")
    parser.add_argument("--tokens", nargs="+", type=int, help="square numbers (up to 1024, of LiRA 16384)")
    parser.add_argument("--text-tokens", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="the most runs of a network")
    parser.add_argument("--limit-seconds", type=float, default=30, help="leave out what would take longer a call")
    parser.add_argument("--limit-gigabytes", type=float, default=8, help="leave out what would hold more")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    family = FAMILIES[args.family]
    grids = sorted(args.tokens or family.tokens)
    if any(math.isqrt(n) ** 2 != n for n in grids):
        parser.error("--tokens: square numbers are needed")
    torch.set_num_threads(args.threads)
    keep_freed_memory(KEPT)
    torch.manual_seed(0)
    setting = Setting(args.text_tokens, args.batch, args.rounds, args.device, args.limit_seconds, args.limit_gigabytes)
    entries: list[Entry] = []
    rates: list[float] = []
    for variant in args.variants or family.variants:
        of_variant: list[Entry] = []
        for tokens in grids:
            found, rate = measure(args.family, variant, tokens, setting, of_variant)
            of_variant += found
            rates.append(rate)
            for e in found:
                row = f"{e.variant:6} {tokens:5} {e.name:13} {e.parameters / 1e6:6.2f} M"
                if e.milliseconds is None:
                    print(row, "not run", flush=True)
                    continue
                row += f" {e.milliseconds:8.2f} ms {e.peak_megabytes:7.1f} MB {e.gigaflop:7.2f} GFLOP"
                print(f"{row} {e.share_of_matmul:6.1%}", flush=True)
        entries += of_variant
    about = {
        "processor": processor(args.device),
        "threads": args.threads,
        "torch": torch.__version__,
        "diffusers": diffusers_version,
        "batch": args.batch,
        "text_tokens": args.text_tokens,
        "rounds": args.rounds,
        "limit_seconds": args.limit_seconds,
        "limit_gigabytes": args.limit_gigabytes,
        "matmul_gigaflop_per_second": max(rate for rate in rates if math.isfinite(rate)),
    }
    file = family.file or f"{args.family}_step"
    write_text(args.output / f"{file}.md", markdown(args.family, entries, about))
    record = {**about, "entries": [asdict(e) for e in entries]}
    write_text(args.output / f"{file}.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
