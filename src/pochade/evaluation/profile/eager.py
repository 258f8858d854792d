"""Measures networks in eager PyTorch: ``python -m pochade.evaluation.profile.eager``, a job on the input."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from pochade.denoisers.base import DenoiserModel
from pochade.evaluation.profile import COMPONENTS, PICTURE, measure
from pochade.evaluation.profile.figures import EagerJob
from pochade.evaluation.profile.models import load
from pochade.evaluation.profile.sampling import PROMPT, sample, seeded
from pochade.export.onnx import denoiser_inputs
from pochade.types import Conditioning


def values_for(denoiser: DenoiserModel, job: EagerJob) -> dict[str, Tensor]:
    """Values for every input of a denoiser, the same as its graph is given."""
    found: dict[str, Tensor] = {}
    rows, columns = job["latent_size"]
    for i in denoiser_inputs(denoiser.input_spec(), (rows, columns), job["text_tokens"]):
        kind = str(i.dtype).removeprefix("torch.")
        found[i.name] = torch.from_numpy(seeded(i.name, (job["batch"], *i.shape), kind))
    return found


def call_denoiser(
    denoiser: DenoiserModel, depth: int | None, values: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Velocity and next state for values by name."""
    parts = {name: value for name, value in values.items() if name not in {"latents", "t", "state"}}
    out = denoiser(values["latents"], values["t"], Conditioning(**parts), state=values.get("state"), depth=depth)
    return out.velocity, out.state


def one(job: EagerJob) -> Callable[[], object]:
    """Loads a component, gives a call of it."""
    component = job["component"]
    module = load(job["model"], component, job["text_encoder"])
    if component == "text_encoder":
        shape = (job["batch"], job["text_tokens"])
        return partial(module, torch.ones(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool))
    if component == "decoder":
        shape = (job["batch"], module.config.latent_channels, *job["latent_size"])
        return partial(module.decode, torch.from_numpy(seeded("latents", shape, "float32")))
    return partial(call_denoiser, module, job["depth"], values_for(module, job))


def picture(job: EagerJob) -> Callable[[], Tensor]:
    """Loads all components, gives the whole sampling, from a prompt to pixels."""
    text, denoiser, decoder = (load(job["model"], name, job["text_encoder"]) for name in COMPONENTS)
    given = values_for(denoiser, job)
    denoise = partial(call_denoiser, denoiser, job["depth"])

    def call() -> Tensor:
        inputs = dict(given)
        if text is not None:
            encoded = text.encode([PROMPT] * job["batch"])
            found = {"tokens": encoded.tokens, "mask": encoded.mask, "pooled": encoded.pooled}
            inputs |= {name: value for name, value in found.items() if name in given}
        return decoder.decode(sample(denoise, inputs, job["steps"]))

    return call


def main() -> None:
    """Reads a job, writes what was measured, both as JSON."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    load_all = picture if job["component"] == PICTURE else one
    json.dump(measure(partial(load_all, job), job["repeats"]), sys.stdout)


if __name__ == "__main__":
    main()
