"""From noise to latents, by any of diffusers' flow-matching schedulers."""

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pochade.flow.guidance import BeforeStep, OnStep
from pochade.flow.path import interpolate, to_data
from pochade.types import Conditioning, Denoiser, DenoiserOutput


class CastDenoiser:
    """A denoiser in half precision under a sampler in float32: the same call.

    Latents are rounded to ``dtype`` for the network, its velocity is widened to the precision of the latents again, so
    that the integration adds up small steps without loss. Times stay as they are.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype) -> None:
        self.denoiser = denoiser
        self.dtype = dtype
        self.config = denoiser.config

    def __call__(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        state: Tensor | None = None,
        depth: int | None = None,
    ) -> DenoiserOutput:
        out = self.denoiser(latents.to(self.dtype), t, conditioning, state=state, depth=depth)
        return replace(out, velocity=out.velocity.to(latents.dtype))


def steps_from(start: float, num_inference_steps: int) -> int:
    """How many of ``num_inference_steps`` from t = 1 are left from t = ``start`` on: as even a grid, rounded up."""
    return max(1, math.ceil(start * num_inference_steps - 1e-9))


def set_timesteps(scheduler: Any, num_inference_steps: int, device: torch.device, start: float = 1.0) -> Tensor:
    """Prepare ``scheduler`` for ``num_inference_steps`` on an even grid from t = 1; returns its timesteps.

    From another ``start`` in (0, 1] the grid has ``steps_from`` it, and is as it would be from 1, times ``start``.

    Euler's own default grid ends one step early for models trained on 1,000 discrete steps; on a continuous path the
    grid 1, 1 - 1/n, ..., 1/n is meant. Schedulers that take no grid keep their own: Heun n points from 1 to 0.001
    (n - 1 steps of two evaluations, then one to 0), DPM-Solver 0.999 to 0.999 / n (at t = 1 its logarithm is infinite).
    """
    steps = steps_from(start, num_inference_steps)
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        sigmas = [start * (1 - i / steps) for i in range(steps)]
        scheduler.set_timesteps(sigmas=sigmas, device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
        if start < 1:
            scheduler.sigmas = scheduler.sigmas * start
            scheduler.timesteps = (scheduler.timesteps * start).to(scheduler.timesteps.dtype)
            # Rounded timesteps may be equal, and the index of the first is then ambiguous.
            scheduler.set_begin_index(0)
    return scheduler.timesteps


def step_times(scheduler: Any, num_inference_steps: int, start: float = 1.0) -> list[float]:
    """The times t of the steps that ``sample`` takes with a scheduler, falling; the scheduler stays as it is."""
    own = deepcopy(scheduler)
    timesteps = set_timesteps(own, num_inference_steps, torch.device("cpu"), start)
    return own.sigmas[: len(timesteps)].tolist()


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Any,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    num_inference_steps: int,
    depth: int | None = None,
    before_step: BeforeStep | None = None,
    on_step: OnStep | None = None,
    generator: Any = None,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
    strength: float = 1.0,
    constrain: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Integrate dz/dt = v(z, t) from noise at t = 1 to data at t = 0.

    From a ``source`` z_0 the way begins at t = ``strength``, at (1 - t) z_0 + t eps (SDEdit, 2108.01073). With a mask,
    what is kept stays on that straight line all along (2201.09865 eq. 8, with one eps for all steps), so that it ends
    as the source, and what is sampled anew sees it at the noise it has itself.

    Args:
        denoiser: a denoiser, or a ``GuidedDenoiser`` around one.
        scheduler: a diffusers scheduler over flow sigmas (flow-match Euler, Heun or LCM, DPM-Solver multistep with
            ``use_flow_sigmas``).
        latents: [B, C, H, W] standard normal noise.
        conditioning: of batch size B.
        num_inference_steps: steps of the scheduler, at least 1.
        depth: iterations inside the denoiser, where the family has them.
        before_step: called before each step with its time, a scalar on the processor (``GuidedDenoiser.begin``).
        on_step: called after each step with (step, t [B], latents, predicted data, the denoiser's ``aux``); may
            return other latents.
        generator: for schedulers that add noise.
        source: latents z_0 [B, C, H, W] of a picture to start from.
        source_mask: [B, 1, H, W] in {0, 1}, 1 where the source is sampled anew; None for everywhere.
        strength: t in (0, 1] at which the source is joined; at 1 nothing of it is left but what a mask keeps.
        constrain: takes the data z_0 [B, C, H, W] that a step predicts to those that agree with what is known of the
            picture (2212.00490 eq. 13); the step follows the velocity (z_t - z_0) / t to these.

    Returns:
        latents [B, C, H, W] at t = 0.
    """
    noise = latents
    timesteps = set_timesteps(scheduler, num_inference_steps, latents.device, strength)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if takes_generator else {}
    state: Tensor | None = None
    times = [sigma.to(latents).expand(latents.shape[0]) for sigma in scheduler.sigmas]
    hosts = scheduler.sigmas.to("cpu", latents.dtype)  # once for all steps: it waits for the device
    if source is not None and strength < 1:
        latents = interpolate(source, noise, times[0])
    for i, timestep in enumerate(timesteps):
        # A flow scheduler's sigma is t itself; its timestep is 1000 t, rounded by DPM-Solver.
        t = times[i]
        if before_step is not None:
            before_step(hosts[i])
        out = denoiser(latents, t, conditioning, state=state, depth=depth)
        state, velocity = out.state, out.velocity
        predicted = to_data(latents, velocity, t) if on_step is not None or constrain is not None else None
        if constrain is not None and predicted is not None:
            predicted = constrain(predicted)
            velocity = (latents - predicted) / t.view(-1, 1, 1, 1)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False, **extra)[0]
        if source is not None and source_mask is not None:
            latents = torch.where(source_mask > 0, latents, interpolate(source, noise, times[i + 1]))
            predicted = None if predicted is None else torch.where(source_mask > 0, predicted, source)
        if on_step is not None and predicted is not None:
            replaced = on_step(i, t, latents, predicted, out.aux)
            latents = latents if replaced is None else replaced
    return latents
