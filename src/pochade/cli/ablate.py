"""``pochade ablate``."""

import json
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Annotated, Any

import typer

from pochade.cli.common import console, print_json
from pochade.errors import PochadeError, nearest

EXAMPLES = """[bold]Examples[/bold]

pochade ablate --list

pochade ablate lira --out runs/lira-study steps=1000

pochade ablate lira --out runs/lira-study steps=1000 --cases loop,none --seeds 3"""

COLUMNS = ("case", "parameters", "s/step", "loss", "kd train", "kd held-out", "R@1 train", "R@1 held-out")


def ablate(
    *,
    study: Annotated[str | None, typer.Argument(help="Name of a study (--list).")] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(help="Changes in all runs, as FIELD=VALUE.", metavar="[FIELD=VALUE]...")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the study.", show_default="runs/STUDY")
    ] = None,
    cases: Annotated[str | None, typer.Option(help="Some of the cases, separated by commas.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each case, with seeds from 0 on.")] = 1,
    close_seeds: Annotated[
        int, typer.Option(help="Runs of the first case and of those that lie within the spread of its distance.")
    ] = 1,
    samples: Annotated[int, typer.Option(help="Captions of each split that are painted.")] = 500,
    sampling_steps: Annotated[int, typer.Option(help="Steps of the sampling.")] = 20,
    list_: Annotated[bool, typer.Option("--list", help="List the studies and their cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Train the same recipe with one thing changed at a time, at equal cost, and compare.

    Runs that are finished are used as they are, so an interrupted study goes on where it stopped.
    """
    from pochade.recipes.studies import STUDIES
    from pochade.recipes.studies import study as find

    if list_:
        for name, found in STUDIES.items():
            console().print(f"{name}: {found.about}", markup=False)
            for case, told in found.cases.items():
                console().print(f"  {case:14s} {told.about}", markup=False)
        return
    if study is None:
        raise PochadeError("study: none given, pochade ablate --list names them")
    chosen = find(study)
    names = list(chosen.cases) if cases is None else [name.strip() for name in cases.split(",")]
    for name in names:
        if name not in chosen.cases:
            allowed = ", ".join(chosen.cases)
            raise PochadeError(f"cases: {name!r} given, allowed are {allowed}{nearest(name, chosen.cases)}")
    for option, value, least in (
        ("seeds", seeds, 1),
        ("close_seeds", close_seeds, 1),
        ("samples", samples, 2),
        ("sampling_steps", sampling_steps, 1),
    ):
        if value < least:
            raise PochadeError(f"{option}: {value} given, allowed are {least} and more")
    folder = out or Path("runs") / study

    def measured(name: str, runs: int) -> dict[str, Any]:
        return _case(chosen, name, tuple(changes or ()), folder, runs, samples, sampling_steps)

    rows = [measured(name, seeds) for name in names]
    if close_seeds > seeds:
        close = {row["case"] for row in rows if _is_close(row, rows[0])}
        rows = [measured(name, close_seeds if name in close else seeds) for name in names]
    text = _table(rows)
    _write(folder, rows, text)
    if as_json:
        print_json(rows)
    else:
        print(text)


def _case(
    study: Any, name: str, changes: tuple[str, ...], folder: Path, seeds: int, samples: int, steps: int
) -> dict[str, Any]:
    from pochade.recipes.run import run
    from pochade.recipes.studies import stages_of_case

    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        stages = stages_of_case(study, name, seed, changes)
        model = run(stages, folder, resume=True)
        runs.append(_measure(model, stages[-1], samples, steps))
    case = study.cases[name]
    return {"case": name, "about": case.about, "expected": case.expected, "runs": runs}


def _is_close(row: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether two cases differ by less than the spreads of their distances together (the first is close to itself)."""
    one, other = row["runs"][0], first["runs"][0]
    spread = (one["kd train spread"] ** 2 + other["kd train spread"] ** 2) ** 0.5
    return abs(one["kd train"] - other["kd train"]) <= spread


def _measure(model: Path, stage: Any, samples: int, steps: int) -> dict[str, Any]:
    """The figures of a trained model, kept beside it with the settings that they were measured with.

    ``loss`` is the mean over the last quarter of the training: all cases see the same pictures and noises there.
    """
    from pochade.data.sources.captioned import read_store
    from pochade.evaluation.report import evaluate
    from pochade.files import write_json
    from pochade.pipelines.text_to_image import TextToImagePipeline

    settings = {"samples": samples, "sampling_steps": steps}
    kept = model.parent / "measured.json"
    found = read_store(kept)
    if found.get("settings") == settings:
        return found["figures"]
    pipeline = TextToImagePipeline.from_pretrained(str(model))
    report = evaluate(
        pipeline,
        stage.data.source,
        samples=samples,
        steps=steps,
        guidance=pipeline.default_guidance,
        seed=0,
        size=stage.data.size,
        out=model.parent / "evaluation",
        model=stage.name,
    ).figures
    lines = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    sides = {split: report[split] for split in ("train", "held_out") if isinstance(report[split], dict)}
    figures: dict[str, Any] = {
        "parameters": report["parameters"]["denoiser"],
        "steps": stage.steps,
        "seconds_per_step": median(line["seconds_per_step"] for line in lines),
        "loss": fmean(line["loss"] for line in lines[-max(1, len(lines) // 4) :]),
        **{f"kd {split}": side["kd_lite0"] for split, side in sides.items()},
        **{f"kd {split} spread": side["kd_lite0 spread"] for split, side in sides.items()},
        **{f"R@1 {split}": side["retrieval"]["generated"]["R@1"] for split, side in sides.items()},
    }
    write_json(kept, {"settings": settings, "figures": figures})
    return figures


def _table(rows: list[dict[str, Any]]) -> str:
    expected = any(row["expected"] for row in rows)
    columns = (*COLUMNS, "expected") if expected else COLUMNS
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        runs = row["runs"]

        def over(key: str, form: str, runs: list[dict[str, Any]] = runs) -> str:
            """Mean over the seeds, with its deviation; of a single run with the spread of the metric."""
            values = [run[key] for run in runs if key in run]
            if not values:
                return "–"
            spread = stdev(values) if len(values) > 1 else runs[0].get(f"{key} spread")
            return f"{fmean(values):{form}}" + ("" if spread is None else f" ± {spread:{form}}")

        cells = [
            f"{row['case']}: {row['about']}",
            f"{runs[0]['parameters'] / 1e6:.2f} M",
            f"{median(run['seconds_per_step'] for run in runs):.2f}",
            over("loss", ".3f"),
            over("kd train", ".3f"),
            over("kd held_out", ".3f"),
            over("R@1 train", ".2f"),
            over("R@1 held_out", ".3f"),
            *([row["expected"] or "–"] if expected else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _write(folder: Path, rows: list[dict[str, Any]], text: str) -> None:
    from pochade.files import atomic_file, write_json

    write_json(folder / "table.json", rows)
    with atomic_file(folder / "table.md") as file:
        file.write((text + "\n").encode())
