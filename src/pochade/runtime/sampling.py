"""From noise to latents: the loop of a host, on arrays alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import PochadeError
from .manifest import Sampling, Value
from .noise import Noise

Arrays = Mapping[str, np.ndarray]
GUIDED = ("tokens", "mask", "pooled", "class_label", "image_prompt", "control")
"""The inputs that are absent in the second row of guidance,"""
SOURCE = ("source", "source_mask", "task")
"""and those that are absent in its third."""

OnStep = Callable[[int, int, np.ndarray], None]
"""(steps taken, steps in all, latents as predicted so far [1, C, H, W]), after each step."""


class GuidanceWarning(UserWarning):
    """A guidance scale does something that the caller may not expect."""


NAMED_TIMES = 12
"""Of a message, at most."""
UNCONDITIONAL = "guidance: at 0 the prompt has no effect (unconditional), 1 is no guidance"
"""What such a warning says of a scale of 0."""


def is_inside(interval: tuple[float, float], t: float) -> bool:
    """Whether a time lies in an interval, in float32, as times are: 0.8 is one of those of five steps."""
    low, high = map(np.float32, interval)
    return bool(low <= np.float32(t) <= high)


def check_guided(
    interval: tuple[float, float],
    times: Sequence[float],
    *,
    usual: tuple[float, float],
    negative: bool,
) -> None:
    """Whether guidance applies in any step of a call with a scale other than 1, where the interval or a negative prompt
    was given.

    Args:
        interval: of guidance.
        times: of the steps.
        usual: the interval where none is given.
        negative: whether there is a negative prompt.

    Raises:
        PochadeError: it applies in none, and there is a negative prompt, or the interval is another than the usual one.
    """
    if any(is_inside(interval, t) for t in times):
        return
    shown = f"{interval[0]:g},{interval[1]:g}"
    all_times = list(dict.fromkeys(f"{t:.3g}" for t in times))
    named = ", ".join(all_times[:NAMED_TIMES]) + (" ..." if len(all_times) > NAMED_TIMES else "")
    if interval != usual:
        raise PochadeError(
            f"guidance_interval: {shown} given, in which no step's time lies: allowed is one with any of {named}"
        )
    if negative:
        raise PochadeError(
            f"negative_prompt: has no effect, since no step's time, {named}, lies in the model's guidance_interval, "
            f"{shown}: allowed are more steps, or another interval"
        )


@dataclass(frozen=True)
class Guidance:
    """The scale of classifier-free guidance (2207.12598), and of that towards a source (2211.09800 eq. 3).

    Attributes:
        scale: s in v_0 + s (v_c - v_0); 1 is none.
        image_scale: with a source, the scale of the source against nothing; None where there is none.
        interval: guidance applies for t in [low, high] (2404.07724).
    """

    scale: float = 1.0
    image_scale: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)

    def rows(self, t: float) -> int:
        """Of a call at t."""
        if not is_inside(self.interval, t):
            return 1
        return 3 if self.image_scale is not None else 1 if self.scale == 1 else 2

    def join(self, v: np.ndarray) -> np.ndarray:
        """Velocities [rows, ...] -> one [1, ...]."""
        if len(v) == 1:
            return v
        joined = v[1:2] + np.float32(self.scale) * (v[:1] - v[1:2])
        if self.image_scale is not None:
            joined = joined + np.float32(self.image_scale - 1) * (v[1:2] - v[2:3])
        return joined


class Denoiser:
    """One row of latents and times to a velocity: absent inputs filled, guidance, and the state from step to step.

    Args:
        run: the graph: named arrays to its outputs.
        inputs: of the graph.
        conditioning: rows [1, ...] of those that there are.
        negative: what stands in place of the text in the second row.
        guidance: of the branches.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Sequence[np.ndarray]],
        inputs: Sequence[Value],
        conditioning: Arrays,
        negative: Arrays,
        guidance: Guidance,
    ) -> None:
        self._run = run
        self._inputs = [value for value in inputs if value.absent is not None]
        self._branches = [
            conditioning,
            {**_without(conditioning, GUIDED), **negative},
            {**_without(conditioning, GUIDED + SOURCE), **negative},
        ]
        self._guidance = guidance
        self._state: np.ndarray | None = None

    def __call__(self, latents: np.ndarray, t: float) -> np.ndarray:
        """The velocity [1, C, H, W] of latents [1, C, H, W] at t."""
        rows = self._guidance.rows(t)
        values = {value.name: self._filled(value, rows) for value in self._inputs}
        if self._state is not None:
            values["state"] = self._state[:1].repeat(rows, 0) if len(self._state) < rows else self._state[:rows]
        values["latents"] = latents.repeat(rows, 0)
        values["t"] = np.full(rows, t, dtype=np.float32)
        velocity, *state = self._run(values)
        self._state = state[0] if state else None
        return self._guidance.join(velocity)

    def _filled(self, value: Value, rows: int) -> np.ndarray:
        shape = tuple(size or 1 for size in value.shape[1:])
        none = np.full((1, *shape), value.absent, dtype=value.dtype)
        return np.concatenate([branch.get(value.name, none) for branch in self._branches[:rows]])


def _without(values: Arrays, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: value for name, value in values.items() if name not in names}


def noise_times(sampling: Sampling, steps: int, start: float = 1.0) -> list[float]:
    """The times from t = ``start`` to 0, of which a picture takes the last part of ``steps`` from 1 on."""
    if start == 1 and str(steps) in sampling.times:
        return list(sampling.times[str(steps)])
    taken, shift = max(1, math.ceil(start * steps - 1e-9)), np.float32(sampling.shift)
    even = np.array([start * (1 - i / taken) for i in range(taken + 1)], dtype=np.float32)
    return (shift * even / (1 + (shift - 1) * even)).tolist()


def interpolate(data: np.ndarray, noise: np.ndarray, t: float) -> np.ndarray:
    """z_t = (1 - t) z_0 + t eps."""
    return (1 - np.float32(t)) * data + np.float32(t) * noise


def sample(
    denoise: Callable[[np.ndarray, float], np.ndarray],
    method: str,
    times: Sequence[float],
    noise: Noise,
    shape: Sequence[int],
    *,
    source: np.ndarray | None = None,
    source_mask: np.ndarray | None = None,
    on_step: OnStep | None = None,
    constrain: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Latents at t = 0, by Euler's method for dz/dt = v(z, t), or by that of latent consistency (2310.04378).

    Args:
        denoise: (latents, t) -> velocity.
        method: of ``Sampling``.
        times: falling, to 0.
        noise: of the picture's seed.
        shape: of the latents, [1, C, H, W].
        source: latents to start from where the first time is below 1 (SDEdit, 2108.01073).
        source_mask: [1, 1, H, W], 1 where the source is sampled anew; elsewhere it stays on the straight line to the
            noise (2201.09865 eq. 8).
        on_step: called after each step.
        constrain: takes predicted data to those that agree with what is known of the picture; the step follows.
    """
    start = noise.normal(shape)
    z = start if source is None or times[0] == 1 else interpolate(source, start, times[0])
    for i, (t, following) in enumerate(pairwise(times), 1):
        v = denoise(z, t)
        predicted = z - np.float32(t) * v
        if constrain is not None:
            predicted = constrain(predicted)
            v = (z - predicted) / np.float32(t)
        if method == "lcm":
            z = interpolate(predicted, noise.normal(shape), following)
        else:
            z = z + (np.float32(following) - np.float32(t)) * v
        if source is not None and source_mask is not None:
            z = np.where(source_mask > 0, z, interpolate(source, start, following))
            predicted = np.where(source_mask > 0, predicted, source)
        if on_step is not None:
            on_step(i, len(times) - 1, predicted)
    return z
