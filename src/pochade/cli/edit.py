"""``pochade edit``, ``inpaint`` and ``upscale``: a picture file to another one."""

from typing import Annotated

import typer

from pochade.arguments import ALPHA, FACTORS
from pochade.cli import options
from pochade.cli.editing import run_edit
from pochade.pipelines.checks import EDIT_STRENGTH, INPAINT_STRENGTH, UPSCALE_GUIDANCE, UPSCALE_STRENGTH

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
    negative_prompt: options.NegativePrompt = None,
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
    run_edit("edit", **locals())


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
    negative_prompt: options.NegativePrompt = None,
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
    run_edit("inpaint", **locals())


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
    negative_prompt: options.NegativePrompt = None,
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
    run_edit("super_resolution", **locals())
