"""What ``pochade edit``, ``inpaint`` and ``upscale`` share: from what a user gave to the files of the pictures."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.arguments import ALPHA
from pochade.cli import options
from pochade.cli.common import console, listed, loading, make_folder, quiet_libraries
from pochade.cli.prompts import check_made_by, numbered, read_prompts
from pochade.errors import PochadeError
from pochade.files import check_folder, check_here
from pochade.pipelines.metadata import read_metadata, write_png
from pochade.pipelines.prepare import PreparedRequest, prepare, prepare_repeat
from pochade.pipelines.requests import EditRequest, EditTask

if TYPE_CHECKING:
    from PIL import Image

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


def run_edit(
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
    check_here("out", target)
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
