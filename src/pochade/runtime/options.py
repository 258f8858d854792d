"""What a bundle is called with, and what it tells meanwhile."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from PIL import Image

from ..arguments import MIDDLE
from ..errors import PochadeError, nearest

FAST_STEPS = 4

Given = str | Path | Image.Image
"""A picture, or the file of one."""


@dataclass(frozen=True)
class Step:
    """What is known after a step.

    Attributes:
        number: of steps taken.
        total: of steps in all.
        preview: decodes the picture as predicted so far, which takes the time of the decoder.
    """

    number: int
    total: int
    preview: Callable[[], Image.Image]


OnStep = Callable[[Step], object]


class Fast(TypedDict, total=False):
    """Sampling that costs least at about the best quality, as was measured (``benchmarks/fast_sampling.py``); guidance
    in an interval is that of 2404.07724."""

    steps: int
    guidance_interval: tuple[float, float]


def fast(steps: int, guidance: float) -> Fast:
    """``Fast`` in place of a model's usual number of steps, at a scale of guidance: where that is 1 there is no
    interval."""
    few = min(steps, FAST_STEPS)
    return {"steps": few} if guidance == 1 else {"steps": few, "guidance_interval": MIDDLE}


class Options(TypedDict, total=False):
    """What every task takes."""

    seed: int | None
    """Of the noise, in [0, 2^63); None draws one."""
    steps: int | None
    """At least 1; None for the model's own."""
    guidance: float | None
    """Scale of classifier-free guidance, 1 is none; None for the model's own."""
    guidance_interval: tuple[float, float] | None
    """Times (low, high) in [0, 1], 1 being noise, at which guidance applies; None for the model's own in ``generate``,
    and for all times in an edit."""
    negative_prompt: str
    """What guidance leads away from."""
    depth: int | None
    """Iterations of the denoiser, of those that the bundle has; None for the model's own."""
    on_step: OnStep | None
    """Called after each step."""


def check_options(options: Iterable[str]) -> None:
    """Raises PochadeError for the name of an option that there is not."""
    known = tuple(Options.__annotations__)
    for name in options:
        if name not in known:
            raise PochadeError(
                f"{name}: no such option; what every task takes is {', '.join(known)}{nearest(name, known)}"
            )
