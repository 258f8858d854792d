"""Writes the measured figures into README, docs and the model card, between ``figures:begin`` and ``figures:end``.

Names behind ``begin`` choose the tables (``figures:begin startup``); without them a page shows those of ``PAGES``.

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
CHECKPOINTS = "src/pochade/checkpoints"
BENCHMARKS = "docs/benchmarks"
MARKS = re.compile(r"(<!-- figures:begin((?: \w+)*) -->\n).*?(<!-- figures:end -->)", re.DOTALL)


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
    head = f"The shipped checkpoint, `{metrics['model']}`, on OpenMoji ({how}):"
    parts = [head, table(["", *(names[key] for key in sides)], rows)]
    real = metrics.get("real held-out beside real training pictures")
    if real:
        kernel, frechet = number(real, "kd_lite0", form=".4f"), number(real, "fd_lite0", form=".3g")
        parts.append(
            f"Real held-out pictures beside real training pictures: kernel distance {kernel}, Frechet {frechet}."
        )
    return "\n\n".join(parts)


def study(record: dict[str, Any]) -> str:
    """The runs of an ablation side by side."""

    def cell(runs: list[dict[str, float]], key: str, form: str) -> str:
        spread = f" ± {runs[0][f'{key} spread']:{form}}" if f"{key} spread" in runs[0] else ""
        return f"{sum(r[key] for r in runs) / len(runs):{form}}{spread}"

    rows = [
        [
            row["about"],
            f"{row['runs'][0]['parameters'] / 1e6:.2f} M",
            cell(row["runs"], "loss", ".3f"),
            cell(row["runs"], "kd train", ".3f"),
            cell(row["runs"], "R@1 train", ".2f"),
            cell(row["runs"], "R@1 held_out", ".3f"),
        ]
        for row in record["cases"]
    ]
    columns = ["", "parameters", "loss", "kernel distance, spread", "R@1", "R@1, held out"]
    return f"{record['about']}:\n\n{table(columns, rows)}"


def lira_thinking(record: dict[str, Any]) -> str:
    """Reasoning steps of short and long prompts."""
    groups = {k: v for k, v in record.items() if isinstance(v, dict) and "standard error" in v}
    every = list(record["steps"])
    rows = [
        [
            name,
            str(group["prompts"]),
            f"{group['mean']:.2f} ± {group['standard error']:.2f}",
            *(f"{group['steps'].get(step, 0) / sum(group['steps'].values()):.0%}" for step in every),
        ]
        for name, group in groups.items()
    ]
    head = (
        f"`{record['model']}`, {record['prompts']} captions at {record['sampling_steps']} sampling steps each: "
        f"{record['mean']:.2f} reasoning steps in the mean, {record['deviation']:.2f} their deviation from prompt to "
        f"prompt, {record['correlation with words']:+.2f} their correlation with the number of words. Means with "
        "standard errors, and the share of the looks that took so many steps:"
    )
    return f"{head}\n\n{table(['', 'prompts', 'mean', *(f'{step} steps' for step in every)], rows)}"


def sampling(record: dict[str, Any]) -> str:
    """Solvers and numbers of steps against each other."""
    rows = [
        [
            r["model"],
            r["scheduler"],
            str(r["steps"]),
            f"{r['guidance']:g}",
            f"{r['kd train']:.3f} ± {r['kd train spread']:.3f}",
            f"{r['R@1 train']:.2f}",
            f"{r['kd held_out']:.3f} ± {r['kd held_out spread']:.3f}",
            f"{r['R@1 held_out']:.3f}",
        ]
        for r in record["rows"]
    ]
    columns = ["model", "solver", "steps", "guidance", "kernel distance", "R@1"]
    columns += ["kernel distance, held out", "R@1, held out"]
    head = f"{record['samples']} captions of training concepts and {record['held_out']} of held-out ones:"
    return f"{head}\n\n{table(columns, rows)}"


def denoiser_step(record: dict[str, Any]) -> str:
    """A family's step against the faster peer at each size and number of tokens."""
    title = record["entries"][0]["name"]
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in record["entries"]:
        if entry["milliseconds"] is not None:
            groups.setdefault((entry["variant"], entry["tokens"]), {})[entry["name"]] = entry
    rows = []
    for (variant, tokens), found in groups.items():
        own = found.get(title)
        peers = [e for name, e in found.items() if not name.startswith(title)]
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


def lira_native(record: dict[str, Any]) -> str:
    """Time and memory at 1024 px."""
    rows = []
    for r in record["native"]:
        found = ["not run", "–", "–"]
        if "milliseconds" in r:
            found = [f"{r['milliseconds'] / 1e3:.2f}", f"{r['total_megabytes']:,.0f}", f"{r['step_megabytes']:,.0f}"]
        rows.append([r["mode"], r["variant"], r["autoencoder"], f"{r['tokens']:,}", *found])
    head = (
        f"{record['pixels']} px, batch 1, {record['text_tokens']} text tokens ({record['processor']}, "
        f"{record['threads']} thread(s); torch {record['torch']}):"
    )
    columns = ["", "size", "autoencoder", "tokens", "seconds", "memory, MB", "of which the step's, MB"]
    return f"{head}\n\n{table(columns, rows)}"


def lira_tokens(record: dict[str, Any]) -> str:
    """Is a token as cheap in a large picture?"""
    found: dict[str, dict[int, float]] = {}
    for r in record["a_token"]:
        found.setdefault(r["variant"], {})[r["tokens"]] = r["microseconds_a_token"]
    counts = sorted({r["tokens"] for r in record["a_token"]})
    rows = [
        [variant, *(f"{times[n]:.0f}" for n in counts), f"{max(times.values()) / min(times.values()):.2f}"]
        for variant, times in found.items()
    ]
    head = "Microseconds a token of a forward pass, aimed at is a ratio of the slowest to the fastest of at most 1.2:"
    return f"{head}\n\n{table(['size', *(f'N = {n:,}' for n in counts), 'ratio'], rows)}"


def lira_text(record: dict[str, Any]) -> str:
    """Does a long text cost more?"""
    parts = {
        "the whole step": "step_milliseconds",
        "one fusion, its state made anew": "fusion_milliseconds",
        "one fusion, its state given": "read_milliseconds",
    }
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for r in record["text"]:
        found.setdefault((r["variant"], r["tokens"]), []).append(r)
    lengths = [r["text_tokens"] for r in next(iter(found.values()))]
    rows = []
    for (variant, tokens), sides in found.items():
        for name, key in parts.items():
            times = [side[key] for side in sides]
            ratio = f"{times[-1] / times[0]:.2f}"
            rows.append([variant, f"{tokens:,}", name, *(milliseconds(time) for time in times), ratio])
    head = "Milliseconds with a short and a long text, aimed at is a ratio of at most 1.1:"
    return f"{head}\n\n{table(['size', 'tokens', '', *(f'M = {m}' for m in lengths), 'ratio'], rows)}"


def lira_reasoning(record: dict[str, Any]) -> str:
    """The share of the reasoning loop."""
    shares = ("share_of_time", "share_of_operations", "share_of_parameters")
    rows = [
        [r["variant"], f"{r['tokens']:,}", str(r["steps"]), *(f"{r[share]:.1%}" for share in shares)]
        for r in record["reasoning"]
    ]
    head = "The reasoning loop's share of a step, 0.5 % of the operations were aimed at:"
    return f"{head}\n\n{table(['size', 'tokens', 'steps', 'time', 'operations', 'parameters'], rows)}"


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


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"


def machine(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['processor']}, {record['cores']} cores; {versions}"


def scan_targets(record: dict[str, Any]) -> str:
    """What was aimed at, and whether it holds at every size."""
    rows = []
    for t in record["targets"]:
        worst = f"{t['worst']:.2f}" + (f" ({t['where']})" if t["sizes"] > 1 else "")
        holds = "yes" if t["held"] == t["sizes"] else f"**no**: at {t['held']} of {t['sizes']}"
        rows.append([t["name"], f"{'≥' if t['at_least'] else '≤'} {t['limit']:g}", worst, holds])
    head = f"Measured on {machine(record)}; at most {record['rounds']} rounds."
    if record["quick"]:
        head += " This was a short run over few sizes (`--quick`)."
    return f"{head}\n\n{table(['what', 'aim', 'worst', 'holds'], rows)}"


SIDES = {
    "numba": "pochade",
    "triton": "pochade",
    "torch": "composed",
    "cumsum": "cumsum",
    "copy": "copy",
    "mambapy": "mambapy",
    "loop": "loop",
}


def scan_sizes(record: dict[str, Any], kind: str) -> list[tuple[list[str], dict[str, dict[str, Any]]]]:
    """D, batch, N and threads, and the rows of the sides: all sizes with all threads, those of one width with one."""
    found: dict[tuple[int, ...], dict[str, dict[str, Any]]] = {}
    narrow, threads = min(r["width"] for r in record["rows"]), record["threads"]
    for r in record["rows"]:
        full, small = r["threads"] == threads[-1], (r["width"], r["batch"]) == (narrow, 1)
        if r["kind"] == kind and (full or small):
            size = -r["threads"], r["width"], r["states"], r["batch"], r["tokens"]
            found.setdefault(size, {})[r["side"]] = r
    labels = []
    for n, width, states, batch, tokens in sorted(found):
        middle = str(states) if kind == "ssd" else str(batch)
        labels.append(([str(-n), str(width), middle, f"{tokens:,}"], found[n, width, states, batch, tokens]))
    return labels


def scan_table(record: dict[str, Any], kind: str, mode: str, peers: Sequence[str]) -> str:
    """Milliseconds of every side, ratios to ``peers`` and memory."""
    sizes = scan_sizes(record, kind)
    present = [side for side in SIDES if any(side in found for _, found in sizes)]
    own, peers = present[0], [peer for peer in peers if peer in present]
    remembered = [side for side in (own, "mambapy") if side in present]
    columns = ["threads", "D", "batch", "N", *(SIDES[side] for side in present)]
    columns += [f"{SIDES[peer]} / pochade" for peer in peers] + [f"memory, {SIDES[side]}" for side in remembered]
    rows = []
    for label, found in sizes:
        times = [milliseconds(found[side][f"{mode}_ms"]) if side in found else "–" for side in present]
        for peer in peers:
            both = own in found and peer in found
            times.append(f"{found[peer][f'{mode}_ms'] / found[own][f'{mode}_ms']:.2f}" if both else "–")
        memory = [f"{found[side][f'{mode}_memory']:.2f}" if side in found else "–" for side in remembered]
        rows.append([*label, *times, *memory])
    return table(columns, rows)


def scan_diagonal(record: dict[str, Any]) -> str:
    forward, both = (
        scan_table(record, "diagonal", mode, ("cumsum", "mambapy", "copy")) for mode in ("forward", "both")
    )
    return f"Forward, ms:\n\n{forward}\n\nForward + backward, ms:\n\n{both}"


def scan_selective(record: dict[str, Any]) -> str:
    forward, both = (scan_table(record, "selective", mode, ("mambapy", "copy")) for mode in ("forward", "both"))
    return f"Forward, ms:\n\n{forward}\n\nForward + backward, ms:\n\n{both}"


def scan_ssd(record: dict[str, Any]) -> str:
    """Milliseconds, nanoseconds a token and the share of the matrix-product rate."""
    parts = []
    for mode, name in {"forward": "Forward", "both": "Forward + backward"}.items():
        rows = []
        for label, found in scan_sizes(record, "ssd"):
            own = next(found[side] for side in SIDES if side in found)
            token = 1e6 * own[f"{mode}_ms"] / own["tokens"]
            share = own[f"{mode}_products_ms"] / own[f"{mode}_ms"]
            composed = milliseconds(found["torch"][f"{mode}_ms"]) if "torch" in found else "–"
            times = [milliseconds(own[f"{mode}_ms"]), f"{token:,.0f}", f"{share:.0%}", composed]
            rows.append([*label, *times, f"{own[f'{mode}_memory']:.2f}"])
        columns = ["threads", "D", "S", "N", "pochade, ms", "ns a token", "share", "composed, ms", "memory"]
        parts.append(f"{name}:\n\n{table(columns, rows)}")
    return "\n\n".join(parts)


def scan_cold_start(record: dict[str, Any]) -> str:
    """Seconds of the first calls."""
    empty, warm = record["cold_start"]["empty"], record["cold_start"]["warm"]
    rows = [[name, f"{empty[name]:.2f}", f"{warm[name]:.2f}"] for name in empty]
    rows.append(["together", f"{sum(empty.values()):.2f}", f"{sum(warm.values()):.2f}"])
    return table(["seconds", "nothing compiled", "compiled code on disk"], rows)


def scan_gpu(record: dict[str, Any]) -> str:
    """All kinds on a GPU."""
    titles = {"diagonal": "Diagonal recurrence", "selective": "Mamba-1, four directions"}
    parts = [f"Measured on {machine(record)}; memory and ratios as above, *copy* moves the same bytes on the device."]
    for kind, title in titles.items():
        for mode, name in {"forward": "forward", "both": "forward + backward"}.items():
            parts.append(f"{title}, {name}, ms:\n\n{scan_table(record, kind, mode, ('copy',))}")
    parts.append(f"SSD:\n\n{scan_ssd(record)}")
    return "\n\n".join(parts)


def grid_mixers(record: dict[str, Any]) -> str:
    """The mixers over a grid, as long a token at 64 x 64 as at 16 x 16?"""
    entries = {(e["mixer"], e["threads"], e["batch"], e["dim"], e["height"]): e for e in record["entries"]}
    rows = []
    for r in record["time_64_over_16"]:
        setting = r["mixer"], r["threads"], r["batch"], r["dim"]
        times = [
            f"{entries[(*setting, side)][f'{mode}_microseconds_per_token']:.2f}"
            for mode in ("forward", "forward_backward")
            for side in (16, 64)
        ]
        ratios = [f"{r['forward']:.2f}", f"{r['forward_backward']:.2f}"]
        rows.append([*map(str, setting), times[0], times[1], ratios[0], times[2], times[3], ratios[1]])
    grids = ["16 x 16", "64 x 64", "ratio"]
    columns = ["mixer", "threads", "batch", "D", *(f"forward, {g}" for g in grids), *(f"both, {g}" for g in grids)]
    head = (
        f"Microseconds a token ({record['processor']}, {record['cores']} cores; torch {record['torch']}), aimed at "
        f"is a ratio of at most {record['limit']:g}:"
    )
    return f"{head}\n\n{table(columns, rows)}"


KNOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "checkpoint": (f"{CHECKPOINTS}/lrf-openmoji/metrics.json", checkpoint),
    "lira_checkpoint": (f"{CHECKPOINTS}/lira-nano/metrics.json", checkpoint),
    "lira_study": (f"{BENCHMARKS}/lira_study.json", study),
    "lira_thinking": (f"{BENCHMARKS}/lira_thinking.json", lira_thinking),
    "lira_sampling": (f"{BENCHMARKS}/lira_sampling.json", sampling),
    "startup": (f"{BENCHMARKS}/startup.json", startup),
    "denoiser_step": (f"{BENCHMARKS}/denoiser_step.json", denoiser_step),
    "lira_step": (f"{BENCHMARKS}/lira_step.json", denoiser_step),
    "iris_step": (f"{BENCHMARKS}/iris_step.json", denoiser_step),
    "microforge_step": (f"{BENCHMARKS}/microforge_step.json", denoiser_step),
    "lira_native": (f"{BENCHMARKS}/lira.json", lira_native),
    "lira_tokens": (f"{BENCHMARKS}/lira.json", lira_tokens),
    "lira_text": (f"{BENCHMARKS}/lira.json", lira_text),
    "lira_reasoning": (f"{BENCHMARKS}/lira.json", lira_reasoning),
    "autoencoder_channels": (f"{BENCHMARKS}/autoencoder_channels.json", autoencoder_channels),
    "cifar10_training": (f"{BENCHMARKS}/cifar10_training.json", cifar10_training),
    "scan_targets": (f"{BENCHMARKS}/scans.json", scan_targets),
    "scan_diagonal": (f"{BENCHMARKS}/scans.json", scan_diagonal),
    "scan_selective": (f"{BENCHMARKS}/scans.json", scan_selective),
    "scan_ssd": (f"{BENCHMARKS}/scans.json", scan_ssd),
    "scan_cold_start": (f"{BENCHMARKS}/scans.json", scan_cold_start),
    "scan_gpu": (f"{BENCHMARKS}/scans_cuda.json", scan_gpu),
    "grid_mixers": (f"{BENCHMARKS}/grid_mixers.json", grid_mixers),
}
"""Name -> where its measurements lie, and what makes a table of them."""

PAGES: dict[str, tuple[str, ...]] = {
    "README.md": ("checkpoint", "startup", "denoiser_step"),
    "docs/results.md": ("checkpoint", "autoencoder_channels", "cifar10_training"),
    "docs/benchmarks.md": (),
    "docs/lira.md": (),
    "src/pochade/checkpoints/lira-nano/README.md": ("lira_checkpoint",),
    "src/pochade/checkpoints/lrf-openmoji/README.md": ("checkpoint",),
}
"""Page -> what it shows between marks that name nothing."""


def figures(root: Path, names: Sequence[str]) -> str:
    """The tables for which there are measurements."""
    records = ((KNOWN[name][1], read(root / KNOWN[name][0])) for name in names)
    return "".join(f"\n{render(record)}\n" for render, record in records if record)


def fill(page: str, root: Path, names: Sequence[str]) -> str:
    """The page with tables between its marks, ``names`` where they name none."""
    if not MARKS.search(page):
        raise ValueError("the page has no marks figures:begin and figures:end")

    def filled(marks: re.Match[str]) -> str:
        block = figures(root, marks[2].split() or names)
        return f"{marks[1]}{block}\n{marks[3]}" if block else f"{marks[1]}{marks[3]}"

    return MARKS.sub(filled, page)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    stale = []
    for name, shown in PAGES.items():
        path = root / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, root, shown)
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
