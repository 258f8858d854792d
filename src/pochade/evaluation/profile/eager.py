"""Measures networks in eager PyTorch: ``python -m pochade.evaluation.profile.eager``, a job on the input."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pochade.allocator import KEPT, keep_freed_memory
from pochade.denoisers.base import DenoiserModel
from pochade.device import resolve_device, resolve_precision
from pochade.evaluation.profile import COMPONENTS, MB, PICTURE, measure
from pochade.evaluation.profile.figures import Eager, EagerJob
from pochade.evaluation.profile.models import load
from pochade.evaluation.profile.sampling import PROMPT, sample, seeded
from pochade.export.networks import denoiser_inputs
from pochade.flow.sampling import CastDenoiser
from pochade.types import Conditioning, Denoiser


def values_for(denoiser: DenoiserModel, job: EagerJob) -> dict[str, Tensor]:
    """Values for every input of a denoiser on its device, the same as its graph is given."""
    found: dict[str, Tensor] = {}
    device = torch.device(job["device"])
    rows, columns = job["latent_size"]
    for i in denoiser_inputs(denoiser.input_spec(), (rows, columns), job["text_tokens"]):
        kind = str(i.dtype).removeprefix("torch.")
        found[i.name] = torch.from_numpy(seeded(i.name, (job["batch"], *i.shape), kind)).to(device)
    return found


def placed(job: EagerJob, component: str) -> Any:
    """A component on the device, denoiser and decoder in the precision; None where the model has none."""
    keep_freed_memory(KEPT)
    module = load(job["model"], component, job["text_encoder"])
    if module is None:
        return None
    device = resolve_device(job["device"])
    dtype = torch.float32 if component == "text_encoder" else resolve_precision(job["precision"], device)
    return nn.Module.to(module, device, dtype)


def sampled(denoiser: DenoiserModel) -> Denoiser:
    """A denoiser as a pipeline calls it: half precision is of the network alone."""
    return denoiser if denoiser.dtype == torch.float32 else CastDenoiser(denoiser, denoiser.dtype)


def call_denoiser(denoiser: Denoiser, depth: int | None, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Velocity and next state for values by name."""
    parts = {name: value for name, value in values.items() if name not in {"latents", "t", "state"}}
    out = denoiser(values["latents"], values["t"], Conditioning(**parts), state=values.get("state"), depth=depth)
    return out.velocity, out.state


def one(job: EagerJob) -> Callable[[], object]:
    """Loads a component, gives a call of it."""
    component = job["component"]
    module = placed(job, component)
    if component == "text_encoder":
        shape = (job["batch"], job["text_tokens"])
        ids, mask = (torch.ones(shape, dtype=dtype, device=module.device) for dtype in (torch.int64, torch.bool))
        return partial(module, ids, mask)
    if component == "decoder":
        shape = (job["batch"], module.config.latent_channels, *job["latent_size"])
        return partial(
            module.decode, torch.from_numpy(seeded("latents", shape, "float32")).to(module.device, module.dtype)
        )
    return partial(call_denoiser, sampled(module), job["depth"], values_for(module, job))


def picture(job: EagerJob) -> Callable[[], Tensor]:
    """Loads all components, gives the whole sampling, from a prompt to pixels."""
    text, denoiser, decoder = (placed(job, name) for name in COMPONENTS)
    given = values_for(denoiser, job)
    denoise = partial(call_denoiser, sampled(denoiser), job["depth"])

    def call() -> Tensor:
        inputs = dict(given)
        if text is not None:
            encoded = text.encode([PROMPT] * job["batch"])
            found = {"tokens": encoded.tokens, "mask": encoded.mask, "pooled": encoded.pooled}
            inputs |= {name: value for name, value in found.items() if name in given}
        return decoder.decode(sample(denoise, inputs, job["steps"]).to(decoder.dtype))

    return call


def device_peak_mb(device: torch.device) -> float | None:
    """The peak in MB of what this process has allocated on a CUDA device; None for others."""
    return torch.cuda.max_memory_allocated(device) / MB if device.type == "cuda" else None


def main() -> None:
    """Reads a job, writes what was measured, both as JSON."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    load_all = picture if job["component"] == PICTURE else one
    measured = measure(partial(load_all, job), job["repeats"])
    found: Eager = {**measured, "device_mb": device_peak_mb(torch.device(job["device"]))}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
