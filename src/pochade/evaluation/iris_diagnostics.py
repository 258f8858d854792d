"""Internals of an IRIS denoiser: the gates and decays of its mixer, and the convergence of its state.

Each function makes one forward pass in evaluation mode and leaves the network as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pochade.denoisers.iris import IRISDenoiser
from pochade.denoisers.iris.model import CoreBlock
from pochade.errors import PochadeError
from pochade.types import Conditioning


def gammas(denoiser: IRISDenoiser) -> np.ndarray:
    """[blocks, heads] in (0, 1): the learned decays of the mixer's path by distance, a neighbour's weight each."""
    with torch.no_grad():
        return torch.stack([block.mixer.spatial.gamma() for block in _blocks(denoiser)]).float().cpu().numpy()


def gate_maps(
    denoiser: IRISDenoiser, latents: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None = None
) -> np.ndarray:
    """[passes, blocks, B, H, W] in (0, 1): the mixer's gate at each token, a mean over the channels.

    1 is the path by frequency alone, 0 the path by recurrence alone.
    """
    gates = [block.mixer.gate for block in _blocks(denoiser)]
    seen = _outputs(denoiser, gates, (latents, t, conditioning), depth)
    height, width = _grid(denoiser, latents)
    maps = torch.stack([torch.sigmoid(x).mean(-1) for x in seen])
    return maps.unflatten(0, (-1, len(gates))).unflatten(-1, (height, width)).numpy()


def residuals(
    denoiser: IRISDenoiser, latents: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None = None
) -> np.ndarray:
    """[passes, B]: |s_i - s_(i-1)| / |s_i| of the state after each pass, from s_0 = 0, so that the first is 1."""
    states = _states(denoiser, (latents, t, conditioning), depth)
    before = torch.cat((torch.zeros_like(states[:1]), states[:-1]))
    change = (states - before).square().mean((2, 3)) / states.square().mean((2, 3)).clamp_min(1e-12)
    return change.sqrt().numpy()


def spectra(
    denoiser: IRISDenoiser, latents: Tensor, t: Tensor, conditioning: Conditioning, depth: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``radial_power`` of the state after each pass: frequencies [F] and power [passes, F]."""
    states = _states(denoiser, (latents, t, conditioning), depth)
    grids = states.transpose(2, 3).unflatten(3, _grid(denoiser, latents))
    both = [radial_power(grid) for grid in grids]
    return both[0][0], np.stack([power for _, power in both])


def radial_power(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rings of frequency in x [B, C, H, W]: the mean frequency of each, in cycles a cell, and its mean power, both [F].

    Rings are 1 / max(H, W) wide, the first holds the mean alone. The transform is orthonormal: white noise of
    standard deviation 1 has the power 1 everywhere.
    """
    height, width = x.shape[-2:]
    power = torch.fft.fft2(x.double(), norm="ortho").abs().square().mean((0, 1)).flatten().cpu().numpy()
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.hypot(rows, columns).ravel()
    ring = np.rint(frequency * max(height, width)).astype(int)
    counts = np.bincount(ring)
    there = counts > 0
    sums = (np.bincount(ring, weights=values)[there] for values in (frequency, power))
    frequencies, means = (total / counts[there] for total in sums)
    return frequencies, means


def _blocks(denoiser: IRISDenoiser) -> list[CoreBlock]:
    if not isinstance(denoiser, IRISDenoiser):
        raise PochadeError(f"denoiser: {type(denoiser).__name__} given, allowed is an IRISDenoiser")
    return list(denoiser.core.blocks)  # pyright: ignore[reportReturnType]


def _grid(denoiser: IRISDenoiser, latents: Tensor) -> tuple[int, int]:
    patch = denoiser.config.patch_size
    return latents.shape[2] // patch, latents.shape[3] // patch


def _states(denoiser: IRISDenoiser, inputs: tuple[Tensor, Tensor, Conditioning], depth: int | None) -> Tensor:
    """[passes, B, N, D] float32, the state after each pass."""
    _blocks(denoiser)
    return torch.stack(_outputs(denoiser, [denoiser.core], inputs, depth))


def _outputs(
    denoiser: IRISDenoiser, modules: list[Any], inputs: tuple[Tensor, Tensor, Conditioning], depth: int | None
) -> list[Tensor]:
    """What the modules give in one call, in order, float32 on the CPU; of several tensors the first."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out).detach().float().cpu())

    was = denoiser.training
    denoiser.eval()
    try:
        with torch.no_grad(), _watched(modules, keep):
            denoiser(*inputs, depth=depth)
    finally:
        denoiser.train(was)
    return seen


@contextmanager
def _watched(modules: list[Any], keep: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
