"""``pochade edit``, ``inpaint`` and ``upscale``: a picture file to another one."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.arguments import ALPHA, FACTORS
from pochade.cli import options
from pochade.cli.common import check_folder, console, listed, loading, make_folder, quiet_libraries
from pochade.cli.prompts import check_made_by, numbered, read_prompts
from pochade.errors import PochadeError
from pochade.pipelines.checks import EDIT_STRENGTH, INPAINT_STRENGTH, UPSCALE_GUIDANCE, UPSCALE_STRENGTH
from pochade.pipelines.metadata import read_metadata, write_png
from pochade.pipelines.prepare import PreparedRequest, prepare, prepare_repeat
from pochade.pipelines.requests import EditRequest, EditTask

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """[bold]Examples[/bold]

pochade edit apple.png "a green apple" -o green.png --strength 0.6

pochade edit apple.png "a lemon" --strength 0.8 --seed 3 --compare

pochade edit apple.png "make it green" --model microforge-edit

pochade edit --like apple-edited.png --seed 4

[bold]Description or instruction[/bold]

A model that was trained to edit takes an instruction: "make it green". Any other one, and any with --as description,
takes a description of the whole new picture: "a green apple"."""

INPAINT_EXAMPLES = """[bold]Examples[/bold]

pochade inpaint face.png "a crying face" --mask mouth.png -o crying.png

pochade inpaint cut-out.png "a house in a wood" --mask alpha

pochade inpaint face.png "make it green" --mask hat.png --as instruction --model microforge-edit

A description is of the whole picture, not of the hole alone; an instruction says what to do with what the mask
marks."""

UPSCALE_EXAMPLES = """[bold]Examples[/bold]

pochade upscale apple.png --factor 4

pochade upscale apple.png --factor 2 --strength 0.1 --compare"""

WORDINGS = {None: None, "instruction": True, "description": False}
"""``--as`` -> ``EditRequest.instruction``."""
SUFFIXES = {"edit": "-edited", "inpaint": "-inpainted", "super_resolution": "-{}x"}
"""Of a file that is given no name."""
NEEDED = {
    "source": "the file of a picture",
    "prompt": "a sentence such as 'a green apple'",
    "mask": f"the file of a mask, or {ALPHA}",
}
"""What a command must be given, unless it repeats a picture."""


def edit(
    *,
    file: options.SourceFile = None,
    prompt: options.Prompt = None,
    out: options.EditOut = None,
    wording: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="instruction or description: what the prompt is. Left out: an instruction where the model was "
            "trained to edit, else a description of the new picture.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Above 0, up to 1: how much changes; at 1 a description leaves nothing of the picture. "
            f"[dim]\\[default: {EDIT_STRENGTH}, of an instruction 1][/dim]"
        ),
    ] = None,
    image_guidance: options.ImageGuidance = None,
    seed: options.Seed = None,
    steps: options.EditSteps = None,
    guidance: options.Guidance = None,
    guidance_interval: options.GuidanceInterval = None,
    model: options.Model = None,
    lora: options.LoRAs = None,
    embedding: options.Embeddings = None,
    negative: options.Negative = None,
    size: options.EditSize = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    device: options.Device = None,
    precision: options.Precision = None,
    per_prompt: options.PerPrompt = 1,
    like: options.Like = None,
    compare: options.Compare = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Change a picture by a description or an instruction."""
    _run("edit", **locals())


def inpaint(
    *,
    file: options.SourceFile = None,
    prompt: options.Prompt = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help=f"White where the picture is generated anew, of the size of FILE; {ALPHA}: FILE's transparent part.",
            metavar=f"FILE|{ALPHA}",
            show_default=False,
        ),
    ] = None,
    soft_mask: Annotated[
        bool | None,
        typer.Option(
            "--soft-mask/--hard-mask",
            help="Grey shows as much of the new picture as it is bright; else it is taken as black or white.",
            show_default=False,
        ),
    ] = None,
    mask_blur: Annotated[
        float | None,
        typer.Option(help="Blur the mask by a Gaussian of so many pixels (standard deviation).", show_default=False),
    ] = None,
    invert_mask: Annotated[
        bool | None,
        typer.Option("--invert-mask/--no-invert-mask", help="Black is generated anew.", show_default=False),
    ] = None,
    wording: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="instruction or description: what the prompt is. An instruction takes a model that was trained to "
            "edit. [dim]\\[default: description][/dim]",
        ),
    ] = None,
    image_guidance: options.ImageGuidance = None,
    out: options.EditOut = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Above 0, up to 1: below 1, what the mask marks is changed, not forgotten. "
            f"[dim]\\[default: {INPAINT_STRENGTH}][/dim]"
        ),
    ] = None,
    seed: options.Seed = None,
    steps: options.EditSteps = None,
    guidance: options.Guidance = None,
    guidance_interval: options.GuidanceInterval = None,
    model: options.Model = None,
    lora: options.LoRAs = None,
    embedding: options.Embeddings = None,
    negative: options.Negative = None,
    size: options.EditSize = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    device: options.Device = None,
    precision: options.Precision = None,
    per_prompt: options.PerPrompt = 1,
    like: options.Like = None,
    compare: options.Compare = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Generate a part of a picture anew; every other pixel stays as it is."""
    _run("inpaint", **locals())


def upscale(
    *,
    file: options.SourceFile = None,
    prompt: Annotated[
        str | None, typer.Argument(help="What the picture shows; mostly better left out.", show_default=False)
    ] = None,
    factor: Annotated[
        int | None,
        typer.Option(help=f"2 or 4: how many times the rows and columns. [dim]\\[default: {FACTORS[0]}][/dim]"),
    ] = None,
    out: options.EditOut = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Above 0, up to 1: the higher, the sharper and the more is made up. "
            f"[dim]\\[default: {UPSCALE_STRENGTH}, at factor 4 of a model that was trained to enlarge 1][/dim]"
        ),
    ] = None,
    seed: options.Seed = None,
    steps: options.EditSteps = None,
    guidance: Annotated[
        float | None,
        typer.Option(help=f"Classifier-free guidance scale; 1 is none. [dim]\\[default: {UPSCALE_GUIDANCE}][/dim]"),
    ] = None,
    guidance_interval: options.GuidanceInterval = None,
    model: options.Model = None,
    lora: options.LoRAs = None,
    embedding: options.Embeddings = None,
    negative: options.Negative = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels a side of the tiles. Left out: as the model was trained.")
    ] = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    device: options.Device = None,
    precision: options.Precision = None,
    per_prompt: options.PerPrompt = 1,
    like: options.Like = None,
    compare: options.Compare = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Make a picture 2 or 4 times as large, with edges that a model sharpens."""
    _run("super_resolution", **locals())


def _run(
    task: EditTask,
    *,
    file: Path | None,
    prompt: str | None,
    out: Path | None,
    lora: list[str] | None,
    embedding: list[str] | None,
    negative: str | None,
    guidance_interval: str | None,
    per_prompt: int,
    like: Path | None,
    compare: bool,
    no_metadata: bool,
    allow_pickle: bool,
    as_json: bool,
    wording: str | None = None,
    **given: Any,
) -> None:
    """Run one command; ``given`` are fields of the request, None where they are left out."""
    if wording not in WORDINGS:
        raise PochadeError(f"as: {wording!r} given, allowed are instruction and description")
    given |= {"source": file, "negative_prompt": negative, "instruction": WORDINGS[wording]}
    given |= {"loras": tuple(lora) if lora else None, "embeddings": tuple(embedding) if embedding else None}
    if guidance_interval is not None:
        given["guidance_interval"] = options.parse_interval(guidance_interval)
    given = {name: value for name, value in given.items() if value is not None}
    requests = _requests(task, read_prompts([] if prompt is None else [prompt]), per_prompt, given, like)
    first = requests[0].request
    assert isinstance(first, EditRequest)
    source = Path(first.source)
    target = out or source.with_name(f"{source.stem}{SUFFIXES[task].format(first.factor)}.png")
    if target.suffix.lower() != ".png" or target.is_dir():
        raise PochadeError(f"out: {str(target)!r} given, allowed is a file that ends in .png")
    check_folder("out", target.parent)
    with loading(first.model):
        from pochade.cli.watch import Watch, pipeline_steps
        from pochade.pipelines.run_request import load_pipeline, pipeline_arguments, read_files, run

        quiet_libraries()
        pictures = read_files(requests[0])
        pipe = load_pipeline(requests[0], allow_pickle=allow_pickle)
        arguments = pipeline_arguments(first, pipe, pictures)
    make_folder(target.parent)
    watching = Watch(previews=False, pictures=len(requests), folder=target.parent, console=console(stderr=True))
    with listed(as_json) as files, watching as watch:
        for prepared in requests:
            watch.begin(f"{prepared.request.prompt or source.name} ({prepared.request.seed})")
            picture = run(pipe, prepared, arguments, pipeline_steps(watch, pipe.decode_latents))
            path = picture.save(target.parent, target.stem, metadata=not no_metadata)
            made: dict[str, Any] = {"file": str(path), **picture.metadata.to_dict()}
            if compare:
                made["compare"] = str(_compare(path, arguments, picture.image))
            files.append(made)
            if not as_json:
                for name in (path, *([made["compare"]] if compare else [])):
                    watch.print(str(name))


def _requests(
    task: EditTask, prompts: list[str], per_prompt: int, given: dict[str, Any], like: Path | None
) -> list[PreparedRequest]:
    """``per_prompt`` for each prompt, which count seeds up. Raises PochadeError."""
    if prompts:
        given["prompt"] = prompts[0]
    if like is None:
        for name, needed in (("source", True), ("prompt", task != "super_resolution"), ("mask", task == "inpaint")):
            if needed and name not in given:
                raise PochadeError(f"{name}: none given, allowed is {NEEDED[name]}, or --like FILE.png")
        first = prepare(EditRequest(**given, task=task))
    else:
        metadata = read_metadata(like)
        check_made_by(task, metadata)
        first = prepare_repeat(metadata, given, str(like))
    return numbered(first, prompts or [first.request.prompt], per_prompt)


def _compare(path: Path, arguments: dict[str, Any], image: "Image.Image") -> Path:
    """Write before, the mask where there is one, and after side by side; the path."""
    from PIL import Image

    from pochade.images.sheets import side_by_side
    from pochade.pipelines.pictures import read_masks

    source, mask = arguments["image"], arguments.get("mask_image")
    shown = [source.image()]
    if mask is not None:
        with warnings.catch_warnings():  # the pipeline gave them already
            warnings.simplefilter("ignore")
            options = {name: arguments[f"{name}_mask"] for name in ("soft", "invert")}
            (marked,) = read_masks(mask, source, blur=arguments["mask_blur"], **options)
        shown.append(Image.fromarray(marked).convert("L"))
    return write_png(side_by_side([*shown, image]), path.parent, f"{path.stem}-compare")
