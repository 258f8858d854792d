"""``pochade evaluate``: figures of a model on a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.cli import options
from pochade.cli.common import console, is_main, loading, print_json, quiet_libraries
from pochade.cli.data_options import MaxMegapixels, MaxSkipped, read_limits
from pochade.device import check_device, check_precision, own_device
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.schedulers import OWN, check_scheduler

if TYPE_CHECKING:
    from pochade.evaluation.grid import Row
    from pochade.pipelines.text_to_image import TextToImagePipeline

EXAMPLES = """[bold]Examples[/bold]

pochade evaluate lrf-openmoji openmoji -o report/

pochade evaluate runs/lrf/3-flow/model my-pictures/ --samples 200 --json

pochade evaluate lrf-openmoji lira-nano openmoji --sheet -o beside/

pochade evaluate iris-nano openmoji --grid 1,2,4,8x4,8,12 -o grid/

torchrun --nproc-per-node 8 -m pochade evaluate runs/iris my-pictures/ --samples 50000 -o report/

torchrun --nproc-per-node 8 -m pochade evaluate runs/iris openmoji --samples 1000 --per-caption 50 -o report/"""


def evaluate(
    *,
    names: Annotated[
        list[str],
        typer.Argument(
            help="Model: name, folder, or OWNER/NAME; several with --sheet. Then the data, openmoji if left "
            "out: openmoji, cifar10:PATH, a folder of pictures, or shards.",
            metavar="MODEL... [DATA]",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("evaluation"),
    samples: Annotated[int, typer.Option(help="Captions of each split.")] = 500,
    per_caption: Annotated[int, typer.Option(help="Pictures generated for each caption.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; left out, the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; left out, the model's own.")] = None,
    guidance_interval: options.GuidanceInterval = None,
    seed: Annotated[int, typer.Option(help="Of the first picture.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures generated at once.")] = 32,
    clip: Annotated[str | None, typer.Option(help="CLIP model, a folder or OWNER/NAME, for the CLIP score.")] = None,
    inception: Annotated[
        str | None, typer.Option(help="TorchScript file of the Inception network, for FID and KID (Inception).")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Pixels: 64 or WIDTHxHEIGHT; left out, as the model was trained.", metavar="SIZE"),
    ] = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Instead of a report, a table of KID and R@1 by steps, and by depth: 1,2,4,8 or 1,2,4,8x4,8,12.",
            metavar="STEPS[xDEPTHS]",
        ),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--sheet", help="Several models side by side, in one page and one picture.")
    ] = False,
    device: options.Device = None,
    precision: options.Precision = None,
    max_megapixels: MaxMegapixels = None,
    max_skipped: MaxSkipped = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a model on captions it knows and on held-out ones.

    Distances to real pictures, retrieval, copying, reconstruction: figures as JSON, and a page with pictures.
    """
    if scheduler is not None:
        check_scheduler(scheduler)
    interval = None if guidance_interval is None else options.parse_interval(guidance_interval)
    cells = None if grid is None else _grid(grid)
    if cells is not None:
        others = {"steps": steps, "depth": depth, "clip": clip, "inception": inception, "scheduler": scheduler}
        others["guidance_interval"] = guidance_interval
        others["per_caption"] = None if per_caption == 1 else per_caption
        for name, value in others.items():
            if value is not None:
                raise PochadeError(f"{name}: {value!r} given with a grid, allowed is none")
    width, height = (None, None) if size is None else options.parse_size(size)
    if cells is not None and width != height:
        raise PochadeError(f"size: {size!r} given with a grid, allowed are pixels a side such as 64")
    check_device(device or "auto")
    check_precision(precision or "auto")
    reading = read_limits(max_megapixels, max_skipped)
    models, data = _models_and_data(names)
    if side_by_side != (len(models) > 1):
        raise PochadeError(f"models: {', '.join(models)} given; allowed are one, and with --sheet two and more")
    if side_by_side and cells is not None:
        raise PochadeError(f"grid: {grid!r} given with --sheet, allowed is none")
    from pochade.evaluation.settings import Settings, check_out

    Settings(
        samples=samples,
        steps=Settings.steps if steps is None else steps,
        guidance=Settings.guidance if guidance is None else guidance,
        seed=seed,
        batch_size=batch_size,
        per_caption=per_caption,
        guidance_interval=interval,
    )
    check_out(out, data)
    folders = {model: hub.resolve(model) for model in models}
    alike = [model for model, folder in folders.items() if list(folders.values()).count(folder) > 1]
    if alike:
        raise PochadeError(f"models: {' and '.join(alike)} are one, allowed is each once")
    pipes: dict[str, TextToImagePipeline] = {}
    for model, folder in folders.items():
        with loading(model):
            from pochade.pipelines.run_request import open_pipeline

            quiet_libraries()
            pipes[model] = open_pipeline(
                "TextToImagePipeline",
                folder,
                scheduler=scheduler or OWN,
                device=str(own_device(device or "auto")),
                precision=precision or "auto",
            )
        pipes[model].check_inputs(num_inference_steps=1, guidance_scale=1.0, height=height, width=width)
    shared: dict[str, Any] = {
        "samples": samples,
        "seed": seed,
        "out": out,
        "batch_size": batch_size,
        "size": width if width is None or height is None or width == height else (width, height),
        "reading": reading,
        "progress": not as_json,
    }
    own: dict[str, Any] = {"per_caption": per_caption, "depth": depth, "clip": clip, "inception": inception}
    own["guidance_interval"] = interval
    if side_by_side:
        _side_by_side(pipes, data, as_json, **shared, **own, steps=steps, guidance=guidance)
        return
    ((model, pipe),) = pipes.items()
    if cells is not None:
        from pochade.evaluation.grid import evaluate_grid
        from pochade.pipelines.budget import QUALITY

        table = evaluate_grid(
            pipe,
            data,
            *cells,
            guidance=pipe.default_guidance if guidance is None else guidance,
            **shared,
        )
        if not is_main():
            return
        if as_json:
            print_json(table)
        else:
            _print_grid(table["rows"])
            print(out / QUALITY)
        return
    from pochade.evaluation.report import evaluate as measure

    report = measure(
        pipe,
        data,
        steps=pipe.default_steps if steps is None else steps,
        guidance=pipe.default_guidance if guidance is None else guidance,
        model=model,
        **shared,
        **own,
    )
    if not is_main():
        return
    if as_json:
        print_json(report.figures)
    else:
        from pochade.evaluation.summary import CAPTION, table_of

        _print_table(*table_of(report.figures))
        console().print(CAPTION)
        print(f"{report.json}\n{report.page}\n{report.sheet}")


def _models_and_data(names: list[str]) -> tuple[list[str], str]:
    """The names, and the data that may follow them."""
    *models, last = names
    if not models or last in hub.shipped() or next(hub.below(Path(last), hub.INDEX), None) is not None:
        models, last = names, "openmoji"
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice is not None:
        raise PochadeError(f"models: {twice!r} given twice, allowed is once")
    return models, last


def _side_by_side(pipes: "dict[str, TextToImagePipeline]", data: str, as_json: bool, **options: Any) -> None:
    from pochade.evaluation.compare import evaluate_models
    from pochade.evaluation.summary import CAPTION, SPLITS, tables_beside

    found = evaluate_models(pipes, data, **options)
    if not is_main():
        return
    figures = {name: report.figures for name, report in found.reports.items()}
    if as_json:
        print_json(figures)
        return
    for split, table in tables_beside(figures).items():
        console().print(SPLITS[split])
        _print_table(*table)
    console().print(CAPTION)
    print(f"{found.json}\n{found.page}\n{found.sheet}")


def _print_table(head: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> None:
    from rich.table import Table

    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _grid(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Steps and depths of ``STEPS[xDEPTHS]``. Raises PochadeError."""
    steps, with_depths, depths = text.partition("x")
    return options.parse_counts("grid", steps), options.parse_counts("grid", depths) if with_depths else ()


def _print_grid(rows: "Sequence[Row]") -> None:
    cells: list[list[str]] = []
    for row in rows:
        kid, r1 = row["intervals"]["kid_lite0"], row["intervals"]["R@1"]
        depth = "-" if row["depth"] is None else str(row["depth"])
        distance = f"{row['kid_lite0']:.4f} ({kid[0]:.4f} to {kid[1]:.4f})"
        cells.append([str(row["steps"]), depth, distance, f"{row['R@1']:.2f} ({r1[0]:.2f} to {r1[1]:.2f})"])
    _print_table(["steps", "depth", "KID (Lite0)", "R@1"], cells)
