"""From noise to latents, by any of diffusers' flow-matching schedulers."""

import inspect
from typing import Any

import torch
from torch import Tensor

from pochade.flow.guidance import OnStep
from pochade.flow.path import to_data
from pochade.types import Conditioning, Denoiser


def set_timesteps(scheduler: Any, num_inference_steps: int, device: torch.device) -> Tensor:
    """Prepare ``scheduler`` for ``num_inference_steps`` on an even grid from t = 1; returns its timesteps.

    Euler's own default grid ends one step early for models trained on 1,000 discrete steps; on a continuous path the
    grid 1, 1 - 1/n, ..., 1/n is meant. Schedulers that take no grid keep their own: Heun n points from 1 to 0.001
    (n - 1 steps of two evaluations, then one to 0), DPM-Solver 0.999 to 0.999 / n (at t = 1 its logarithm is infinite).
    """
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        sigmas = [1 - i / num_inference_steps for i in range(num_inference_steps)]
        scheduler.set_timesteps(sigmas=sigmas, device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Any,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    num_inference_steps: int,
    depth: int | None = None,
    on_step: OnStep | None = None,
    generator: Any = None,
) -> Tensor:
    """Integrate dz/dt = v(z, t) from noise at t = 1 to data at t = 0.

    Args:
        denoiser: a denoiser, or a ``GuidedDenoiser`` around one.
        scheduler: a diffusers scheduler over flow sigmas (flow-match Euler, Heun or LCM, DPM-Solver multistep with
            ``use_flow_sigmas``).
        latents: [B, C, H, W] standard normal noise.
        conditioning: of batch size B.
        num_inference_steps: steps of the scheduler, at least 1.
        depth: iterations inside the denoiser, where the family has them.
        on_step: called after each step with (step, t [B], latents, predicted data, the denoiser's ``aux``); may
            return other latents.
        generator: for schedulers that add noise.

    Returns:
        latents [B, C, H, W] at t = 0.
    """
    timesteps = set_timesteps(scheduler, num_inference_steps, latents.device)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if takes_generator else {}
    state: Tensor | None = None
    for i, timestep in enumerate(timesteps):
        # A flow scheduler's sigma is t itself; its timestep is 1000 t, rounded by DPM-Solver.
        t = scheduler.sigmas[i].to(latents).expand(latents.shape[0])
        out = denoiser(latents, t, conditioning, state=state, depth=depth)
        state = out.state
        predicted = to_data(latents, out.velocity, t) if on_step is not None else None
        latents = scheduler.step(out.velocity, timestep, latents, return_dict=False, **extra)[0]
        if on_step is not None and predicted is not None:
            replaced = on_step(i, t, latents, predicted, out.aux)
            latents = latents if replaced is None else replaced
    return latents
