"""``pochade evaluate``: figures of a model on a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pochade.cli import options
from pochade.cli.common import console, loading, print_json, quiet_libraries
from pochade.cli.data import MaxMegapixels, MaxSkipped, read_limits
from pochade.device import check_device, check_precision
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.schedulers import OWN, check_scheduler

if TYPE_CHECKING:
    from pochade.evaluation.grid import Row

EXAMPLES = """[bold]Examples[/bold]

pochade evaluate lrf-openmoji openmoji -o report/

pochade evaluate runs/lrf/3-flow/model my-pictures/ --samples 200 --json

pochade evaluate iris-nano openmoji --grid 1,2,4,8x4,8,12 -o grid/"""


def evaluate(
    *,
    model: Annotated[str, typer.Argument(help="Name, folder, or OWNER/NAME.")],
    data: Annotated[str, typer.Argument(help="openmoji, cifar10:PATH, a folder of pictures, or shards.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("evaluation"),
    samples: Annotated[int, typer.Option(help="Captions of each split.")] = 500,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; left out, the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; left out, the model's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first picture.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures generated at once.")] = 32,
    clip: Annotated[str | None, typer.Option(help="Folder of a CLIP model, for the CLIP score.")] = None,
    inception: Annotated[
        str | None, typer.Option(help="TorchScript file of the Inception network, for FID and KID (Inception).")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels; left out, as the model was trained.")] = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Instead of a report, a table of KID and R@1 by steps, and by depth: 1,2,4,8 or 1,2,4,8x4,8,12.",
            metavar="STEPS[xDEPTHS]",
        ),
    ] = None,
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
    cells = None if grid is None else _grid(grid)
    if cells is not None:
        others = {"steps": steps, "depth": depth, "clip": clip, "inception": inception, "scheduler": scheduler}
        for name, value in others.items():
            if value is not None:
                raise PochadeError(f"{name}: {value!r} given with a grid, allowed is none")
    check_device(device or "auto")
    check_precision(precision or "auto")
    reading = read_limits(max_megapixels, max_skipped)
    folder = hub.resolve(model)
    with loading(model):
        from pochade.pipelines.run_request import open_pipeline

        quiet_libraries()
        pipe = open_pipeline(
            "TextToImagePipeline",
            folder,
            scheduler=scheduler or OWN,
            device=device or "auto",
            precision=precision or "auto",
        )
    pipe.check_inputs(num_inference_steps=1, guidance_scale=1.0, height=size, width=size)
    if cells is not None:
        from pochade.evaluation.grid import evaluate_grid
        from pochade.pipelines.budget import QUALITY

        table = evaluate_grid(
            pipe,
            data,
            *cells,
            samples=samples,
            guidance=pipe.default_guidance if guidance is None else guidance,
            seed=seed,
            out=out,
            batch_size=batch_size,
            size=size,
            reading=reading,
            progress=not as_json,
        )
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
        samples=samples,
        steps=pipe.default_steps if steps is None else steps,
        guidance=pipe.default_guidance if guidance is None else guidance,
        seed=seed,
        out=out,
        batch_size=batch_size,
        clip=clip,
        inception=inception,
        size=size,
        depth=depth,
        model=model,
        reading=reading,
        progress=not as_json,
    )
    if as_json:
        print_json(report.figures)
    else:
        print(f"{report.json}\n{report.page}\n{report.sheet}")


def _grid(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Steps and depths of ``STEPS[xDEPTHS]``. Raises PochadeError."""
    steps, with_depths, depths = text.partition("x")
    return options.parse_counts("grid", steps), options.parse_counts("grid", depths) if with_depths else ()


def _print_grid(rows: "Sequence[Row]") -> None:
    from rich.table import Table

    table = Table("steps", "depth", "KID (Lite0)", "R@1")
    for row in rows:
        depth = "-" if row["depth"] is None else str(row["depth"])
        table.add_row(str(row["steps"]), depth, f"{row['kid_lite0']:.4f}", f"{row['R@1']:.2f}")
    console().print(table)
