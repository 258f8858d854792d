"""``pochade evaluate``: figures of a model on a data set."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli import options
from pochade.cli.common import loading, print_json, quiet_libraries
from pochade.cli.data import MaxMegapixels, MaxSkipped, read_limits
from pochade.device import check_device, check_precision
from pochade.pipelines import hub
from pochade.pipelines.schedulers import OWN, check_scheduler

EXAMPLES = """[bold]Examples[/bold]

pochade evaluate lrf-openmoji openmoji -o report/

pochade evaluate runs/lrf/3-flow/model my-pictures/ --samples 200 --json"""


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
