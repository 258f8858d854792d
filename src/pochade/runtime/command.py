"""``pochade run``, and ``pochade-run`` where the host is installed alone: a bundle at the command line."""

import argparse
import inspect
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..arguments import ALPHA, check_beside, without_effect
from ..errors import PochadeError, RepeatWarning
from ..files import check_folder, check_here, describe_error
from ..stopping import Stop
from .budget import Choice, check_budget, parse_budget
from .bundle import Bundle
from .manifest import OWN_DECODER, Decoder
from .options import OnStep, Options, Step, fast
from .pictures import Picture, check_preview, find_named, read_recipe, slug, write_preview

EXAMPLES = """examples:
  pochade run bundle/ "a red apple" -o apple.png --seed 7
  pochade run bundle/ "make it green" --edit apple.png -o green.png
  pochade run bundle/ "a green apple" --inpaint apple.png --mask mask.png
  pochade run bundle/ --upscale apple.png --factor 2
  pochade run bundle/ --like apple.png --seed 8
  pochade run bundle/ "a red apple" --budget 300ms
"""
REPEATED = ("seed", "steps", "guidance", "negative_prompt", "depth", "strength", "factor", "image_guidance")
"""What ``--like`` takes from a recipe besides prompt, task, source, mask and interval, as it is given there."""

MASKS = ("soft_mask", "mask_blur", "invert_mask")
"""What it takes besides where they are set: recipes of other tasks have them too."""

NOT_IN_A_BUNDLE = ("control", "image_prompt", "scheduler", "size", "loras", "embeddings")
"""What a picture of PyTorch may have been made with, and a host cannot repeat."""


def start(arguments: Sequence[str] | None, stop: Stop) -> NoReturn:
    """Run the command and leave the process: 0, 1 for a failure, 2 for wrong use; ``stop`` says whether it was told to,
    which raises KeyboardInterrupt."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            warnings.simplefilter("always", UserWarning)
            run(arguments)
    except Exception as error:
        if stop.reason is not None:  # what a library made of it
            raise KeyboardInterrupt(stop.reason) from error
        code, said = _failure(error)
        print(f"error: {' '.join(said.split())}", file=sys.stderr)
        sys.exit(code)
    sys.exit(0)


def _failure(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and what is said of it."""
    match error:
        case PochadeError():
            return error.exit_code, str(error)
        case OSError():
            return 1, describe_error(error)
        case _:
            return 1, f"unexpected {type(error).__name__}: {error}"


def run(
    arguments: Sequence[str] | None = None, program: str = "pochade-run", opens: Callable[..., Bundle] = Bundle
) -> None:
    """Run the command, and print the path of the picture.

    ``opens`` makes a bundle of a folder, and of ``threads`` and ``low_memory`` by name.

    Raises:
        PochadeError: wrong use, or what came out is no picture.
        OSError: a file cannot be read.
    """
    # The prompt may stand on either side of the options.
    print(_run(_parser(program).parse_intermixed_args(arguments), opens))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        number = re.fullmatch(r"argument --(\S+): invalid (int|float) value: (.*)", message)
        if number is not None:
            allowed = {"int": "whole numbers", "float": "numbers"}[number[2]]
            raise PochadeError(f"{number[1].replace('-', '_')}: {number[3]} given, allowed are {allowed}")
        raise PochadeError(f"{message} (--help shows what is allowed)")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        program,
        description="Generate, edit, inpaint and upscale with a bundle, without PyTorch.",
        epilog=EXAMPLES.replace("pochade run", program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="folder that `pochade export` wrote")
    parser.add_argument("prompt", nargs="?", help="what the picture shows, or with --edit what to do")
    parser.add_argument("-o", "--out", type=Path, help="PNG file; a taken name gets -2 (default: PROMPT-SEED.png)")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--edit", metavar="FILE", help="a picture to edit")
    task.add_argument("--inpaint", metavar="FILE", help="a picture of which --mask marks what is generated anew")
    task.add_argument("--upscale", metavar="FILE", help="a picture to make larger")
    task.add_argument("--like", metavar="FILE", help="repeat this picture; other options given here change it")
    parser.add_argument(
        "--mask",
        metavar=f"FILE|{ALPHA}",
        help=f"white where the picture is generated anew, or {ALPHA} for what is transparent in it",
    )
    parser.add_argument(
        "--soft-mask",
        action=argparse.BooleanOptionalAction,
        help="grey in the mask shows as much of the new picture as it is bright",
    )
    parser.add_argument("--mask-blur", type=float, metavar="PIXELS", help="blur the mask by a Gaussian")
    parser.add_argument("--invert-mask", action=argparse.BooleanOptionalAction, help="black is generated anew")
    parser.add_argument("--seed", type=int, help="of the noise (default: drawn)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's own)")
    parser.add_argument("--guidance", type=float, help="scale; 1 is none (default: the model's own)")
    parser.add_argument("--negative-prompt", help="what guidance leads away from")
    parser.add_argument("--depth", type=int, help="iterations of the denoiser, of those that the bundle has")
    parser.add_argument("--fast", action="store_true", help="few steps, and guidance where it matters")
    parser.add_argument("--budget", metavar="TIME", help="such as 300ms: chooses steps and depth of the best quality")
    parser.add_argument("--strength", type=float, help="of --edit, --inpaint and --upscale, above 0, up to 1")
    parser.add_argument("--image-guidance", type=float, help="scale of guidance towards the source of an instruction")
    parser.add_argument("--describe", action="store_true", help="the prompt of --edit describes the new picture")
    parser.add_argument("--factor", type=int, help="of --upscale, 2 or 4 (default: 2)")
    parser.add_argument("--preview", type=Path, metavar="FILE", help="keep a PNG of a new name up to date")
    parser.add_argument("--threads", type=int, help="of the processor (default: one a core)")
    parser.add_argument("--low-memory", action="store_true", help="load one graph at a time")
    return parser


def _run(given: argparse.Namespace, opens: Callable[..., Bundle]) -> Path:
    """The path of the picture. Raises PochadeError."""
    check_here("bundle", given.bundle)
    bundle = opens(given.bundle, threads=given.threads, low_memory=given.low_memory)
    if given.out is not None:
        check_here("out", given.out)
        if given.out.suffix.lower() != ".png":
            raise PochadeError(f"out: {str(given.out)!r} given, allowed is a name that ends in .png")
        check_folder("out", given.out.parent)
    if given.preview is not None:
        check_preview(given.preview)
        check_here("preview", given.preview)
        check_folder("preview", given.preview.parent)
    if given.describe and given.edit is None:
        raise PochadeError("describe: given without edit, allowed is none: it says what the prompt of an edit is")
    named = (*REPEATED, *MASKS, "mask")
    request = {name: getattr(given, name) for name in named if getattr(given, name) is not None}
    if given.like is not None:
        request |= {} if given.prompt is None else {"prompt": given.prompt}
        request |= {} if given.budget is None else {"steps": None, "depth": None}  # it chooses them
        request = repeated(bundle, given.like, request)
    else:
        task = next((t for t in ("edit", "inpaint", "upscale") if getattr(given, t) is not None), "generate")
        prompt = "" if given.prompt is None and task == "upscale" else given.prompt
        request |= {"task": task, "prompt": prompt}
        if task != "generate":
            request["image"] = getattr(given, task)
        if given.describe:
            request["instruction"] = False
    check_request(bundle, request)
    if given.fast:
        check_beside("fast", steps=given.steps, budget=given.budget)
        made_faster(bundle, request)
    budget = None
    if given.budget is not None:
        check_budget(parse_budget(given.budget), steps=given.steps, depth=given.depth)
        budget = fitted(bundle, given.budget, request)
    start = time.perf_counter()
    picture = sampled(bundle, request, _watch(given.preview))
    if budget is not None:
        print(budget.report(1000 * (time.perf_counter() - start)), file=sys.stderr)
    return picture.save(given.out or Path(f"{slug(picture.recipe['prompt'])}-{picture.recipe['seed']}.png"))


def made_faster(bundle: Bundle, request: dict[str, Any]) -> None:
    """Puts few steps, and the times that are guided, in their places. Raises PochadeError for an edit."""
    if request["task"] != "generate":
        raise PochadeError(f"fast: given to {request['task']}, allowed is none: it is of new pictures")
    defaults = bundle.manifest.defaults
    request |= fast(defaults.steps, request.get("guidance", defaults.guidance))


def fitted(bundle: Bundle, budget: str, request: dict[str, Any]) -> Choice:
    """What a budget such as ``300ms`` pays for; steps and depth are put in their places.

    Raises:
        PochadeError: it is none, is of another task than new pictures, or nothing fits.
    """
    budget_ms = parse_budget(budget)
    if request["task"] != "generate":
        raise PochadeError(f"budget: {budget!r} given to {request['task']}, allowed is none: it is of new pictures")
    choice = bundle.fit(budget_ms, guidance=request.get("guidance"))
    request["steps"], request["depth"] = choice.quality.steps, choice.quality.depth
    return choice


def repeated(bundle: Bundle, like: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The task and the arguments of the recipe in a picture, those of ``given`` in place of its own.

    Raises:
        PochadeError: it holds no recipe, or one that the bundle cannot follow; or a file that it names is another now.

    Warns:
        RepeatWarning: another bundle, or PyTorch, made the picture.
    """
    recipe, manifest = read_recipe(like), bundle.manifest
    like = str(like)
    made_here = recipe.get("bundle_sha256") == bundle.sha256
    if not made_here and recipe.get("model_sha256") != manifest.model.sha256:
        made = recipe.get("model", "another model")
        raise PochadeError(f"like: {like!r} was made by {made}, or other weights of it, the bundle is of others")
    for name in NOT_IN_A_BUNDLE:
        if recipe.get(name) not in (None, False, "", 0, [], "model"):
            raise PochadeError(f"like: {like!r} was made with {name} {recipe[name]!r}, which a bundle does not have")
    decoder = _decoder_of(recipe)
    if _digest(decoder) != _digest(manifest.decoder):
        raise PochadeError(f"like: {like!r} was made with {_words(decoder)}, the bundle has {_words(manifest.decoder)}")
    depth = recipe.get("depth") or manifest.model_depth or manifest.defaults.depth
    if "depth" not in given and depth is not None and str(depth) not in manifest.depths:
        depths = ", ".join(manifest.depths)
        raise PochadeError(
            f"like: {like!r} was made with depth {depth}, the bundle has {depths}: allowed is depth={depths} beside it"
        )
    task = {"super_resolution": "upscale"}.get(recipe.get("task", "generate"), recipe.get("task", "generate"))
    size, own = (recipe.get("width"), recipe.get("height")), (manifest.width, manifest.height)
    if task == "generate" and size != own:
        raise PochadeError(f"like: {like!r} has {size[0]} x {size[1]} pixels, the bundle makes {own[0]} x {own[1]}")
    taken = {name: recipe[name] for name in REPEATED if recipe.get(name) is not None}
    taken |= {name: recipe[name] for name in MASKS if recipe.get(name)}
    taken |= {"task": task, "prompt": recipe["prompt"], "depth": depth}
    for name, argument in (("source", "image"), ("mask", "mask")):
        if argument in given or recipe.get(name) in (None, ALPHA):
            continue
        path = find_named(like, recipe[name], recipe.get(f"{name}_sha256"))
        if path is None:
            raise PochadeError(f"like: the {name} of {like!r} is {recipe[name]!r}, which is not there, or another file")
        taken[argument] = path
    if recipe.get("mask") == ALPHA:
        taken["mask"] = ALPHA
    if recipe.get("guidance_interval") is not None:
        taken["guidance_interval"] = tuple(recipe["guidance_interval"])
    if task in ("edit", "inpaint") and recipe.get("instruction") is not None:
        taken["instruction"] = recipe["instruction"]
    if not made_here:
        maker = "another bundle of the model" if "bundle_sha256" in recipe else "PyTorch"
        warnings.warn(f"{like}: made by {maker}, this one makes it now: it may differ", RepeatWarning, stacklevel=2)
    return taken | without_effect(taken, given) | dict(given)


def _decoder_of(recipe: Mapping[str, Any]) -> Decoder | None:
    """What decoded the picture of a recipe; None for the model's own autoencoder."""
    name = recipe.get("decoder") or OWN_DECODER
    return None if name == OWN_DECODER else Decoder(str(name), str(recipe.get("decoder_sha256", "")))


def _digest(decoder: Decoder | None) -> str | None:
    return None if decoder is None else decoder.sha256


def _words(decoder: Decoder | None) -> str:
    return "the model's own decoder" if decoder is None else f"decoder {decoder.name!r} ({decoder.sha256[:12]})"


def check_prompt(bundle: Bundle, prompt: str) -> None:
    """Raises PochadeError for an empty prompt, as the requests of pipelines do: in a command it is a slip."""
    if bundle.manifest.text is not None and not prompt.strip():
        raise PochadeError("prompt: empty, allowed is a sentence such as 'a red apple'")


def check_request(bundle: Bundle, request: Mapping[str, Any]) -> None:
    """Raises PochadeError where an argument of a ``task`` is missing, or does not go with it."""
    task = request["task"]
    parameters = inspect.signature(_methods(bundle)[task]).parameters
    for name, value in request.items():
        if name not in {"task", *parameters, *Options.__annotations__} and value is not None:
            raise PochadeError(f"{name}: {value!r} given to {task}, allowed is none")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if required and request.get(name) is None:
            raise PochadeError(f"{name}: none given, {task} needs one")
    if task != "upscale":
        check_prompt(bundle, request["prompt"])


def sampled(bundle: Bundle, request: Mapping[str, Any], on_step: OnStep) -> Picture:
    """The picture of a ``task`` and its named arguments. Raises PochadeError."""
    arguments = {name: value for name, value in request.items() if name != "task" and value is not None}
    return _methods(bundle)[request["task"]](**arguments, on_step=on_step)


def _methods(bundle: Bundle) -> dict[str, Callable[..., Picture]]:
    return {"generate": bundle.generate, "edit": bundle.edit, "inpaint": bundle.inpaint, "upscale": bundle.upscale}


def _watch(preview: Path | None) -> OnStep:
    """Steps on the error stream, the picture as it forms in a file."""
    shown = sys.stderr.isatty()

    def on_step(step: Step) -> None:
        if shown:
            end = "\r" if step.number < step.total else "\r\033[K"
            print(f"step {step.number} of {step.total}", end=end, file=sys.stderr, flush=True)
        if preview is not None:
            write_preview(step.preview(), preview)

    return on_step
