"""A small run with all that must survive a resume: dropout, batch statistics, several parameter groups."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pochade.data.samples import Samples
from pochade.nn.keyed_random import keyed_normal
from pochade.training.loader import draw
from pochade.training.stage import Settings, Stage
from pochade.training.task import Batch, Task

WIDTH = 8


@dataclass(frozen=True)
class ToySettings(Settings):
    dropout: float = 0.2
    weighting: str | None = None


@dataclass(frozen=True)
class ToyData:
    size: int = 40


class ToyDataset(Samples):
    """Samples of numbers; the numbers come from the key, the name from the index."""

    def __init__(self, size: int = 40) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        names = [f"row{index}" for index in indices.tolist()]
        return {"x": keyed_normal(keys, (WIDTH,)), "index": indices, "name": names}


class ToyTask(Task):
    """Reconstruction of a sample; ``killed_at`` ends the process in that forward call, as a power cut does."""

    def __init__(self, settings: ToySettings | None = None, killed_at: int | None = None) -> None:
        super().__init__()
        dropout = (settings or ToySettings()).dropout
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, WIDTH)
        )
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False).eval()
        self.killed_at = killed_at
        self.calls = 0
        self.seen: list[int] = []

    def trainable(self) -> nn.Module:
        return self.net

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += batch["index"].tolist()
        x = batch["x"]
        t = batch["seed"].remainder(1000) / 1000
        losses = (self.net(x) - x - 0.1 * self.frozen(x)).square().mean(1)
        return {"loss": losses.mean(), "size": x.square().mean(), "t": t, "per_sample": losses.detach()}


class PlainTask(ToyTask):
    """Without dropout and batch statistics: the same mathematics however the batch is split."""

    has_unused = True

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 16), nn.SiLU(), nn.Linear(16, WIDTH))
        self.net.register_parameter("spare", nn.Parameter(torch.zeros(3)))  # a part that this task does not use


class DrawingTask(PlainTask):
    """Each step scales the loss of its whole batch by one draw, as a denoiser may draw its depth."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output = super().forward(batch)
        return output | {"loss": output["loss"] * (1 + torch.rand(()))}


def toy_stage(**changes: Any) -> Stage:
    defaults: dict[str, Any] = {
        "name": "toy",
        "task": ToySettings(),
        "data": ToyData(),
        "steps": 12,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "save_every": 4,
        "sample_every": 0,
        "log_every": 4,
        "keep": 10,
        "ema_decay": 0.9,
    }
    return Stage(**(defaults | changes))


def order(size: int, seed: int, count: int) -> list[int]:
    """The indices that a run draws first."""
    return draw(ToyDataset(size), seed, range(count), count)["index"].tolist()


def fingerprint(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of the three files of tensors in a checkpoint, from its manifest."""
    import json

    manifest = json.loads((checkpoint / "manifest.json").read_text())
    return {name: digest for name, digest in manifest.items() if name.endswith(".safetensors")}


def halves(batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    return [{k: v[part] for k, v in batch.items()} for part in (slice(count // 2), slice(count // 2, None))]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
