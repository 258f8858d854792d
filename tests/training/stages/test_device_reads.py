"""A training step waits for no number of its device, and makes no tensor of the processor's numbers: on a GPU either
stops the work until all that was begun is done."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pochade.denoisers import build
from pochade.training.stages.consistency import ConsistencySettings, ConsistencyTask
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.task import Task

SMALL: dict[str, dict[str, Any]] = {
    "lrf": {"dim": 32, "heads": 2, "hidden": 48, "blocks": 2, "sample_size": 8},
    "lira": {"dim": 32, "heads": 2, "hidden": 48, "blocks": 2, "state_size": 4, "sample_size": 8},
    "microforge": {"dim": 32, "heads": 2, "blocks": 2, "inner": 64, "state_size": 4, "attention_every": 2}
    | {"plan_tokens": 4, "plan_layers": 1, "plan_hidden": 48, "sample_size": 8},
}
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh"}


class Watch(TorchDispatchMode):
    """Keeps the names of the operators of ``WAITING`` that are called on the device, here the CPU's own tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        if name in WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def batch_for(config: Any) -> dict[str, Tensor]:
    return {
        "latents": torch.randn(3, config.latent_channels, 8, 8),
        "tokens": torch.randn(3, 7, config.text_dim),
        "mask": torch.ones(3, 7, dtype=torch.bool),
        "pooled": torch.randn(3, config.pooled_dim),
        "seed": torch.arange(3),
    }


def waits(task: Task, config: Any) -> list[str]:
    """What a step waits for once the first has made what is kept."""
    task.begin_step(0.5)
    task.trainable().train()
    batch = batch_for(config)
    task(batch)["loss"].backward()
    with Watch() as watch:
        task(batch)["loss"].backward()
    return watch.found


@pytest.mark.parametrize("family", SMALL)
def test_flow_matching_waits_for_nothing(family: str) -> None:
    denoiser = build(family, "nano", **SMALL[family])
    assert waits(FlowTask(denoiser, FlowSettings(family)), denoiser.config) == []


@pytest.mark.parametrize("family", ["lrf", "microforge"])
def test_distillation_waits_for_nothing(family: str) -> None:
    denoiser = build(family, "nano", **SMALL[family])
    task = ConsistencyTask(denoiser, ConsistencySettings(phases=4))
    assert waits(task, denoiser.config) == []


def test_an_interval_of_guidance_is_compared_with_a_time_on_the_processor() -> None:
    denoiser = build("lrf", "nano", **SMALL["lrf"])
    task = ConsistencyTask(denoiser, ConsistencySettings(phases=4), (0.4, 0.8))
    assert waits(task, denoiser.config) == ["_local_scalar_dense"]
