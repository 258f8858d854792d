"""A reference that learns while the network around it stays as it is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.denoisers.microforge import MicroForgeDenoiser
from pochade.errors import PochadeError
from pochade.flow.path import interpolate, to_data
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow
from pochade.training.stages.image_prompt import ImagePromptSettings, ImagePromptTask
from pochade.training.task import Batch, Task
from pochade.types import Conditioning

TOY: dict[str, Any] = {"latent_channels": 2, "sample_size": 4, "dim": 16, "heads": 2, "blocks": 1, "inner": 16}
TOY |= {"state_size": 3, "attention_every": 0, "modulation_groups": 4, "plan_tokens": 2, "plan_layers": 1}
TOY |= {"plan_hidden": 16, "num_classes": 1}
WIDTH = 6


def batch_of(step: int, rows: int = 32) -> Batch:
    """Latents of one colour, which the features tell: +1 or -1 in each of two channels."""
    generator = torch.Generator().manual_seed(step)
    colour = 2 * torch.randint(2, (rows, 2), generator=generator).float() - 1
    return {
        "latents": colour[:, :, None, None].repeat(1, 1, 4, 4),
        "image_prompt": torch.cat((colour, torch.randn(rows, WIDTH - 2, generator=generator)), 1)[:, None],
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


def predicted(denoiser: Any, batch: Batch, reference: Tensor | None) -> Tensor:
    """The data that the denoiser sees behind nothing but noise."""
    draw = draw_flow(batch["latents"], batch["seed"], FlowSettings())
    times = torch.full_like(draw.t, 0.98)
    z_t = interpolate(batch["latents"], draw.eps, times)
    out = denoiser(z_t, times, Conditioning(class_label=batch["class_label"], image_prompt=reference))
    return to_data(z_t, out.velocity, times)


def test_the_picture_follows_the_reference_and_the_network_stays_as_it_was() -> None:
    torch.manual_seed(0)
    base: Any = MicroForgeDenoiser(**TOY)
    learn(FlowTask(base, FlowSettings()), 60, 3e-3)
    denoiser: Any = base.with_image_prompt(WIDTH)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    task = ImagePromptTask(denoiser, ImagePromptSettings(input_dropout=0.2))
    assert {n for n, p in denoiser.named_parameters() if p.requires_grad} == {
        f"image_prompt.{n}" for n, _ in denoiser.image_prompt.named_parameters()
    }
    learn(task, 120, 5e-3)
    after = denoiser.state_dict()
    assert all(
        torch.equal(after[name], value) for name, value in before.items() if not name.startswith("image_prompt.")
    )
    learned = [f"image_prompt.{name}" for name, _ in denoiser.image_prompt.named_parameters()]
    assert not any(torch.equal(after[name], before[name]) for name in learned)

    batch = batch_of(1000)
    with torch.no_grad():
        plain = predicted(base, batch, None)
        assert torch.equal(predicted(denoiser, batch, None), plain)
        found = predicted(denoiser, batch, batch["image_prompt"])
        other = predicted(
            denoiser, batch, torch.cat((-batch["image_prompt"][..., :2], batch["image_prompt"][..., 2:]), 2)
        )
    agreement = [float((x.sign() == batch["latents"]).float().mean()) for x in (plain, found, other)]
    assert agreement[1] > 0.75
    assert agreement[0] < 0.7
    assert agreement[2] < 0.45


def test_rows_lose_their_reference_apart_from_their_text() -> None:
    denoiser: Any = MicroForgeDenoiser(**TOY, image_prompt_dim=WIDTH)
    batch = batch_of(0, rows=256)
    task = ImagePromptTask(denoiser, ImagePromptSettings(cfg_dropout=0.5, input_dropout=0.25))
    result = task.conditioning(batch)
    assert result.image_prompt is not None
    lost = result.image_prompt.eq(0).flatten(1).all(1)
    assert torch.equal(result.image_prompt[~lost], batch["image_prompt"][~lost])
    assert 0.15 < lost.float().mean() < 0.35
    dropped = draw_flow(batch["latents"], batch["seed"], task.settings).dropped
    assert 0.05 < (lost & dropped).float().mean() < 0.2
    again = task.conditioning({name: value[5:6] for name, value in batch.items()})
    assert again.image_prompt is not None
    assert torch.equal(again.image_prompt, result.image_prompt[5:6])


def test_settings_are_looked_at() -> None:
    for name in ("cfg_dropout", "input_dropout"):
        with pytest.raises(PochadeError, match=f"{name}: 1.5 given, must be in"):
            ImagePromptSettings(**{name: 1.5})
    with pytest.raises(PochadeError, match="views: 0 given, must be at least 1"):
        ImagePromptSettings(views=0)
