"""``pochade generate``: prompts to PNG files."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.arguments import check_beside, is_given
from pochade.cli import bundles, options
from pochade.cli.common import console, listed, loading, processes, quiet_libraries
from pochade.cli.output import Made, Output
from pochade.cli.prompts import check_made_by, numbered, read_prompts
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.metadata import read_metadata, slug, write_png
from pochade.pipelines.prepare import PreparedRequest, faster, prepare, prepare_repeat
from pochade.pipelines.requests import GenerationRequest

if TYPE_CHECKING:
    from pochade.cli.watch import Watch

NOT_OF_BUNDLES = (
    "lora",
    "embedding",
    "size",
    "scheduler",
    "decoder",
    "control",
    "edges_of",
    "image_prompt",
    "image_prompt_scale",
    "device",
    "precision",
    "allow_pickle",
)
"""Options of which a bundle takes at most what is usual."""

EXAMPLES = """[bold]Examples[/bold]

pochade generate "a red apple" "a sleeping cat" -o out/ --seed 7

pochade generate "a sailboat" --steps 20 --guidance 4 --preview

pochade generate @prompts.txt -n 4 -o out/

pochade generate "a red apple" --model lrf-openmoji --fast

pochade generate "a red apple" --budget 300ms

torchrun --nproc-per-node 8 -m pochade generate @prompts.txt -n 4 --seed 0 -o many/

pochade generate --like out/a-red-apple-7.png -o again/

pochade generate "a red apple" --model bundle/    (a folder of pochade export: starts faster, without PyTorch)

[bold]Seeds and files[/bold]

Picture i (from 0) has the seed SEED + i. It stands in the file's name.

The file holds the request that made it; the same request gives the same picture.

No file is ever replaced: a taken name gets -2, -3 and so on."""


def generate(
    *,
    prompts: options.Prompts = None,
    per_prompt: options.PerPrompt = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("out"),
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guidance_interval: options.GuidanceInterval = None,
    model: options.Model = None,
    lora: options.LoRAs = None,
    embedding: options.Embeddings = None,
    negative_prompt: options.NegativePrompt = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 64, or WIDTHxHEIGHT. Left out: as the model was trained.")
    ] = None,
    scheduler: options.Scheduler = None,
    decoder: options.Decoder = None,
    depth: options.Depth = None,
    budget: options.Budget = None,
    fast: options.Fast = False,
    control: Annotated[
        Path | None,
        typer.Option(
            help="White edges on black, a depth map or a stick figure to follow, as the model takes it.",
            metavar="FILE",
        ),
    ] = None,
    edges_of: Annotated[
        Path | None,
        typer.Option(help="A picture whose edges are followed; they are written to OUT as well.", metavar="FILE"),
    ] = None,
    image_prompt: Annotated[
        Path | None,
        typer.Option(help="A picture whose style is followed; for models that take one.", metavar="FILE"),
    ] = None,
    image_prompt_scale: Annotated[
        float | None,
        typer.Option(help="How strongly the image prompt is followed; 0 is not at all. [dim]\\[default: 1][/dim]"),
    ] = None,
    device: options.Device = None,
    precision: options.Precision = None,
    like: options.Like = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also put all pictures with their prompts on one sheet. Without -o, the sheet alone.",
            metavar="FILE.png",
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Show the picture while it is sampled, in the terminal or OUT/preview.png."),
    ] = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]  # typer fills it in
) -> None:
    """Generate a picture for every prompt, as PNG with its request inside."""
    if control is not None and edges_of is not None:
        raise PochadeError("edges_of: given beside control, allowed is one of them")
    followed = control or edges_of
    budget_ms = None
    if budget is not None:
        from pochade.runtime.budget import check_budget, parse_budget

        budget_ms = parse_budget(budget)
        check_budget(budget_ms, steps=steps, depth=depth)
    if fast:
        check_beside("fast", steps=steps, guidance_interval=guidance_interval, budget=budget)
    width, height = (None, None) if size is None else options.parse_size(size)
    given = {
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "guidance_interval": None if guidance_interval is None else options.parse_interval(guidance_interval),
        "model": model,
        "loras": tuple(lora) if lora else None,
        "embeddings": tuple(embedding) if embedding else None,
        "negative_prompt": negative_prompt,
        "width": width,
        "height": height,
        "scheduler": scheduler,
        "decoder": decoder,
        "depth": depth,
        "control": followed,
        "control_edges": None if followed is None else edges_of is not None,
        "image_prompt": image_prompt,
        "image_prompt_scale": image_prompt_scale,
        "device": device,
        "precision": precision,
    }
    rank, size_of_group = processes()
    if size_of_group > 1:
        _check_shared(seed, like, sheet, budget)
    single = sheet is None or context.get_parameter_source("out").name == "COMMANDLINE"  # pyright: ignore[reportOptionalMemberAccess]
    output = Output(out, single, sheet, preview, as_json)
    output.check()
    given = {name: value for name, value in given.items() if value is not None}
    further = {name: context.params[name] for name in NOT_OF_BUNDLES}
    sentences = read_prompts(prompts or [])
    if model is not None and hub.is_bundle(model):
        ask = bundles.Ask(sentences, per_prompt, given, like, budget, fast, metadata=not no_metadata)
        bundles.generate(bundles.Source(Path(model).expanduser()), ask, further, output, processes())
        return
    if size_of_group > 1:
        from pochade.device import own_device

        given["device"] = str(own_device(device or "auto"))
    requests = _requests(sentences, per_prompt, given, like, fast)
    by_torch = size_of_group > 1 or is_given(budget) or bundles.asks_for_pytorch(precision, allow_pickle)
    source = None if by_torch else bundles.of_model(requests)
    if source is not None:
        bundles.generate(source, bundles.ask_of(requests, metadata=not no_metadata), {}, output, processes())
        return

    with loading(requests[0].request.model):
        from pochade.cli.watch import pipeline_steps
        from pochade.pipelines.run_request import load_pipeline, pipeline_arguments, read_files, run

        quiet_libraries()
        pictures = read_files(requests[0])
        pipe = load_pipeline(requests[0], allow_pickle=allow_pickle)
        arguments = pipeline_arguments(requests[0].request, pipe, pictures)
    mine = requests[rank::size_of_group]
    choice = None
    if budget_ms is not None:
        from pochade.pipelines.budget import fit, spent

        choice = fit(pipe, requests[0], arguments, budget_ms)
        mine = [spent(prepared, choice) for prepared in mine]

    def sample(i: int, watch: "Watch") -> Made:
        request, start = mine[i].request, time.perf_counter()
        watch.begin(f"{request.prompt} ({request.seed})")
        picture = run(pipe, mine[i], arguments, pipeline_steps(watch, pipe.decode_latents))
        if choice is not None:
            console(stderr=True).print(choice.report(1000 * (time.perf_counter() - start)), highlight=False)
        facts = {**picture.metadata.to_dict(), "aux": dict(picture.aux)}
        return Made(picture.image, request.prompt, facts, lambda folder: picture.save(folder, metadata=not no_metadata))

    with listed(as_json) as files:
        output.make(len(mine), sample, files)
        if edges_of is not None and single and rank == 0:
            from pochade.images.controls import control_image

            path = write_png(control_image(arguments["control"]), out, f"{slug(edges_of.stem)}-edges")
            output.add(files, {"file": str(path), "edges_of": str(edges_of)})


def _requests(
    prompts: list[str], per_prompt: int, given: dict[str, Any], like: Path | None, fast: bool
) -> list[PreparedRequest]:
    """``per_prompt`` for each prompt, which count seeds up. Raises PochadeError."""
    if like is None:
        if not prompts:
            raise PochadeError("prompt: none given, allowed is one sentence or more, @FILE of them, or - for stdin")
        first = prepare(GenerationRequest(prompts[0], **given))
    else:
        metadata = read_metadata(like)
        check_made_by("generate", metadata)
        first = prepare_repeat(metadata, given | ({"prompt": prompts[0]} if prompts else {}), str(like))
    if fast:
        first = faster(first)
    return numbered(first, prompts or [first.request.prompt], per_prompt)


def _check_shared(seed: int | None, like: Path | None, sheet: Path | None, budget: str | None) -> None:
    """Raises PochadeError where several processes would not make the pictures of one."""
    if seed is None and like is None:
        raise PochadeError(
            "seed: none given to several processes, each of which would draw one; allowed is 0 to 2^63 - 1"
        )
    for name, value in (("sheet", sheet), ("budget", budget)):
        if value is not None:
            raise PochadeError(f"{name}: {str(value)!r} given to several processes, allowed is none")
