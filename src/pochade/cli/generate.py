"""``pochade generate``: sentences to PNG files."""

import hashlib
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.cli.common import check_folder, complain, console, load_pipeline, make_folder, print_json
from pochade.errors import PochadeError
from pochade.pipelines import decoders, hub
from pochade.pipelines.checks import (
    check_control,
    check_count,
    check_reference,
    check_reference_scale,
    check_scale,
    check_seed,
)
from pochade.pipelines.recipe_metadata import PictureRecipe, read_recipe, save_png, slug, versions
from pochade.pipelines.schedulers import check_scheduler

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

OWN = "[dim]\\[default: the model's own, mostly {}][/dim]"

EXAMPLES = """[bold]Examples[/bold]

pochade generate "a red apple" "a sleeping cat" -o out/ --seed 7

pochade generate "a sailboat" --steps 20 --guidance 4 --preview

pochade generate --like out/a-red-apple-7.png -o again/

[bold]Seeds and files[/bold]

Picture i (from 0) has the seed SEED + i. It stands in the file's name.

The file holds all that made it; the same seed paints the same picture alone.

No file is ever replaced: a taken name gets -2, -3 and so on."""


@dataclass(frozen=True)
class Request:
    """All pictures of one call, checked."""

    prompts: list[str]
    seed: int
    model: str
    folder: Path
    steps: int
    guidance: float
    negative_prompt: str
    size: tuple[int, int] | None
    """Width and height."""
    scheduler: str
    decoder: str
    decoder_folder: Path | None
    """None for the model's own autoencoder."""
    control: Path | None
    """File of the control, None for none."""
    control_edges: bool
    """Whether its edges are the control."""
    control_sha256: str
    reference: Path | None
    """File of the reference, None for none."""
    reference_sha256: str
    reference_scale: float
    depth: int | None
    """None for the model's own."""


def generate(
    *,
    prompts: Annotated[list[str] | None, typer.Argument(help="One picture each.", show_default=False)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("out"),
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture, 0 to 2^63 - 1. Drawn where it is left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help=f"Sampling steps. {OWN.format(hub.DEFAULT_STEPS)}")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help=f"How strongly to follow the prompt; 1 is off. {OWN.format(hub.DEFAULT_GUIDANCE)}"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Name (see pochade models), folder, or OWNER/NAME. [dim]\\[default: {hub.DEFAULT_MODEL}][/dim]"
        ),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What to lead away from.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 64, or WIDTHxHEIGHT. Left out: as the model was trained.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="euler, heun, dpm or lcm. Left out: the model's own.")] = None,
    decoder: Annotated[
        str | None,
        typer.Option(help="tiny (where the model ships one) or a folder: a faster decoder. Left out: the model's own."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="Iterations inside the denoiser, where the family has them. Left out: the model's own."),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(help="White edges on black that the picture follows; for models that take them.", metavar="FILE"),
    ] = None,
    edges_of: Annotated[
        Path | None,
        typer.Option(
            help="A picture whose edges are followed; they are written to OUT as well.",
            metavar="FILE",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="A picture whose style is followed; for models that take one.", metavar="FILE"),
    ] = None,
    reference_scale: Annotated[
        float | None, typer.Option(help="How strongly the reference is followed; 0 is off. [dim]\\[default: 1][/dim]")
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Repeat this picture. Other options given here change it.")] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also paint all pictures with their prompts on one sheet, replacing FILE.png. "
            "Without -o, the sheet alone.",
            metavar="FILE.png",
        ),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Watch it form, in the terminal or in OUT/preview.png.")
    ] = False,
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="Leave the recipe out of the files.")] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read pickled weights. [red]A pickle can run code when loaded[/red]: only files you trust.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the recipes and files as JSON.")] = False,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]  # typer fills it in
) -> None:
    """Paint a picture for every prompt, as PNG with its recipe inside."""
    recipe = None if like is None else read_recipe(like)
    request = _request(
        prompts=prompts,
        seed=seed,
        model=model,
        steps=steps,
        guidance=guidance,
        negative=negative,
        size=size,
        scheduler=scheduler,
        decoder=decoder,
        depth=depth,
        control=control,
        edges_of=edges_of,
        reference=reference,
        reference_scale=reference_scale,
        recipe=recipe,
    )
    single = sheet is None or context.get_parameter_source("out").name == "COMMANDLINE"  # pyright: ignore[reportOptionalMemberAccess]
    _check_places(out if single or preview else None, sheet)
    folder = request.folder
    sha = hub.model_sha256(folder)
    decoder_sha = "" if request.decoder_folder is None else decoders.decoder_sha256(request.decoder_folder)
    if recipe is not None:
        _check_same(recipe, sha, chosen=model is not None)
        if decoder is None and recipe.decoder_sha256 != decoder_sha:
            raise PochadeError(f"like: the picture was made by other weights of the decoder {recipe.decoder!r}")

    pipe = load_pipeline("TextToImagePipeline", request.model, folder, request.scheduler, allow_pickle)
    if request.decoder_folder is not None:
        decoders.use_decoder(pipe, request.decoder_folder)
    width, height = request.size or (pipe.default_size, pipe.default_size)
    pipe.check_inputs(num_inference_steps=request.steps, guidance_scale=request.guidance, height=height, width=width)
    lines = _lines(request, width, height)
    features = _features(request, pipe)
    if single or preview:
        make_folder(out)
    if sheet is not None:
        make_folder(sheet.parent)

    done: list[tuple[PictureRecipe, Image.Image]] = []
    files: list[dict[str, Any]] = []
    watch = _watch(pipe, request, out, preview)
    with watch:
        for i, prompt in enumerate(request.prompts):
            made = PictureRecipe(
                prompt=prompt,
                seed=request.seed + i,
                model=request.model,
                model_sha256=sha,
                steps=request.steps,
                guidance=request.guidance,
                height=height,
                width=width,
                scheduler=request.scheduler,
                negative_prompt=request.negative_prompt,
                decoder=request.decoder,
                decoder_sha256=decoder_sha,
                control="" if request.control is None else str(request.control),
                control_edges=request.control_edges,
                control_sha256=request.control_sha256,
                reference="" if request.reference is None else str(request.reference),
                reference_sha256=request.reference_sha256,
                reference_scale=request.reference_scale,
                depth=request.depth or 0,
            )
            watch.begin(f"{prompt} ({made.seed})")
            image, told = _paint(pipe, made, lines, features, watch.step)
            done.append((made, image))
            if single:
                path = save_png(image, out, f"{slug(prompt)}-{made.seed}", None if no_metadata else made)
                files.append({"file": str(path), **asdict(made), "told": told})
                if not as_json:
                    watch.say(str(path))
    if edges_of is not None and lines is not None and single:
        from pochade.images.edges import edges_image

        path = save_png(edges_image(lines), out, f"{slug(edges_of.stem)}-edges", None)
        files.append({"file": str(path), "edges_of": str(edges_of)})
        if not as_json:
            print(path)
    if sheet is not None:
        _save_sheet(done, sheet)
        files.append({"file": str(sheet), "recipes": [asdict(r) for r, _ in done]})
        if not as_json:
            print(sheet)
    if as_json:
        print_json(files)


def _request(
    *,
    prompts: list[str] | None,
    seed: int | None,
    model: str | None,
    steps: int | None,
    guidance: float | None,
    negative: str | None,
    size: str | None,
    scheduler: str | None,
    decoder: str | None,
    depth: int | None,
    control: Path | None,
    edges_of: Path | None,
    reference: Path | None,
    reference_scale: float | None,
    recipe: PictureRecipe | None,
) -> Request:
    """What was asked for: the options given, else the recipe's, else the defaults. Raises PochadeError."""
    if recipe is not None and recipe.task != "generate":
        raise PochadeError(f"like: the picture was made from {recipe.source!r}, allowed are those of pochade generate")
    if not prompts and recipe is None:
        raise PochadeError("prompt: none given, allowed is one sentence or more")
    chosen = list(prompts or [recipe.prompt if recipe else ""])
    for prompt in chosen:
        if not prompt.strip():
            raise PochadeError("prompt: empty, allowed is a sentence such as 'a red apple'")
    if seed is None:
        # Small enough to be read out; any other is one option away.
        seed = recipe.seed if recipe else secrets.randbelow(2**31)
    check_seed(seed, len(chosen))
    steps = steps if steps is not None else recipe.steps if recipe else None
    guidance = guidance if guidance is not None else recipe.guidance if recipe else None
    if steps is not None:
        check_count("steps", steps)
    if guidance is not None:
        check_scale(guidance)
    if depth is not None:
        check_count("depth", depth)
    elif recipe is not None:
        depth = recipe.depth or None
    pair = (recipe.width, recipe.height) if recipe else None
    if size is not None:
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", size)
        if match is None:
            raise PochadeError(f"size: {size!r} given, allowed are pixels such as 64 or WIDTHxHEIGHT")
        pair = (int(match[1]), int(match[2] or match[1]))
    scheduler = scheduler or (recipe.scheduler if recipe else "model")
    if scheduler != "model":
        check_scheduler(scheduler)
    model = model or (recipe.model if recipe else hub.DEFAULT_MODEL)
    folder = hub.resolve(model)
    own = hub.defaults(folder)
    steps = int(own["default_steps"] if steps is None else steps)
    guidance = float(own["default_guidance"] if guidance is None else guidance)
    if negative is None:
        negative = recipe.negative_prompt if recipe else ""
    if negative and guidance == 1:
        raise PochadeError("negative: has no effect at guidance 1, allowed is any other scale")
    decoder = decoder or (recipe.decoder if recipe else decoders.OWN)
    found = decoders.find_decoder(decoder, folder)
    file, is_edges, digest = _control_file(control, edges_of, recipe, folder)
    style, style_sha, strength = _reference_file(reference, reference_scale, recipe, folder)
    return Request(
        chosen,
        seed,
        model,
        folder,
        steps,
        guidance,
        negative,
        pair,
        scheduler,
        decoder,
        found,
        file,
        is_edges,
        digest,
        style,
        style_sha,
        strength,
        depth,
    )


def _control_file(
    control: Path | None, edges_of: Path | None, recipe: PictureRecipe | None, model: Path
) -> tuple[Path | None, bool, str]:
    """The file of the control, whether its edges are meant, and its SHA-256. Raises PochadeError."""
    if control is not None and edges_of is not None:
        raise PochadeError("edges_of: given beside control, allowed is one of them")
    file, is_edges, told = control or edges_of, edges_of is not None, ""
    if file is None and recipe is not None and recipe.control:
        file, is_edges, told = Path(recipe.control), recipe.control_edges, recipe.control_sha256
    if file is None:
        return None, False, ""
    check_control(bool(hub.read_json(model / "denoiser" / "config.json").get("controlled", False)))
    return file, is_edges, _digest("edges_of" if is_edges else "control", file, told)


def _reference_file(
    reference: Path | None, scale: float | None, recipe: PictureRecipe | None, model: Path
) -> tuple[Path | None, str, float]:
    """The file of the reference, its SHA-256, and how strongly it is followed. Raises PochadeError."""
    file, told = reference, ""
    if file is None and recipe is not None and recipe.reference:
        file, told = Path(recipe.reference), recipe.reference_sha256
    if file is None:
        if scale is not None:
            raise PochadeError(f"reference_scale: {scale} given without a reference, allowed is none")
        return None, "", 1.0
    if scale is None:
        scale = recipe.reference_scale if recipe is not None else 1.0
    check_reference_scale(scale)
    check_reference(int(hub.read_json(model / "denoiser" / "config.json").get("reference_dim", 0)))
    return file, _digest("reference", file, told), scale


def _digest(name: str, file: Path, told: str) -> str:
    """SHA-256 of a file that is followed, ``told`` in a recipe or empty. Raises PochadeError where it is another."""
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise PochadeError(f"{'like' if told else name}: {str(file)!r} cannot be read ({error.strerror})") from error
    if told and told != digest:
        raise PochadeError(f"like: the picture follows {str(file)!r}, which is another file now")
    return digest


def _lines(request: Request, width: int, height: int) -> "Tensor | None":
    """The control [1, H, W] of the request. Raises PochadeError where it does not fit."""
    if request.control is None:
        return None
    from pochade.images.edges import edges_of, read_edges

    if request.control_edges:
        return edges_of(request.control, width, height)
    lines = read_edges(request.control)
    if tuple(lines.shape[1:]) != (height, width):
        rows, columns = lines.shape[1:]
        raise PochadeError(f"control: {columns} x {rows} pixels given, allowed is the picture's size, {width}x{height}")
    return lines


def _features(request: Request, pipe: Any) -> "Tensor | None":
    """The features of the reference, found once for all pictures. Raises PochadeError where it is no picture."""
    if request.reference is None:
        return None
    from pochade.images.decode import load_image

    return pipe.encode_reference(load_image(request.reference)[0])


def _check_places(out: Path | None, sheet: Path | None) -> None:
    """Raises PochadeError where something stands in the way; creates nothing."""
    if out is not None and out.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}:
        raise PochadeError(f"out: {str(out)!r} given, allowed is a folder: pictures are named by prompt and seed")
    if sheet is not None and (sheet.suffix.lower() != ".png" or sheet.is_dir()):
        raise PochadeError(f"sheet: {str(sheet)!r} given, allowed is a file that ends in .png")
    for name, place in (("out", out), ("sheet", None if sheet is None else sheet.parent)):
        if place is not None:
            check_folder(name, place)


def _check_same(recipe: PictureRecipe, sha: str, *, chosen: bool) -> None:
    if recipe.model_sha256 != sha:
        message = f"the picture was made by other weights of {recipe.model!r} (SHA-256 {recipe.model_sha256[:12]}"
        if not chosen:
            raise PochadeError(f"like: {message}, here {sha[:12]}); --model {recipe.model} uses those that are here")
        complain("warning", f"{message}, here {sha[:12]}): the picture will differ")
    now = versions()
    other = [f"{k} {v} (here {now.get(k)})" for k, v in recipe.versions.items() if now.get(k) != v]
    if other:
        complain("warning", f"the picture was made with {', '.join(other)}: it may differ in the last bits")


def _paint(
    pipe: Any, recipe: PictureRecipe, lines: "Tensor | None", features: "Tensor | None", on_step: Any
) -> "tuple[Image.Image, dict[str, float]]":
    """The picture, and what the family told of itself while it painted (``aux``): means over the steps."""
    import torch

    told: dict[str, list[float]] = {}

    def step(pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        for name, value in tensors["aux"].items():
            told.setdefault(name, []).append(float(value.float().mean()))
        return on_step(pipe, i, timestep, tensors)

    # One picture a call: a batch may differ in the last bits, and a recipe repeats its picture to the bit.
    image = pipe(
        recipe.prompt,
        negative_prompt=recipe.negative_prompt or None,
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance,
        height=recipe.height,
        width=recipe.width,
        generator=[torch.Generator().manual_seed(recipe.seed)],
        callback_on_step_end=step,
        callback_on_step_end_tensor_inputs=["predicted_data", "aux"],
        depth=recipe.depth or None,
        control=lines,
        reference=features,
        reference_scale=recipe.reference_scale,
    ).images[0]
    return image, {name: sum(values) / len(values) for name, values in told.items()}


def _watch(pipe: Any, request: Request, out: Path, preview: bool) -> Any:
    from pochade.cli.watch import Watch

    return Watch(
        decode=pipe.decode_latents if preview else None,
        pictures=len(request.prompts),
        folder=out,
        console=console(stderr=True),
    )


def _save_sheet(done: "list[tuple[PictureRecipe, Image.Image]]", path: Path) -> None:
    from pochade.files import atomic_file
    from pochade.images.sheets import sheet

    width = done[0][1].width
    cell = width * max(1, round(128 / width))
    columns = min(6, len(done), max(3, round(len(done) ** 0.5)))
    page = sheet([image for _, image in done], [r.prompt for r, _ in done], columns=columns, cell=cell)
    with atomic_file(path) as file:
        page.save(file, format="PNG")
