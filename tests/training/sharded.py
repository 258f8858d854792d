"""Toy runs of flow matching, the same however many processes share them and whether these divide the weights."""

from typing import Any

import torch
from torch import Tensor

from contracts.families import FAMILIES, make, stir
from pochade.data.samples import Samples
from pochade.nn.keyed_random import keyed_normal
from pochade.training.data import ImageData
from pochade.training.stage import Stage
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.task import Batch


class FlowSamples(Samples):
    """Latents [B, 3, 4, 4] and text, drawn from the key."""

    def __len__(self) -> int:
        return 40

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        tokens = keyed_normal(keys, (5, 10), 1)
        mask = torch.arange(5)[None] < 2 + indices[:, None] % 4
        text = {"tokens": tokens, "mask": mask, "pooled": keyed_normal(keys, (6,), 2)}
        return {"latents": keyed_normal(keys, (3, 4, 4), 3), "name": [f"{i}" for i in indices.tolist()], **text}


def flow_task(family: str) -> FlowTask:
    """The first toy of a family, with random weights."""
    torch.manual_seed(3)
    return FlowTask(stir(make(family, next(iter(FAMILIES[family].toys)))), FlowSettings(family=family))


def flow_stage(**changes: Any) -> Stage[FlowSettings, ImageData]:
    """Four steps of twelve samples, a checkpoint after two."""
    given: dict[str, Any] = {"steps": 4, "batch_size": 12, "accumulate": 2, "warmup_steps": 1, "learning_rate": 1e-2}
    given |= {"save_every": 2, "sample_every": 0, "log_every": 1, "keep": 9, "device": "cpu", "ema_decay": 0.9}
    given["epsilon"] = 1e-2  # else the least gradients, which are rounding, move weights as the largest do
    return Stage(name="toy", task=FlowSettings(), data=ImageData(), gradient_checkpointing=True, **(given | changes))
