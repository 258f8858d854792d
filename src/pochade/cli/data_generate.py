"""``pochade data generate``: a data set that a model makes."""

from typing import Annotated

import typer

from pochade.cli import options
from pochade.cli.common import loading, quiet_libraries
from pochade.cli.data_options import Format, Json, Out, Overwrite, Split, place, show, target_of
from pochade.device import check_device, check_precision, own_device
from pochade.errors import naming
from pochade.pipelines import hub
from pochade.pipelines.schedulers import OWN


def generate(
    *,
    captions: Annotated[str, typer.Argument(help="Whose captions: a source as train takes it, such as openmoji.")],
    out: Out,
    model: Annotated[str, typer.Option(help="The teacher: name, folder, or OWNER/NAME.")] = hub.DEFAULT_MODEL,
    count: Annotated[int, typer.Option(help="Pictures to make, before near duplicates are left out.")] = 100_000,
    size: Annotated[int | None, typer.Option(help="Pixels; left out, the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; left out, the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; left out, the model's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first picture.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures generated at once.")] = 32,
    split: Split = "both",
    format_: Format = "shards",
    device: options.Device = None,
    precision: options.Precision = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write captioned pictures that a model makes, without near duplicates, with a report and a card.

    An interrupted call goes on where it was. For example: pochade data generate openmoji data/synthetic --count 1000
    """
    from pochade.data.sources import parse_source

    source = parse_source(captions)
    source.check()
    check_device(device or "auto")
    check_precision(precision or "auto")
    with loading(model), naming("model", "name_or_folder"):
        folder = hub.resolve(model)
        from pochade.evaluation.synthesis import Plan, synthesise
        from pochade.export.bundle import model_facts
        from pochade.pipelines.run_request import open_pipeline

        quiet_libraries()
        pipe = open_pipeline(
            "TextToImagePipeline",
            folder,
            scheduler=OWN,
            device=str(own_device(device or "auto")),
            precision=precision or "auto",
        )
    side = int(pipe.default_size) if size is None else size
    plan = Plan(
        count,
        pipe.default_steps if steps is None else steps,
        pipe.default_guidance if guidance is None else guidance,
        seed,
        batch_size,
    )
    pipe.check_inputs(num_inference_steps=plan.steps, guidance_scale=plan.guidance, height=side, width=side)
    with place(out, overwrite) as written:
        target = target_of(written, side, split, format_, None, overwrite)
        report = synthesise(pipe, model_facts(model, folder), source, target, plan, progress=not as_json)
    show(out, report, as_json)
    if not as_json:
        print(f"{report['alike']} of {report['made']} pictures were near duplicates and were left out")
