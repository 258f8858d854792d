"""A budget of time for a pipeline: ``pochade.runtime.budget`` with the table of quality in the folder of a model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pochade.arguments import EVERYWHERE
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.prepare import PreparedRequest
from pochade.pipelines.requests import GenerationRequest
from pochade.runtime.budget import Choice, Times, cached, check_budget, choose, measure, times_here
from pochade.runtime.manifest import Quality
from pochade.runtime.sampling import is_inside

QUALITY = "quality.json"
"""The table of quality in the folder of a model, as ``pochade evaluate --grid`` writes it."""
COMMAND = (
    f"pochade evaluate MODEL DATA --grid STEPS -o FOLDER makes one, whose {QUALITY} belongs into the model's folder"
)


def read_quality(folder: Path) -> tuple[Quality, ...]:
    """The rows of the table in the folder of a model; none where there is no table.

    Raises:
        PochadeError: it is damaged, or of other weights than those in the folder.
    """
    path = folder / QUALITY
    if not path.is_file():
        return ()
    found = hub.read_json(path)
    try:
        rows = tuple(Quality(row["steps"], row["depth"], row["kid_lite0"], row["R@1"]) for row in found["rows"])
        digest = found["model_sha256"]
    except (TypeError, KeyError) as error:
        raise PochadeError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if digest != hub.model_sha256(folder):
        raise PochadeError(f"{path}: measured with other weights than the model has now: {COMMAND}")
    return rows


def fit(pipe: Any, prepared: PreparedRequest, arguments: Mapping[str, Any], budget_ms: float) -> Choice:
    """Steps and depth of the best measured quality whose pictures take at most ``budget_ms`` with this pipeline.

    The time is that from a prompt to its picture. It is measured at the first call, and kept in the user's cache
    folder.

    Args:
        pipe, prepared, arguments: as of ``run_request.run``.
        budget_ms: milliseconds.

    Raises:
        PochadeError: the request is no generation, the model has no table of quality, or nothing fits: it names the
            smallest budget that does.
    """
    from pochade.flow.sampling import step_times
    from pochade.pipelines.metadata import versions
    from pochade.pipelines.run_request import run

    check_budget(budget_ms)
    request = prepared.request
    if not isinstance(request, GenerationRequest):
        raise PochadeError("budget: given with an edit, allowed is none: it is of new pictures")
    table = read_quality(prepared.model.folder)
    if not table:
        raise PochadeError(f"budget: {request.model!r} has no table of quality: {COMMAND}")

    def sample(steps: int, depth: int | None) -> object:
        interval = request.guidance_interval or EVERYWHERE
        guided = any(is_inside(interval, t) for t in step_times(pipe.scheduler, steps))
        off: dict[str, Any] = {} if guided else {"guidance": 1.0, "negative_prompt": ""}
        timed = replace(request, seed=0, steps=steps, depth=depth, **off)
        return run(pipe, replace(prepared, request=timed), arguments)

    def time_it() -> Times:
        return measure(sample, dict.fromkeys(row.depth for row in table))

    kept = {name: value for name, value in arguments.items() if type(value) is int}
    guidance = request.guidance_interval if request.guidance != 1 else None
    parts = (pipe.device, pipe.denoiser.dtype, kept, guidance, request.scheduler, request.decoder)
    key = f"{', '.join(map(str, parts))}, torch {versions()['torch']}"
    times = times_here([cached(prepared.sha256["model"])], key, table, time_it)
    return choose(table, times, budget_ms)


def spent(prepared: PreparedRequest, choice: Choice) -> PreparedRequest:
    """The request with the steps and the depth that were chosen."""
    chosen = choice.quality
    return replace(prepared, request=replace(prepared.request, steps=chosen.steps, depth=chosen.depth))
