"""A control input that learns while the network around it stays as it is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.denoisers.iris import IRISDenoiser
from pochade.errors import PochadeError
from pochade.flow.path import interpolate, to_data
from pochade.training.stages.control import ControlSettings, ControlTask
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow
from pochade.training.task import Batch, Task
from pochade.types import Conditioning

TOY: dict[str, Any] = {"latent_channels": 2, "sample_size": 4, "patch_size": 1, "dim": 16, "heads": 2, "hidden": 24}
TOY |= {"blocks": 1, "iterations": 2, "depths": (2,), "gradient_iterations": 2, "num_classes": 1}


def batch_of(step: int, rows: int = 32) -> Batch:
    """Latents of +1 and -1 in a random pattern of 4 x 4 cells, and as the control latents that are the pattern."""
    generator = torch.Generator().manual_seed(step)
    pattern = torch.randint(2, (rows, 1, 4, 4), generator=generator).float()
    return {
        "latents": (2 * pattern - 1).repeat(1, 2, 1, 1),
        "control": pattern.repeat(1, 2, 1, 1),
        "class_label": torch.zeros(rows, dtype=torch.int64),
        "seed": torch.arange(step * rows, (step + 1) * rows),
    }


def learn(task: Task, steps: int, rate: float) -> None:
    task.trainable().train()
    optimizer = torch.optim.AdamW(task.parameter_groups(0.0, rate))
    for step in range(steps):
        task(batch_of(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    task.eval()


def predicted(denoiser: Any, batch: Batch, control: Tensor | None, t: float = 0.9) -> Tensor:
    """The data that the denoiser sees behind much noise."""
    draw = draw_flow(batch["latents"], batch["seed"], FlowSettings())
    times = torch.full_like(draw.t, t)
    z_t = interpolate(batch["latents"], draw.eps, times)
    out = denoiser(z_t, times, Conditioning(class_label=batch["class_label"], control=control))
    return to_data(z_t, out.velocity, times)


def test_the_picture_follows_the_control_and_the_network_stays_as_it_was() -> None:
    torch.manual_seed(0)
    base: Any = IRISDenoiser(**TOY)
    learn(FlowTask(base, FlowSettings()), 100, 3e-3)
    denoiser: Any = base.with_control("edges")
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    task = ControlTask(denoiser, ControlSettings(input_dropout=0.2))
    assert {n for n, p in denoiser.named_parameters() if p.requires_grad} == {
        f"control.{n}" for n, _ in denoiser.control.named_parameters()
    }
    learn(task, 150, 5e-3)
    after = denoiser.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if not name.startswith("control."))
    assert not any(torch.equal(after[name], value) for name, value in before.items() if name.startswith("control."))

    batch = batch_of(1000)
    with torch.no_grad():
        plain = predicted(base, batch, None)
        assert torch.equal(predicted(denoiser, batch, None), plain)
        found = predicted(denoiser, batch, batch["control"])
        other = predicted(denoiser, batch, 1 - batch["control"])
    agreement = [float((x.sign() == batch["latents"]).float().mean()) for x in (plain, found, other)]
    assert agreement[1] > 0.7
    assert agreement[0] < 0.6
    assert agreement[2] < 0.35


def test_rows_lose_their_control_apart_from_their_text() -> None:
    denoiser: Any = IRISDenoiser(**TOY, controlled=True)
    batch = batch_of(0, rows=256)
    batch["control"] = torch.ones_like(batch["control"])
    task = ControlTask(denoiser, ControlSettings(cfg_dropout=0.5, input_dropout=0.25))
    result = task.conditioning(batch)
    assert result.control is not None
    kept = result.control.flatten(1).amin(1)
    assert torch.equal(kept, result.control.flatten(1).amax(1))
    lost = kept == 0
    assert 0.15 < lost.float().mean() < 0.35
    dropped = draw_flow(batch["latents"], batch["seed"], task.settings).dropped
    assert 0.05 < (lost & dropped).float().mean() < 0.2
    again = task.conditioning({name: value[5:6] for name, value in batch.items()})
    assert again.control is not None
    assert torch.equal(again.control, result.control[5:6])
    for share, expected in ((0.0, 1.0), (1.0, 0.0)):
        whole = ControlTask(denoiser, ControlSettings(input_dropout=share)).conditioning(batch).control
        assert whole is not None
        assert whole.eq(expected).all()


@pytest.mark.parametrize("name", ["cfg_dropout", "input_dropout"])
def test_shares_are_shares(name: str) -> None:
    with pytest.raises(PochadeError, match=f"{name}: 1.5 given, must be in"):
        ControlSettings(**{name: 1.5})
