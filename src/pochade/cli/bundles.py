"""``pochade generate`` without PyTorch: by an exported bundle, or by the graphs of a model."""

import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.arguments import check_seed, is_given
from pochade.cli.common import console, listed, loading
from pochade.cli.output import Made, Output
from pochade.cli.prompts import check_made_by
from pochade.cli.run import opened
from pochade.device import may_have_accelerator
from pochade.errors import PochadeError
from pochade.files import sha256
from pochade.pipelines import linked
from pochade.pipelines.metadata import PictureMetadata, read_metadata, slug
from pochade.pipelines.prepare import PreparedRequest
from pochade.pipelines.requests import EditRequest, Request
from pochade.pipelines.run_request import Picture
from pochade.runtime.manifest import MANIFEST, Manifest, read_manifest

if TYPE_CHECKING:
    import numpy as np

    from pochade.cli.watch import Watch
    from pochade.runtime import Bundle
    from pochade.runtime import Picture as BundlePicture

TAKEN = ("seed", "steps", "guidance", "guidance_interval", "negative_prompt", "depth")
"""Fields of a request that a bundle follows."""
OF_TASKS: dict[str, tuple[str, ...]] = {
    "generate": (),
    "edit": ("strength", "instruction", "image_guidance"),
    "inpaint": ("strength", "instruction", "image_guidance", "soft_mask", "mask_blur", "invert_mask"),
}
"""Tasks that graphs do as PyTorch does them, and further fields of a request that they follow in each. (What a host
joins of tiles, when it enlarges, is not what PyTorch joins.)"""
ALLOWED = {"device": ("auto", "cpu"), "precision": ("auto",)}
"""Options of which a bundle takes what is named here; of all others that it does not follow nothing."""
FEW = 16
"""Pictures that graphs make on the CPU where there may be an accelerator: more are sooner ready there."""


@dataclass(frozen=True)
class Ask:
    """What pictures are wanted.

    Attributes:
        prompts: sentences; none with ``like``.
        per_prompt: pictures of each.
        given: fields of a request that the user named.
        like: a picture to repeat.
        budget: a time such as ``300ms``.
        fast: few steps, and guidance where it matters.
        metadata: whether the request stands in the file.
    """

    prompts: Sequence[str]
    per_prompt: int
    given: Mapping[str, Any]
    like: Path | None
    budget: str | None
    fast: bool
    metadata: bool


@dataclass(frozen=True)
class Source:
    """What pictures are sampled from.

    Attributes:
        graphs: a folder of them: a bundle, or those of a model.
        of: a request of that model; None for a bundle.
    """

    graphs: Path
    of: PreparedRequest | None = None

    @property
    def name(self) -> str:
        """As the user knows it."""
        return str(self.graphs) if self.of is None else self.of.request.model

    def open(self) -> "Bundle":
        """Raises PochadeError where the graphs are damaged."""
        return opened(self.graphs) if self.of is None else linked.open_bundle(self.graphs, self.of.model.folder)


def of_model(requests: Sequence[PreparedRequest]) -> Source | None:
    """The graphs of the model of some requests, where it has such as give what they want.

    Args:
        requests: of one model, which differ in prompt and seed.

    Returns:
        None where PyTorch is to sample.
    """
    first = requests[0]
    if find_spec("onnxruntime") is None:
        return None
    repeats = first.repeats or {}
    again = repeats.get("model") == first.sha256["model"]
    many = len(requests) > FEW and first.request.device != "cpu"
    if many and not again and may_have_accelerator():
        return None
    graphs = linked.find(first.model.folder, first.sha256["model"])
    if graphs is None or (again and repeats.get("bundle") != sha256(graphs / MANIFEST)):
        return None
    return Source(graphs, first) if _follow(read_manifest(graphs), first.request) else None


def _follow(manifest: Manifest, request: Request) -> bool:
    """Whether graphs give what is requested: all that they do not follow is as it usually is, or as they are."""
    task = request.task if isinstance(request, EditRequest) else "generate"
    if task not in OF_TASKS:
        return False
    followed = {"prompt", "model", "source", "task", "mask", *TAKEN, *OF_TASKS[task]} - {"depth"}
    own: dict[str, tuple[object, ...]] = {
        "device": ("auto", "cpu"),
        "precision": ("auto", "fp32"),
        "height": (None, manifest.height),
        "width": (None, manifest.width),
        "size": (None, manifest.height),
        "depth": (None, *map(int, manifest.depths)),
    }
    others = {field.name: own.get(field.name, (field.default,)) for field in fields(request)}
    return all(getattr(request, name) in usual for name, usual in others.items() if name not in followed)


def sample_alike(source: Source, picture: tuple[int, int], marked: "np.ndarray | None") -> bool:
    """Whether the graphs of a model sample an edit at the size at which PyTorch does: they have one size, and PyTorch
    takes that which is nearest to it in the proportions of the picture.

    Args:
        source: of a model.
        picture: rows and columns of what is edited.
        marked: [H, W], where it is inpainted; None where all of it is edited.
    """
    from pochade.runtime.canvas import Canvas, sampled_size
    from pochade.runtime.masks import crop_around

    assert source.of is not None
    manifest, multiple = read_manifest(source.graphs), source.of.model.size_multiple
    if multiple is None:
        return False
    if marked is not None:
        box = crop_around(marked, manifest.height)
        picture = (box.height, box.width)
    canvas = Canvas.fit(picture, (manifest.height, manifest.width))
    return (canvas.inner, canvas.outer) == sampled_size(*picture, manifest.height, multiple)


def asks_for_pytorch(precision: str | None, allow_pickle: bool) -> bool:
    """Whether options are given that are of PyTorch, though graphs may give what they ask for: a precision, and
    weights that are read from a pickle."""
    return precision not in (None, "auto") or allow_pickle


def ask_of(requests: Sequence[PreparedRequest], *, metadata: bool) -> Ask:
    """What ``numbered`` requests want of graphs."""
    prompts = [one.request.prompt for one in requests]
    return Ask(prompts, 1, taken(requests[0].request), None, None, fast=False, metadata=metadata)


def described(prepared: PreparedRequest, picture: "BundlePicture") -> Picture:
    """A picture by the graphs of a model, with the metadata of one by PyTorch, and what it was made by."""
    image, recipe = picture.image, picture.recipe
    request = prepared.request.completed(image.width, image.height, "cpu", "fp32")
    digests = {**prepared.sha256, "bundle": recipe["bundle_sha256"]}
    return Picture(image, PictureMetadata(request, image.height, image.width, digests, recipe["versions"]), {})


def taken(request: Request) -> dict[str, Any]:
    """What a bundle follows of a request."""
    return {name: getattr(request, name) for name in TAKEN}


def generate(source: Source, ask: Ask, further: Mapping[str, Any], output: Output, process: tuple[int, int]) -> None:
    """Pictures of ``source``.

    Args:
        source: a bundle, or see ``of_model``.
        ask: what is wanted.
        further: options that a bundle cannot follow, by their names, as they were given; none for a model.
        output: where they go.
        process: which of how many processes this is.

    Raises:
        PochadeError: an option is not allowed, or the bundle is damaged.
    """
    for name, value in further.items():
        if is_given(value) and value not in ALLOWED.get(name, ()):
            names = " and ".join(ALLOWED.get(name, ())) or "none"
            raise PochadeError(f"{name}: {value!r} given, but {str(source.graphs)!r} is a bundle: allowed is {names}")
    with loading(source.name):
        from pochade.runtime.bundle import DRAWN_SEEDS
        from pochade.runtime.command import check_prompt, fitted, made_faster, repeated, sampled

        bundle = source.open()
        request = {name: value for name, value in ask.given.items() if name in TAKEN}
        prompts = ask.prompts
        if ask.like is not None:
            check_made_by("generate", read_metadata(ask.like))
            request |= {} if ask.budget is None else {"steps": None, "depth": None}  # it chooses them
            request = repeated(bundle, ask.like, request)
            prompts = prompts or [request["prompt"]]
            del request["task"], request["prompt"]
        if not prompts:
            raise PochadeError("prompt: none given, allowed is one sentence or more, @FILE of them, or - for stdin")
        first = request.get("seed", secrets.randbelow(DRAWN_SEEDS))
        each = [prompt for prompt in prompts for _ in range(ask.per_prompt)]
        check_seed(first, len(each))
        with warnings.catch_warnings():  # it gives them when it samples
            warnings.simplefilter("ignore")
            for prompt in prompts:
                check_prompt(bundle, prompt)
                bundle.check(prompt, **request)
        request["task"] = "generate"
        if ask.fast:
            made_faster(bundle, request)
        choice = None if ask.budget is None else fitted(bundle, ask.budget, request)
    rank, processes = process
    mine = [(prompt, first + i) for i, prompt in enumerate(each)][rank::processes]

    def sample(i: int, watch: "Watch") -> Made:
        prompt, seed = mine[i]
        start = time.perf_counter()
        watch.begin(f"{prompt} ({seed})")
        picture = sampled(bundle, {**request, "prompt": prompt, "seed": seed}, watch.step)
        if choice is not None:
            console(stderr=True).print(choice.report(1000 * (time.perf_counter() - start)), highlight=False)
        if source.of is not None:
            own = replace(source.of, request=source.of.request.changed(prompt=prompt, seed=seed))
            whole = described(own, picture)
            return Made(
                whole.image, prompt, whole.metadata.to_dict(), lambda place: whole.save(place, metadata=ask.metadata)
            )
        name = f"{slug(prompt)}-{seed}.png"
        return Made(
            picture.image, prompt, picture.recipe, lambda place: picture.save(place / name, recipe=ask.metadata)
        )

    with listed(output.as_json) as files:
        output.make(len(mine), sample, files)
