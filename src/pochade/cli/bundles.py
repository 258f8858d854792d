"""``pochade generate`` with an exported bundle, named or kept in the user's cache folder: without PyTorch."""

import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pochade
from pochade.arguments import check_seed, is_given
from pochade.cli.common import console, listed, loading
from pochade.cli.output import Made, Output
from pochade.cli.prompts import check_made_by
from pochade.cli.run import opened
from pochade.errors import PochadeError
from pochade.files import cache_folder
from pochade.pipelines import hub
from pochade.pipelines.metadata import read_metadata, slug

if TYPE_CHECKING:
    from pochade.cli.watch import Watch

TAKEN = ("seed", "steps", "guidance", "guidance_interval", "negative_prompt", "depth")
"""Fields of a request that a bundle follows."""
ALLOWED = {"device": (None, "auto", "cpu"), "precision": (None, "auto")}
"""Of what else a user may give; of all others nothing."""
DIGITS = 12
"""Of a hash, in the name of a folder."""


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


def kept(folder: Path) -> Path:
    """Where ``pochade export MODEL`` keeps the bundle of a model, given its folder, and ``pochade generate`` finds it.

    The name has all that the graphs follow from, weights and version, so that none is taken for another.
    """
    return cache_folder("bundles") / f"{folder.name}-{hub.model_sha256(folder)[:DIGITS]}-{pochade.__version__}"


def find(model: str | None, further: Mapping[str, Any], *, fixed: bool) -> Path | None:
    """The bundle to sample from: the one that ``model`` names, or that of the model, where one is kept.

    Args:
        model: as the user named it.
        further: options that a bundle cannot follow, by their names, as they were given.
        fixed: whether the user asks for what a model can and its bundle perhaps not.

    Returns:
        The folder, or None where the model itself is to be sampled.
    """
    if model is not None and hub.is_bundle(model):
        return Path(model).expanduser()
    if fixed or not all(_follows(*option) for option in further.items()):
        return None
    folder = hub.resolve(model or hub.DEFAULT_MODEL)
    # Only where there may be one are the weights hashed; the cache serves other environments, too.
    if not any(cache_folder("bundles").glob(f"{escape(folder.name)}-*")) or find_spec("onnxruntime") is None:
        return None
    place = kept(folder)
    return place if place.is_dir() else None


def _follows(name: str, value: object) -> bool:
    """Whether a bundle can be sampled with an option of models, as it was given."""
    return value in ALLOWED[name] if name in ALLOWED else not is_given(value)


def generate(folder: Path, ask: Ask, further: Mapping[str, Any], output: Output, process: tuple[int, int]) -> None:
    """Pictures of the bundle in ``folder``.

    Args:
        folder: of the bundle.
        ask: what is wanted.
        further: options that a bundle cannot follow, by their names, as they were given.
        output: where they go.
        process: which of how many processes this is.

    Raises:
        PochadeError: an option is not allowed, or the bundle is damaged.
    """
    for name, value in further.items():
        if not _follows(name, value):
            names = " and ".join(filter(None, ALLOWED.get(name, ()))) or "none"
            raise PochadeError(f"{name}: {value!r} given, but {str(folder)!r} is a bundle: allowed is {names}")
    with loading(str(folder)):
        from pochade.runtime.bundle import DRAWN_SEEDS
        from pochade.runtime.command import check_prompt, fitted, made_faster, repeated, sampled

        bundle = opened(folder)
        request: dict[str, Any] = {}
        prompts = ask.prompts
        if ask.like is not None:
            check_made_by("generate", read_metadata(ask.like))
            request = repeated(bundle, ask.like)
            prompts = prompts or [request["prompt"]]
            del request["task"], request["prompt"]
        request |= {name: value for name, value in ask.given.items() if name in TAKEN}
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
        name = f"{slug(prompt)}-{seed}.png"
        return Made(
            picture.image, prompt, picture.recipe, lambda place: picture.save(place / name, recipe=ask.metadata)
        )

    with listed(output.as_json) as files:
        output.make(len(mine), sample, files)
