"""``pochade edit``, ``inpaint`` and ``upscale``: a picture file to another one."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.cli import options
from pochade.cli.common import check_folder, console, loading, make_folder, print_json, quiet_libraries
from pochade.errors import PochadeError
from pochade.pipelines.checks import ALPHA, EDIT_STRENGTH, INPAINT_STRENGTH, UPSCALE_GUIDANCE, UPSCALE_STRENGTH
from pochade.pipelines.metadata import write_png
from pochade.pipelines.prepare import prepare
from pochade.pipelines.requests import EditRequest

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """[bold]Examples[/bold]

pochade edit apple.png "a green apple" -o green.png --strength 0.6

pochade edit apple.png "a lemon" --strength 0.8 --seed 3 --compare

pochade edit apple.png "make it green" --model microforge-edit

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


def edit(
    *,
    file: options.SourceFile,
    prompt: options.Prompt,
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
    negative: options.Negative = None,
    size: options.EditSize = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compare: options.Compare = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Change a picture by a description or an instruction."""
    _run("-edited", task="edit", **locals())


def inpaint(
    *,
    file: options.SourceFile,
    prompt: options.Prompt,
    mask: Annotated[
        str,
        typer.Option(
            help=f"White where the picture is generated anew, of the size of FILE; {ALPHA}: FILE's transparent part.",
            metavar=f"FILE|{ALPHA}",
            show_default=False,
        ),
    ],
    wording: Annotated[
        str,
        typer.Option(
            "--as",
            help="instruction or description: what the prompt is. An instruction takes a model that was trained to "
            "edit.",
        ),
    ] = "description",
    image_guidance: options.ImageGuidance = None,
    out: options.EditOut = None,
    strength: Annotated[
        float, typer.Option(help="Above 0, up to 1: below 1, what the mask marks is changed, not forgotten.")
    ] = INPAINT_STRENGTH,
    seed: options.Seed = None,
    steps: options.EditSteps = None,
    guidance: options.Guidance = None,
    guidance_interval: options.GuidanceInterval = None,
    model: options.Model = None,
    negative: options.Negative = None,
    size: options.EditSize = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compare: options.Compare = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Generate a part of a picture anew; every other pixel stays as it is."""
    _run("-inpainted", task="inpaint", **locals())


def upscale(
    *,
    file: options.SourceFile,
    prompt: Annotated[
        str, typer.Argument(help="What the picture shows; mostly better left out.", show_default=False)
    ] = "",
    factor: Annotated[int, typer.Option(help="2 or 4: how many times the rows and columns.")] = 2,
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
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is none.")] = UPSCALE_GUIDANCE,
    guidance_interval: options.GuidanceInterval = None,
    model: options.Model = None,
    negative: options.Negative = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels a side of the tiles. Left out: as the model was trained.")
    ] = None,
    scheduler: options.Scheduler = None,
    depth: options.Depth = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compare: options.Compare = False,
    no_metadata: options.NoMetadata = False,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Make a picture 2 or 4 times as large, with edges that a model sharpens."""
    _run(f"-{factor}x", task="super_resolution", **locals())


def _run(
    suffix: str,
    *,
    file: Path,
    out: Path | None,
    negative: str | None,
    guidance_interval: str | None,
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
    if guidance_interval is not None:
        given["guidance_interval"] = options.parse_interval(guidance_interval)
    request = EditRequest(**{name: value for name, value in given.items() if value is not None})
    target = out or file.with_name(f"{file.stem}{suffix}.png")
    if target.suffix.lower() != ".png" or target.is_dir():
        raise PochadeError(f"out: {str(target)!r} given, allowed is a file that ends in .png")
    check_folder("out", target.parent)
    prepared = prepare(request)
    with loading(request.model):
        from pochade.cli.watch import Watch
        from pochade.pipelines.run_request import load_pipeline, pipeline_arguments, read_files, run

        quiet_libraries()
        pictures = read_files(prepared)
        pipe = load_pipeline(prepared, allow_pickle=allow_pickle)
        arguments = pipeline_arguments(prepared.request, pipe, pictures)
    make_folder(target.parent)
    with Watch(decode=None, pictures=1, folder=file.parent, console=console(stderr=True)) as watch:
        watch.begin(f"{request.prompt or file.name} ({prepared.request.seed})")
        picture = run(pipe, prepared, arguments, watch.step)
    path = picture.save(target.parent, target.stem, metadata=not no_metadata)
    made: dict[str, Any] = {"file": str(path), **picture.metadata.to_dict()}
    if compare:
        made["compare"] = str(_compare(path, arguments, picture.image))
    if as_json:
        print_json([made])
    else:
        print(path, *([made["compare"]] if compare else []), sep="\n")


def _compare(path: Path, arguments: dict[str, Any], image: "Image.Image") -> Path:
    """Write before, the mask where there is one, and after side by side; the path."""
    from PIL import Image

    from pochade.images.sheets import side_by_side
    from pochade.pipelines.pictures import read_masks

    source, mask = arguments["image"], arguments.get("mask_image")
    shown = [source]
    if mask is not None:
        with warnings.catch_warnings():  # the pipeline gave them already
            warnings.simplefilter("ignore")
            marked = read_masks(mask, source, (source.height, source.width))
        shown.append(Image.fromarray((marked[0, 0] * 255).byte().numpy()))
    return write_png(side_by_side([*shown, image]), path.parent, f"{path.stem}-compare")
