"""Writes the measured figures into README, docs and the model card, between ``figures:begin`` and ``figures:end``.

Names behind ``begin`` choose the tables (``figures:begin startup``); without them a page shows those of ``PAGES``.

They come from the metrics of the shipped checkpoint (``metrics.json``, as ``pochade evaluate`` writes its
``report.json``) and from what the benchmarks leave in docs/benchmarks. What has not been measured is left out.

    python scripts/figures.py            write
    python scripts/figures.py --check    exit code 1 where a file is not up to date, or where a table holds figures
                                         outside the marks that ``tables/typed.py`` does not account for
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "src")]

from tables import claims, editing, lira, models, peers, processor, runtimes, scale, scans, typed, yours  # noqa: E402

from pochade.files import write_text  # noqa: E402

CHECKPOINTS = "src/pochade/checkpoints"
BESIDE = "checkpoints"
BENCHMARKS = "docs/benchmarks"
MARKS = re.compile(r"(<!-- figures:begin((?: \w+)*) -->\n).*?(<!-- figures:end -->)", re.DOTALL)


def read(path: Path) -> Any:
    """The JSON of a file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


KNOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "drawings_checkpoint": (f"{CHECKPOINTS}/open-drawings/metrics.json", models.checkpoint),
    "checkpoint": (f"{CHECKPOINTS}/lrf-openmoji/metrics.json", models.checkpoint),
    "lira_checkpoint": (f"{BESIDE}/lira-nano/metrics.json", models.checkpoint),
    "iris_study": (f"{BENCHMARKS}/iris_study.json", models.study),
    "lira_study": (f"{BENCHMARKS}/lira_study.json", models.study),
    "lira_parts": (f"{BENCHMARKS}/lira_parts.json", models.study),
    "lira_thinking": (f"{BENCHMARKS}/lira_thinking.json", models.lira_thinking),
    "lira_sampling": (f"{BENCHMARKS}/lira_sampling.json", models.sampling),
    "microforge_checkpoint": (f"{BESIDE}/microforge-nano/metrics.json", models.checkpoint),
    "microforge_edit_checkpoint": (f"{CHECKPOINTS}/microforge-edit/metrics.json", models.checkpoint),
    "microforge_latents": (f"{BENCHMARKS}/microforge_latents.json", models.study),
    "microforge_source": (f"{BENCHMARKS}/microforge_source.json", editing.microforge_source),
    "microforge_study": (f"{BENCHMARKS}/microforge_study.json", models.study),
    "microforge_longer": (f"{BENCHMARKS}/microforge_longer.json", models.study),
    "microforge_sampling": (f"{BENCHMARKS}/microforge_sampling.json", models.sampling),
    "microforge_memory": (f"{BENCHMARKS}/microforge.json", models.microforge_memory),
    "microforge_switches": (f"{BENCHMARKS}/microforge.json", models.microforge_switches),
    "microforge_modulation": (f"{BENCHMARKS}/microforge.json", models.microforge_modulation),
    "microforge_carry": (f"{BENCHMARKS}/microforge_carry.json", models.microforge_carry),
    "microforge_kernels": (f"{BENCHMARKS}/microforge_kernels.json", models.microforge_kernels),
    "iris_checkpoint": (f"{CHECKPOINTS}/iris-nano/metrics.json", models.checkpoint),
    "iris_fast_checkpoint": (f"{BESIDE}/iris-fast/metrics.json", models.checkpoint),
    "iris_depth": (f"{BENCHMARKS}/iris_depth.json", models.iris_depth),
    "iris_sampling": (f"{BENCHMARKS}/iris_sampling.json", models.sampling),
    "iris_few_steps": (f"{BENCHMARKS}/iris_few_steps.json", models.sampling),
    "few_steps": (f"{BENCHMARKS}/few_steps.json", models.sampling),
    "iris_autoencoders": (f"{BENCHMARKS}/iris_autoencoders.json", models.autoencoders_at_equal_bytes),
    "iris_control": (f"{BENCHMARKS}/iris_control.json", models.iris_control),
    "iris_control_depth": (f"{BENCHMARKS}/iris_control_depth.json", models.iris_control),
    "iris_control_pose": (f"{BENCHMARKS}/iris_control_pose.json", models.iris_control),
    "scale": (f"{BENCHMARKS}/scale.json", scale.scale),
    "curate": (f"{BENCHMARKS}/curate.json", scale.curate),
    "editing_inpaint": (f"{BENCHMARKS}/editing.json", editing.editing_inpaint),
    "editing_super_resolution": (f"{BENCHMARKS}/editing.json", editing.editing_super_resolution),
    "super_resolution": (f"{BENCHMARKS}/super_resolution.json", editing.super_resolution),
    "editing_instructions": (f"{BENCHMARKS}/editing.json", editing.editing_instructions),
    "editing_kinds": (f"{BENCHMARKS}/editing.json", editing.editing_kinds),
    "editing_local": (f"{BENCHMARKS}/editing.json", editing.editing_local),
    "image_prompt": (f"{BENCHMARKS}/image_prompt.json", editing.image_prompt),
    "editing_generation": (f"{BENCHMARKS}/editing.json", editing.editing_generation),
    "microforge_pictures": (f"{BENCHMARKS}/profiles.json", models.microforge_pictures),
    "iris_memory": (f"{BENCHMARKS}/profiles.json", models.iris_memory),
    "autoencoders": (f"{BENCHMARKS}/autoencoders.json", models.autoencoders_at_equal_bytes),
    "peers_costs": (f"{BENCHMARKS}/peers_quality.json", peers.costs),
    "peers_quality": (f"{BENCHMARKS}/peers_quality.json", peers.quality),
    "peers_longer_costs": (f"{BENCHMARKS}/peers_longer.json", peers.costs),
    "peers_longer": (f"{BENCHMARKS}/peers_longer.json", peers.quality),
    "runtimes": (f"{BENCHMARKS}/runtimes.json", runtimes.runtimes),
    "browser": (f"{BENCHMARKS}/browser.json", runtimes.browser),
    "budget": (f"{BENCHMARKS}/budget.json", runtimes.budget),
    "exported_step": (f"{BENCHMARKS}/exported_step.json", runtimes.exported_step),
    "conversions": (f"{BENCHMARKS}/conversions.json", runtimes.conversions),
    "precisions": (f"{BENCHMARKS}/precisions.json", runtimes.precisions),
    "startup": (f"{BENCHMARKS}/startup.json", models.startup),
    "allocator": (f"{BENCHMARKS}/allocator.json", processor.allocator),
    "linear_products": (f"{BENCHMARKS}/linear.json", processor.linear_products),
    "linear_steps": (f"{BENCHMARKS}/linear.json", processor.linear_steps),
    "denoiser_step": (f"{BENCHMARKS}/denoiser_step.json", models.denoiser_step),
    "lira_step": (f"{BENCHMARKS}/lira_step.json", models.denoiser_step),
    "iris_step": (f"{BENCHMARKS}/iris_step.json", models.denoiser_step),
    "microforge_step": (f"{BENCHMARKS}/microforge_step.json", models.denoiser_step),
    "lira_native": (f"{BENCHMARKS}/lira.json", lira.lira_native),
    "lira_tokens": (f"{BENCHMARKS}/lira.json", lira.lira_tokens),
    "lira_text": (f"{BENCHMARKS}/lira.json", lira.lira_text),
    "lira_reasoning": (f"{BENCHMARKS}/lira.json", lira.lira_reasoning),
    "autoencoder_channels": (f"{BENCHMARKS}/autoencoder_channels.json", models.autoencoder_channels),
    "cifar10_training": (f"{BENCHMARKS}/cifar10_training.json", models.cifar10_training),
    "cifar10_classes": (f"{BENCHMARKS}/cifar10_classes.json", models.cifar10_classes),
    "fast_sampling": (f"{BENCHMARKS}/fast_sampling.json", models.fast_sampling),
    "schedulers": (f"{BENCHMARKS}/schedulers.json", models.schedulers),
    "scan_targets": (f"{BENCHMARKS}/scans.json", scans.scan_targets),
    "scan_diagonal": (f"{BENCHMARKS}/scans.json", scans.scan_diagonal),
    "scan_selective": (f"{BENCHMARKS}/scans.json", scans.scan_selective),
    "scan_ssd": (f"{BENCHMARKS}/scans.json", scans.scan_ssd),
    "scan_cold_start": (f"{BENCHMARKS}/scans.json", scans.scan_cold_start),
    "scan_gpu": (f"{BENCHMARKS}/scans_cuda.json", scans.scan_gpu),
    "grid_mixers": (f"{BENCHMARKS}/grid_mixers.json", scans.grid_mixers),
    "photographs": (f"{BENCHMARKS}/photographs.json", yours.photographs),
    "evening": (f"{BENCHMARKS}/evening.json", yours.evening),
    "ratios": (f"{BENCHMARKS}/ratios.json", yours.ratios),
}
"""Name -> where its measurements lie, and what makes a table of them."""

CLAIMS: dict[str, Callable[[dict[str, Any]], str]] = {
    **{f"claims_{name}": partial(claims.design, name) for name in claims.DESIGNS},
    "claims_counts": lambda _: claims.counts(),
}
"""Name -> what makes a table of all measurements."""

PAGES: dict[str, tuple[str, ...]] = {
    "README.md": ("drawings_checkpoint", "startup", "denoiser_step"),
    "docs/results.md": (
        "drawings_checkpoint",
        "checkpoint",
        "autoencoder_channels",
        "cifar10_training",
        "cifar10_classes",
    ),
    "docs/adapters.md": (),
    "docs/benchmarks.md": (),
    "docs/claims.md": (),
    "docs/editing.md": (),
    "docs/iris.md": (),
    "docs/lira.md": (),
    "docs/microforge.md": (),
    "docs/peers.md": (),
    "docs/on-device.md": (),
    "docs/photographs.md": (),
    "docs/scale.md": (),
    "docs/training.md": (),
    "docs/your-pictures.md": (),
    "checkpoints/iris-fast/README.md": ("iris_fast_checkpoint",),
    "src/pochade/checkpoints/iris-nano/README.md": ("iris_checkpoint",),
    "checkpoints/lira-nano/README.md": ("lira_checkpoint",),
    "src/pochade/checkpoints/microforge-edit/README.md": ("microforge_edit_checkpoint",),
    "checkpoints/microforge-nano/README.md": ("microforge_checkpoint",),
    "src/pochade/checkpoints/lrf-openmoji/README.md": ("checkpoint",),
    "src/pochade/checkpoints/open-drawings/README.md": ("drawings_checkpoint",),
}
"""Page -> what it shows between marks that name nothing."""


def everything(root: Path) -> dict[str, Any]:
    """All measurements: of benchmarks by the name of their file, of checkpoints by the name of the model."""
    metrics = [path for folder in (CHECKPOINTS, BESIDE) for path in (root / folder).glob("*/metrics.json")]
    records = {path.stem: read(path) for path in (root / BENCHMARKS).glob("*.json")}
    return records | {path.parent.name: read(path) for path in metrics}


def figures(root: Path, names: Sequence[str]) -> str:
    """The tables for which there are measurements."""
    made = (CLAIMS[name](everything(root)) if name in CLAIMS else one(root, *KNOWN[name]) for name in names)
    return "".join(f"\n{table}\n" for table in made if table)


def one(root: Path, path: str, render: Callable[[Any], str]) -> str:
    """The table of one record; empty where it is not there."""
    record = read(root / path)
    return render(record) if record else ""


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
                write_text(path, after)
    if "--check" not in arguments:
        return 0
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    loose = typed.unaccounted({p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in pages}, MARKS)
    if stale:
        print(f"not up to date: {', '.join(stale)}; run make figures", file=sys.stderr)
    for line in loose:
        print(line, file=sys.stderr)
    return 1 if stale or loose else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
