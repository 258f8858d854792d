"""Options that several commands have, each with its help."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pochade.arguments import MAX_COUNT
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.checks import IMAGE_GUIDANCE

OWN = "[dim]\\[default: the model's own, mostly {}][/dim]"

Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        help="What the pictures show, a sentence each; @FILE: the lines of a file; -: those of the standard input.",
        show_default=False,
    ),
]
Prompt = Annotated[
    str | None,
    typer.Argument(
        help="What the picture shows, or what to do; @FILE or - as for pochade generate: a picture a line.",
        show_default=False,
    ),
]
SourceFile = Annotated[
    Path | None, typer.Argument(help="PNG, JPEG or WebP of any size.", metavar="FILE", show_default=False)
]
PerPrompt = Annotated[
    int, typer.Option("--images-per-prompt", "-n", min=1, help="Pictures of each prompt, with seeds that count up.")
]
Like = Annotated[
    Path | None,
    typer.Option(help="Repeat this picture. Other arguments and options given here change it.", metavar="FILE.png"),
]
Model = Annotated[
    str | None,
    typer.Option(help=f"Name (see pochade models), folder, or OWNER/NAME. [dim]\\[default: {hub.DEFAULT_MODEL}][/dim]"),
]
LoRAs = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="A LoRA to add to the model, also with its weight, FOLDER:0.8. Several: the option again.",
        metavar="FOLDER[:WEIGHT]",
        show_default=False,
    ),
]
Embeddings = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        help="Words that were learned by textual inversion, which the prompt names. Several: the option again.",
        metavar="FILE",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option(help="0 to 2^63 - 1. Drawn at random if left out.")]
Steps = Annotated[int | None, typer.Option(help=f"Sampling steps. {OWN.format(8)}")]
EditSteps = Annotated[
    int | None,
    typer.Option(help=f"Sampling steps, of which the share STRENGTH is made. {OWN.format(8)}"),
]
Guidance = Annotated[
    float | None, typer.Option(help=f"Classifier-free guidance scale; 1 is none. {OWN.format(hub.DEFAULT_GUIDANCE)}")
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        help="Times in [0, 1], 1 being noise, at which guidance applies; outside them a step costs half. "
        "[dim]\\[default: (the model's own; 0,1 in an edit)][/dim]",
        metavar="LOW,HIGH",
    ),
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(
        help="With an instruction, the scale of guidance towards the source picture; 1 is none. "
        f"[dim]\\[default: {IMAGE_GUIDANCE}][/dim]",
    ),
]
NegativePrompt = Annotated[str | None, typer.Option(help="What guidance leads away from.")]
Scheduler = Annotated[str | None, typer.Option(help="euler, heun, dpm or lcm. Left out: the model's own.")]
Depth = Annotated[
    int | None,
    typer.Option(help="Iterations inside the denoiser, where the family has them. Left out: the model's own."),
]
Fast = Annotated[
    bool,
    typer.Option("--fast", help="Few steps, and guidance only where it matters: about the best quality for least."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Time of a picture, such as 300ms, in place of --steps and --depth: the best measured quality that fits.",
        metavar="TIME",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda or mps; auto takes a GPU if there is one. [dim]\\[default: auto][/dim]"),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Of the networks: auto (bf16 on a GPU, else fp32), fp32, bf16 or fp16. [dim]\\[default: auto][/dim]"
    ),
]
EditSize = Annotated[
    int | None,
    typer.Option(help="Sample about SIZE x SIZE pixels, in FILE's proportions. Left out: as the model was trained."),
]
Decoder = Annotated[
    str | None,
    typer.Option(help="tiny (where the model ships one) or a folder: a faster decoder. Left out: the model's own."),
]
EditOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="PNG to write. Left out: beside FILE. Never replaces one.", metavar="FILE.png"),
]
Compare = Annotated[bool, typer.Option("--compare", help="Also write before and after side by side.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Do not store the request in the PNG.")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read pickled weights. [red]A pickle can run code when loaded[/red]: only files you trust.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print requests and files as JSON.")]


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of ``64`` or ``WIDTHxHEIGHT``. Raises PochadeError for anything else."""
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text)
    sides = () if match is None else (int(match[1]), int(match[2] or match[1]))
    if len(sides) != 2 or not all(1 <= side <= MAX_COUNT for side in sides):
        raise PochadeError(f"size: {text!r} given, allowed are pixels such as 64 or WIDTHxHEIGHT, up to {MAX_COUNT}")
    return sides


def parse_interval(text: str) -> tuple[float, float]:
    """The two times of ``LOW,HIGH``. Raises PochadeError for anything else."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise PochadeError(f"guidance_interval: {text!r} given, allowed are two times such as 0.2,0.8") from error
    return low, high


def parse_counts(name: str, text: str) -> tuple[int, ...]:
    """The whole numbers of ``4,8,12``, each once. Raises PochadeError for anything else; ``name`` is the option's."""
    parts = text.split(",")
    if not all(re.fullmatch(r"[1-9]\d{0,3}", part) for part in parts) or len(set(parts)) < len(parts):
        raise PochadeError(f"{name}: {text!r} given, allowed are different numbers from 1 such as 4,8,12")
    return tuple(map(int, parts))
