"""``pochade evaluate``: figures of a model on a data set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pochade.cli.common import loading, print_json, quiet_libraries
from pochade.pipelines import hub
from pochade.pipelines.schedulers import check_scheduler, make_scheduler

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
    scheduler: Annotated[str, typer.Option(help="euler, heun, dpm, lcm, or the model's own.")] = "model",
    depth: Annotated[int | None, typer.Option(help="Iterations inside the denoiser; left out, its own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a model on captions it knows and on held-out ones.

    Distances to real pictures, retrieval, copying, reconstruction: figures as JSON, and a page with pictures.
    """
    if scheduler != "model":
        check_scheduler(scheduler)
    folder = hub.resolve(model)
    pipe = _load(folder, model)
    if scheduler != "model":
        pipe.register_modules(scheduler=make_scheduler(scheduler))
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
        progress=not as_json,
    )
    if as_json:
        print_json(report.figures)
    else:
        print(f"{report.json}\n{report.page}\n{report.sheet}")


def _load(folder: Path, name: str) -> Any:
    with loading(name):
        from pochade.pipelines.text_to_image import TextToImagePipeline

        quiet_libraries()
        pipe = TextToImagePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe
