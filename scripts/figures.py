"""Writes the measured figures into README, docs/results.md and the model card, between ``figures:begin`` and ``:end``.

They come from the metrics of the shipped checkpoint (``metrics.json``, as ``pochade evaluate`` writes its
``report.json``) and from what the benchmarks leave in docs/benchmarks. What has not been measured is left out.

    python scripts/figures.py            write
    python scripts/figures.py --check    exit code 1 where a file is not up to date
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METRICS = "src/pochade/checkpoints/lrf-openmoji/metrics.json"
BENCHMARKS = "docs/benchmarks"
MARKS = re.compile(r"(<!-- figures:begin -->\n).*?(<!-- figures:end -->)", re.DOTALL)


def read(path: Path) -> Any:
    """The JSON of a file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def number(values: Any, *keys: str, form: str = ".2f") -> str:
    """The number at a path of keys; a dash where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return format(values, form) if isinstance(values, int | float) and not isinstance(values, bool) else "–"


def checkpoint(metrics: dict[str, Any]) -> str:
    """Both splits of an evaluation side by side."""
    names = {"train": "training concepts", "held_out": "held-out concepts"}
    sides = {key: metrics[key] for key in names if isinstance(metrics.get(key), dict)}
    decoded = metrics.get("autoencoder", {})

    def row(label: str, *keys: str, form: str = ".2f") -> list[str]:
        return [label, *(number(side, *keys, form=form) for side in sides.values())]

    def decoder(label: str, key: str, form: str) -> list[str]:
        return [label, *(number(decoded, split, key, form=form) for split in sides)]

    rows = [
        row("retrieval R@1 (chance 0.01)", "retrieval", "generated", "R@1"),
        row("retrieval R@5 (chance 0.05)", "retrieval", "generated", "R@5"),
        row("R@1 of real pictures", "retrieval", "real", "R@1"),
        row("R@5 of real pictures", "retrieval", "real", "R@5"),
        row("kernel distance `kd_lite0`", "kd_lite0", form=".4f"),
        row("its spread", "kd_lite0 spread", form=".4f"),
        row("Frechet distance `fd_lite0`", "fd_lite0", form=".3g"),
        row("nearer to a training picture than 95 % of held-out ones", "copying", "features", "nearer", form=".0%"),
        row("distance to the nearest training picture, median", "copying", "features", "generated", "median"),
        row("the same of real held-out pictures", "copying", "features", "held_out", "median"),
        row("deviation of the pixels, in [0, 1]", "grey", "generated", "deviation"),
        row("the same of real pictures", "grey", "real", "deviation"),
        row("range of the pixels", "grey", "generated", "range"),
        row("the same of real pictures", "grey", "real", "range"),
        decoder("autoencoder, PSNR in dB", "psnr", ".1f"),
        decoder("autoencoder, SSIM", "ssim", ".3f"),
        decoder("autoencoder, perceptual distance", "perceptual", ".3f"),
        row("pictures", "pictures", form="d"),
    ]
    rows = [r for r in rows if set(r[1:]) != {"–"}]
    settings = metrics.get("settings", {})
    how = f"{number(settings, 'steps', form='d')} steps, guidance {number(settings, 'guidance', form='g')}"
    head = f"The shipped checkpoint, `lrf-openmoji`, on OpenMoji ({how}):"
    parts = [head, table(["", *(names[key] for key in sides)], rows)]
    real = metrics.get("real held-out beside real training pictures")
    if real:
        kernel, frechet = number(real, "kd_lite0", form=".4f"), number(real, "fd_lite0", form=".3g")
        parts.append(
            f"Real held-out pictures beside real training pictures: kernel distance {kernel}, Frechet {frechet}."
        )
    return "\n\n".join(parts)


def denoiser_step(record: dict[str, Any]) -> str:
    """LRF's step against the faster peer at each size and number of tokens."""
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in record["entries"]:
        groups.setdefault((entry["variant"], entry["tokens"]), {})[entry["name"]] = entry
    rows = []
    for (variant, tokens), found in groups.items():
        own = found.get("LRF")
        peers = [e for name, e in found.items() if not name.startswith("LRF")]
        if own is None or not peers:
            continue
        peer = min(peers, key=lambda e: e["milliseconds"])
        ratio = own["milliseconds"] / peer["milliseconds"]
        share = format(own["share_of_matmul"], ".0%")
        rows.append([variant, str(tokens), f"{own['milliseconds']:.1f}", f"{ratio:.2f} ({peer['name']})", share])
    head = (
        "A step of the denoiser beside diffusers' PixArt and SANA transformers of equal parameters "
        f"({record['processor']}, {record['threads']} thread(s)). The ratio is against the faster of the two, "
        "below 1 is faster; the share is the arithmetic rate against that of a matrix product:"
    )
    return f"{head}\n\n{table(['size', 'tokens', 'ms', 'ratio', 'share'], rows)}"


def autoencoder_channels(record: list[dict[str, Any]]) -> str:
    """The sweep that chose the number of latent channels."""
    rows = [
        [
            str(r["channels"]),
            str(r["steps"]),
            f"{r['held_out_psnr']:.2f}",
            f"{r['perceptual']:.3f}",
            f"{r['seconds']:.0f}",
        ]
        for r in record
    ]
    head = "Autoencoders of equal cost with different numbers of latent channels, on held-out concepts:"
    return f"{head}\n\n{table(['channels', 'steps', 'PSNR, dB', 'perceptual distance', 'seconds'], rows)}"


def startup(record: dict[str, dict[str, float]]) -> str:
    """What it costs to begin."""
    rows = [
        [name, f"{r['seconds']:.2f}", f"{r['mebibytes']:.0f}", f"{r['ratio_to_torch']:.2f}"]
        for name, r in record.items()
        if name != "bare python"
    ]
    head = (
        "What it costs to begin. *cold generate* is a new process that paints one picture of 64 x 64 in 50 steps with "
        "guidance, *warm call* the same in a process that has painted before; the ratio is to importing torch alone:"
    )
    return f"{head}\n\n{table(['', 'seconds', 'MiB resident', 'ratio'], rows)}"


def cifar10_training(record: dict[str, Any]) -> str:
    """The published CIFAR-10 recipe, projected from a short run."""
    published, share = record["published"], record["seconds_data"] / record["seconds_per_step"]
    rows = [
        ["here", "synthetic latents", f"{record['seconds_per_step']:.3f}", f"{record['projected_minutes']:.0f}", "–"],
        ["published", "CIFAR-10", "–", str(published["minutes"]), str(published["loss"])],
    ]
    head = (
        f"The recipe `lrf-cifar10`: {record['steps_of_the_recipe']:,} steps of {record['batch_size']} on a CPU "
        f"({record['machine']}). The minutes are projected from a short run, in which {share:.1%} of a step "
        "went into waiting for data:"
    )
    return f"{head}\n\n{table(['', 'data', 'seconds a step', 'minutes', 'loss'], rows)}"


KNOWN: dict[str, Callable[[Any], str]] = {
    "startup": startup,
    "denoiser_step": denoiser_step,
    "autoencoder_channels": autoencoder_channels,
    "cifar10_training": cifar10_training,
}
PAGES: dict[str, tuple[str, ...]] = {
    "README.md": ("startup", "denoiser_step"),
    "docs/results.md": tuple(KNOWN),
    "src/pochade/checkpoints/lrf-openmoji/README.md": (),
}
"""Page -> the benchmarks that it shows, behind the checkpoint's figures."""


def figures(root: Path, benchmarks: Sequence[str]) -> str:
    """The tables for which there are measurements."""
    metrics = read(root / METRICS)
    parts = [checkpoint(metrics)] if metrics else []
    for name in benchmarks:
        record = read(root / BENCHMARKS / f"{name}.json")
        if record:
            parts.append(KNOWN[name](record))
    return "".join(f"\n{part}\n" for part in parts)


def fill(page: str, block: str) -> str:
    """The page with ``block`` between its marks."""
    if not MARKS.search(page):
        raise ValueError("the page has no marks figures:begin and figures:end")
    return MARKS.sub(lambda m: f"{m[1]}{block}\n{m[2]}" if block else f"{m[1]}{m[2]}", page)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    stale = []
    for name, benchmarks in PAGES.items():
        path = root / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, figures(root, benchmarks))
        if after != before:
            stale.append(name)
            if "--check" not in arguments:
                temporary = path.with_name(f".{path.name}.part")
                temporary.write_text(after, encoding="utf-8")
                temporary.replace(path)
    if "--check" in arguments and stale:
        print(f"not up to date: {', '.join(stale)}; run make figures", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
