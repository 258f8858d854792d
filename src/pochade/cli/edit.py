"""``pochade edit``, ``inpaint`` and ``upscale``: a picture file to another one."""

import hashlib
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.cli.common import check_folder, complain, console, load_pipeline, make_folder, print_json
from pochade.cli.generate import OWN
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.checks import (
    ALPHA,
    EDIT_STRENGTH,
    IMAGE_GUIDANCE,
    INPAINT_STRENGTH,
    UPSCALE_GUIDANCE,
    UPSCALE_STRENGTH,
    check_count,
    check_factor,
    check_image_scale,
    check_scale,
    check_seed,
    check_strength,
    usual_strength,
)
from pochade.pipelines.recipe_metadata import PictureRecipe, save_png
from pochade.pipelines.schedulers import check_scheduler

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """[bold]Examples[/bold]

pochade edit apple.png "a green apple" -o green.png --strength 0.6

pochade edit apple.png "a lemon" --strength 0.8 --seed 3 --compare

pochade edit apple.png "make it green" --model microforge-edit

[bold]What the sentence says[/bold]

To a model that was trained to edit, what to do: "make it green". To any other one, and with --as description, what the
whole new picture shows: "a green apple"."""

INPAINT_EXAMPLES = """[bold]Examples[/bold]

pochade inpaint face.png "a crying face" --mask mouth.png -o crying.png

pochade inpaint cut-out.png "a house in a wood" --mask alpha

pochade inpaint face.png "make it green" --mask hat.png --as instruction --model microforge-edit

The sentence describes the whole picture, not the hole alone; as an instruction it says what to do with what the mask
marks."""

UPSCALE_EXAMPLES = """[bold]Examples[/bold]

pochade upscale apple.png --factor 4

pochade upscale apple.png --factor 2 --strength 0.1 --compare"""

ADVICE = {
    "too large": "make it smaller first",
    "not a PNG, JPEG or WebP file": "save it as one of these first (of a film, one picture)",
}
"""What to do about a picture that is refused, by the reason."""

File = Annotated[Path, typer.Argument(help="PNG, JPEG or WebP of any size.", metavar="FILE", show_default=False)]
Prompt = Annotated[str, typer.Argument(help="What is to be seen, or what to do.", show_default=False)]
WORDINGS = ("instruction", "description")
ImageGuidance = Annotated[
    float | None,
    typer.Option(
        help="With an instruction, how strongly to stay with the picture; 1 is off. "
        f"[dim]\\[default: {IMAGE_GUIDANCE}][/dim]",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="PNG to write. Left out: beside FILE. Never replaces one.", metavar="FILE.png"),
]
Seed = Annotated[int | None, typer.Option(help="0 to 2^63 - 1. Drawn where it is left out.")]
Steps = Annotated[
    int | None,
    typer.Option(help=f"Sampling steps, of which the share STRENGTH is taken. {OWN.format(hub.DEFAULT_STEPS)}"),
]
Scale = Annotated[
    float | None,
    typer.Option(help=f"How strongly to follow the prompt; 1 is off. {OWN.format(hub.DEFAULT_GUIDANCE)}"),
]
Model = Annotated[
    str,
    typer.Option(
        help=f"Name (see pochade models), folder, or OWNER/NAME. [dim]\\[default: {hub.DEFAULT_MODEL}][/dim]",
        show_default=False,
    ),
]
Negative = Annotated[str, typer.Option(help="What to lead away from.", show_default=False)]
Size = Annotated[
    int | None,
    typer.Option(help="Paint about SIZE x SIZE pixels, in FILE's proportions. Left out: as the model was trained."),
]
Scheduler = Annotated[str | None, typer.Option(help="euler, heun, dpm or lcm. Left out: the model's own.")]
Depth = Annotated[
    int | None,
    typer.Option(help="Iterations inside the denoiser, where the family has them. Left out: the model's own."),
]
Compare = Annotated[bool, typer.Option("--compare", help="Also write before and after side by side.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Leave the recipe out of the file.")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read pickled weights. [red]A pickle can run code when loaded[/red]: only files you trust.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the recipe and the files as JSON.")]


@dataclass(frozen=True)
class Request:
    """One picture to be made from another: what is of the command, and its options by their names."""

    task: str
    """Of ``pochade.types.TASKS``."""
    pipeline: str
    """Name of its class."""
    suffix: str
    """What the name of the result adds to that of the file."""
    file: Path
    prompt: str
    strength: float | None
    out: Path | None
    seed: int | None
    steps: int | None
    guidance: float | None
    model: str
    negative: str
    size: int | None
    scheduler: str | None
    depth: int | None
    compare: bool
    no_metadata: bool
    allow_pickle: bool
    as_json: bool
    mask: str | None = None
    factor: int | None = None
    wording: str | None = None
    image_guidance: float | None = None


def edit(
    *,
    file: File,
    prompt: Prompt,
    out: Out = None,
    wording: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="instruction or description: what the sentence is. Left out: an instruction where the model was "
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
    image_guidance: ImageGuidance = None,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Scale = None,
    model: Model = hub.DEFAULT_MODEL,
    negative: Negative = "",
    size: Size = None,
    scheduler: Scheduler = None,
    depth: Depth = None,
    compare: Compare = False,
    no_metadata: NoMetadata = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Repaint a picture in the sense of a sentence."""
    _make(Request("edit", "ImageToImagePipeline", "-edited", **locals()))


def inpaint(
    *,
    file: File,
    prompt: Prompt,
    mask: Annotated[
        str,
        typer.Option(
            help=f"White where it is repainted, of the size of FILE; {ALPHA}: the transparent part of FILE.",
            metavar=f"FILE|{ALPHA}",
            show_default=False,
        ),
    ],
    wording: Annotated[
        str,
        typer.Option(
            "--as",
            help="instruction or description: what the sentence is. An instruction takes a model that was trained to "
            "edit.",
        ),
    ] = "description",
    image_guidance: ImageGuidance = None,
    out: Out = None,
    strength: Annotated[
        float, typer.Option(help="Above 0, up to 1: below 1, what the mask marks is changed, not forgotten.")
    ] = INPAINT_STRENGTH,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Scale = None,
    model: Model = hub.DEFAULT_MODEL,
    negative: Negative = "",
    size: Size = None,
    scheduler: Scheduler = None,
    depth: Depth = None,
    compare: Compare = False,
    no_metadata: NoMetadata = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Paint a part of a picture anew; every other pixel stays as it is."""
    _make(Request("inpaint", "InpaintPipeline", "-inpainted", **locals()))


def upscale(
    *,
    file: File,
    prompt: Annotated[str, typer.Argument(help="What is to be seen; mostly better left out.", show_default=False)] = "",
    factor: Annotated[int, typer.Option(help="2 or 4: how many times the rows and columns.")] = 2,
    out: Out = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Above 0, up to 1: the higher, the sharper and the more is made up. "
            f"[dim]\\[default: {UPSCALE_STRENGTH}, at factor 4 of a model that was trained to enlarge 1][/dim]"
        ),
    ] = None,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Annotated[float, typer.Option(help="How strongly to follow the prompt; 1 is off.")] = UPSCALE_GUIDANCE,
    model: Model = hub.DEFAULT_MODEL,
    negative: Negative = "",
    size: Annotated[
        int | None, typer.Option(help="Pixels a side of the tiles. Left out: as the model was trained.")
    ] = None,
    scheduler: Scheduler = None,
    depth: Depth = None,
    compare: Compare = False,
    no_metadata: NoMetadata = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Make a picture 2 or 4 times as large, with edges that a model sharpens."""
    _make(Request("super_resolution", "SuperResolutionPipeline", f"-{factor}x", **locals()))


def _make(request: Request) -> None:
    target = _check(request)
    mask, factor = request.mask, request.factor
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    model = hub.resolve(request.model)
    own, tasks = hub.defaults(model), hub.tasks_of(model)
    instruction = _is_instruction(request, tasks)
    image_guidance = 1.0
    if instruction:
        image_guidance = IMAGE_GUIDANCE if request.image_guidance is None else request.image_guidance
    strength = request.strength
    if strength is None:
        trained = instruction if request.task == "edit" else request.task in tasks
        strength = usual_strength(request.task, trained, factor)
    steps = int(own["default_steps"] if request.steps is None else request.steps)
    guidance = float(own["default_guidance"] if request.guidance is None else request.guidance)
    if request.negative and guidance == 1:
        raise PochadeError("negative: has no effect at guidance 1, allowed is any other scale")
    source, digest = _read(request.file, "file", see_through=mask == ALPHA)
    options: dict[str, Any] = {"instruction": request.prompt} if instruction else {"prompt": request.prompt}
    if instruction:
        options["image_guidance_scale"] = image_guidance
    if factor is not None:
        options["factor"] = factor
    mask_digest = ""
    if mask == ALPHA:
        options["mask_image"] = ALPHA
    elif mask is not None:
        options["mask_image"], mask_digest = _read(Path(mask), "mask")

    pipe = load_pipeline(request.pipeline, request.model, model, request.scheduler or "model", request.allow_pickle)
    pipe.check_inputs(num_inference_steps=steps, guidance_scale=guidance, strength=strength, size=request.size)
    make_folder(target.parent)
    image = _paint(pipe, request, source, {**options, "strength": strength}, seed, steps, guidance)
    recipe = PictureRecipe(
        prompt=request.prompt,
        seed=seed,
        model=request.model,
        model_sha256=hub.model_sha256(model),
        steps=steps,
        guidance=guidance,
        height=image.height,
        width=image.width,
        scheduler=request.scheduler or "model",
        negative_prompt=request.negative,
        depth=request.depth or 0,
        task=request.task,
        source=str(request.file),
        source_sha256=digest,
        mask=mask or "",
        mask_sha256=mask_digest,
        strength=strength,
        size=request.size or 0,
        instruction=instruction,
        image_guidance=image_guidance,
    )
    path = save_png(image, target.parent, target.stem, None if request.no_metadata else recipe)
    made = {"file": str(path), **asdict(recipe)}
    if request.compare:
        shown = options.get("mask_image")
        page = _side_by_side([source, *([] if shown is None else [_mask_shown(shown, source)]), image])
        made["compare"] = str(save_png(page, path.parent, f"{path.stem}-compare", None))
    if request.as_json:
        print_json([made])
    else:
        print(path, *([made["compare"]] if request.compare else []), sep="\n")


def _check(request: Request) -> Path:
    """Where the picture goes. Raises PochadeError for the first thing that is not allowed; reads no file."""
    if request.task != "super_resolution" and not request.prompt.strip():
        raise PochadeError("prompt: empty, allowed is a sentence such as 'a green apple'")
    if request.strength is not None:
        check_strength(request.strength)
    check_image_scale(request.image_guidance)
    if request.wording not in (None, *WORDINGS):
        raise PochadeError(f"as: {request.wording!r} given, allowed are {' and '.join(WORDINGS)}")
    if request.factor is not None:
        check_factor(request.factor)
    if request.seed is not None:
        check_seed(request.seed)
    for name, value in (("steps", request.steps), ("depth", request.depth), ("size", request.size)):
        if value is not None:
            check_count(name, value)
    if request.guidance is not None:
        check_scale(request.guidance)
    if request.scheduler is not None:
        check_scheduler(request.scheduler)
    target = request.out or request.file.with_name(f"{request.file.stem}{request.suffix}.png")
    if target.suffix.lower() != ".png" or target.is_dir():
        raise PochadeError(f"out: {str(target)!r} given, allowed is a file that ends in .png")
    check_folder("out", target.parent)
    return target


def _is_instruction(request: Request, tasks: list[str]) -> bool:
    """Whether the sentence says what to do, to a model trained for ``tasks``. Raises PochadeError where it follows
    none, or for what goes with an instruction alone."""
    instruction = request.wording == "instruction"
    if request.task == "edit" and request.wording is None:
        instruction = "edit" in tasks
    if instruction:
        hub.check_instruction(tasks)
    elif request.image_guidance is not None:
        raise PochadeError("image_guidance: given without an instruction, allowed is none")
    return instruction


def _read(path: Path, name: str, *, see_through: bool = False) -> "tuple[Image.Image, str]":
    """A picture file in RGB (``see_through``: with its transparent part) and its SHA-256. Raises PochadeError."""
    import io

    from PIL import Image

    from pochade.images.decode import BadImage, load_image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise PochadeError(f"{name}: {str(path)!r} cannot be read ({error.strerror})") from error
    try:
        image, conversions = load_image(data, name=str(path), background="black" if name == "mask" else "white")
    except BadImage as error:
        advice = ADVICE.get(error.reason)
        raise PochadeError(f"{name}: {error}" + (f": {advice}" if advice else "")) from error
    if "animated" in conversions:
        complain("warning", f"{path}: animated, the first picture is taken")
    if see_through:
        image = Image.open(io.BytesIO(data))
    elif "alpha" in conversions and name != "mask":
        complain("warning", f"{path}: what is transparent is taken as white")
    return image, hashlib.sha256(data).hexdigest()


def _paint(
    pipe: Any, request: Request, source: Any, options: dict[str, Any], seed: int, steps: int, guidance: float
) -> "Image.Image":
    import torch

    from pochade.cli.watch import Watch

    watch = Watch(decode=None, pictures=1, folder=request.file.parent, console=console(stderr=True))
    with watch:
        watch.begin(f"{request.prompt or request.file.name} ({seed})")
        return pipe(
            image=source,
            negative_prompt=request.negative or None,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed)],
            callback_on_step_end=watch.step,
            callback_on_step_end_tensor_inputs=["predicted_data"],
            depth=request.depth,
            size=request.size,
            **options,
        ).images[0]


def _mask_shown(mask: Any, source: "Image.Image") -> "Image.Image":
    import warnings

    from PIL import Image

    from pochade.pipelines.pictures import read_masks

    with warnings.catch_warnings():  # what there is to say of it was said
        warnings.simplefilter("ignore")
        marked = read_masks(mask, source, (source.height, source.width))
    return Image.fromarray((marked[0, 0] * 255).byte().numpy())


def _side_by_side(pictures: "list[Image.Image]", gap: int = 8) -> "Image.Image":
    """In the size of the last one, on white."""
    from PIL import Image

    from pochade.images.decode import upright_rgb

    width, height = pictures[-1].size
    page = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for i, picture in enumerate(pictures):
        shown = upright_rgb(picture)[0].resize((width, height), Image.Resampling.BICUBIC)
        page.paste(shown, (i * (width + gap), 0))
    return page
