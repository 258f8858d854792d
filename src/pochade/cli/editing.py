"""What ``pochade edit``, ``inpaint`` and ``upscale`` share: from what a user gave to the files of the pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.arguments import ALPHA
from pochade.cli import bundles, options
from pochade.cli.common import console, listed, loading, make_folder, quiet_libraries
from pochade.cli.prompts import check_made_by, numbered, read_prompts
from pochade.errors import PochadeError
from pochade.files import check_folder, check_here
from pochade.pipelines.metadata import read_metadata, write_png
from pochade.pipelines.prepare import PreparedRequest, prepare, prepare_repeat
from pochade.pipelines.requests import EditRequest, EditTask
from pochade.pipelines.run_request import Picture

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from pochade.cli.watch import Watch

WORDINGS = {None: None, "instruction": True, "description": False}
"""``--as`` -> ``EditRequest.instruction``."""
SUFFIXES = {"edit": "-edited", "inpaint": "-inpainted", "super_resolution": "-{}x"}
"""Of a file that is given no name."""
LARGE = 4_000_000
"""Pixels of a picture that graphs make, at most: PyTorch makes larger ones in less memory."""
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
    given |= {"source": file, "instruction": WORDINGS[wording]}
    given |= {"loras": tuple(lora) if lora else None, "embeddings": tuple(embedding) if embedding else None}
    by_pytorch = bundles.asks_for_pytorch(given.get("precision"), allow_pickle)
    if guidance_interval is not None:
        given["guidance_interval"] = options.parse_interval(guidance_interval)
    given = {name: value for name, value in given.items() if value is not None}
    requests = _requests(task, read_prompts([] if prompt is None else [prompt]), per_prompt, given, like)
    first = requests[0].request
    assert isinstance(first, EditRequest)
    path = Path(first.source)
    target = out or path.with_name(f"{path.stem}{SUFFIXES[task].format(first.factor)}.png")
    if target.suffix.lower() != ".png" or target.is_dir():
        raise PochadeError(f"out: {str(target)!r} given, allowed is a file that ends in .png")
    check_here("out", target)
    check_folder("out", target.parent)
    with loading(first.model):
        from pochade.cli.watch import Watch
        from pochade.pipelines.run_request import marked_in, read_images

        images = read_images(requests[0])
        marked = marked_in(first, images)
        shown = _shown(images["source"], marked) if compare else []
        size = images["source"].height, images["source"].width
        by_pytorch = by_pytorch or size[0] * size[1] > LARGE
        source = None if by_pytorch else bundles.of_model(requests)
        if source is not None and not bundles.sample_alike(source, size, marked):
            source = None
        del marked  # of a large picture it is large
        making = _by_pytorch(requests[0], images, allow_pickle) if source is None else _by_graphs(source, images)
    make_folder(target.parent)
    watching = Watch(previews=False, pictures=len(requests), folder=target.parent, console=console(stderr=True))
    with listed(as_json) as files, watching as watch:
        for prepared in requests:
            watch.begin(f"{prepared.request.prompt or path.name} ({prepared.request.seed})")
            picture = making(prepared, watch)
            file = picture.save(target.parent, target.stem, metadata=not no_metadata)
            facts: dict[str, Any] = {"file": str(file), **picture.metadata.to_dict()}
            if compare:
                facts["compare"] = str(_compare(file, [*shown, picture.image]))
            files.append(facts)
            if not as_json:
                for name in (file, *([facts["compare"]] if compare else [])):
                    watch.print(str(name))


_Making = Callable[[PreparedRequest, "Watch"], Picture]


def _by_pytorch(first: PreparedRequest, images: "dict[str, Image.Image]", allow_pickle: bool) -> _Making:
    """Requests like ``first`` by its pipeline."""
    from pochade.cli.watch import pipeline_steps
    from pochade.pipelines.run_request import for_pipeline, load_pipeline, pipeline_arguments, run

    quiet_libraries()
    pictures = for_pipeline(first.request, images)
    pipe = load_pipeline(first, allow_pickle=allow_pickle)
    arguments = pipeline_arguments(first.request, pipe, pictures)

    return lambda prepared, watch: run(pipe, prepared, arguments, pipeline_steps(watch, pipe.decode_latents))


def _by_graphs(source: bundles.Source, images: "dict[str, Image.Image]") -> _Making:
    """Requests by the graphs of their model."""
    from pochade.runtime.command import sampled

    bundle = source.open()

    def make(prepared: PreparedRequest, watch: "Watch") -> Picture:
        request = prepared.request
        assert isinstance(request, EditRequest)
        wanted = bundles.taken(request) | {name: getattr(request, name) for name in bundles.OF_TASKS[request.task]}
        wanted |= {"task": request.task, "prompt": request.prompt, "image": images["source"]}
        if request.mask is not None:
            wanted["mask"] = images.get("mask", request.mask)
        return bundles.described(prepared, sampled(bundle, wanted, watch.step))

    return make


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


def _shown(source: "Image.Image", marked: "np.ndarray | None") -> "list[Image.Image]":
    """What stands before the result: the source on white, and what is marked in it, where something is."""
    from PIL import Image

    from pochade.runtime.pictures import on_white

    return [on_white(source), *([] if marked is None else [Image.fromarray(marked).convert("L")])]


def _compare(path: Path, pictures: "list[Image.Image]") -> Path:
    """Write pictures side by side; the path."""
    from pochade.images.sheets import side_by_side

    return write_png(side_by_side(pictures), path.parent, f"{path.stem}-compare")
