"""Learning to edit: the conditioning of a sample, what it loses, and a toy that learns to follow instructions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pochade.denoisers.lrf import LRFDenoiser
from pochade.errors import PochadeError
from pochade.flow.path import interpolate, to_data
from pochade.training.stages.edit import EditSettings, EditTask
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow
from pochade.training.task import Batch
from pochade.types import TASKS, Conditioning

TOY: dict[str, Any] = {"latent_channels": 2, "sample_size": 4, "dim": 24, "heads": 2, "hidden": 32, "blocks": 1}
TOY |= {"text_dim": 4, "pooled_dim": 4}


def batch_of(step: int, rows: int = 32) -> Batch:
    """Sources of +1 and -1 in random patterns; the word says whether they are kept or turned into the negative."""
    generator = torch.Generator().manual_seed(step)
    source = (2 * torch.randint(2, (rows, 1, 4, 4), generator=generator).float() - 1).repeat(1, 2, 1, 1)
    word = torch.randint(2, (rows,), generator=generator)
    tokens = torch.eye(4)[word][:, None]
    return {
        "latents": source * (1 - 2 * word[:, None, None, None]),
        "source": source,
        "source_mask": torch.zeros(rows, 1, 4, 4),
        "task": torch.full((rows,), TASKS.index("edit")),
        "tokens": tokens,
        "mask": torch.ones(rows, 1, dtype=torch.bool),
        "pooled": tokens[:, 0],
        "seed": torch.arange(step * rows, (step + 1) * rows),
    }


def predicted(denoiser: Any, batch: Batch, result: Conditioning, t: float = 0.9) -> Tensor:
    """The data that the denoiser sees behind much noise."""
    draw = draw_flow(batch["latents"], batch["seed"], FlowSettings())
    times = torch.full_like(draw.t, t)
    z_t = interpolate(batch["latents"], draw.eps, times)
    return to_data(z_t, denoiser(z_t, times, result).velocity, times)


def test_a_toy_follows_instructions() -> None:
    torch.manual_seed(0)
    base: Any = LRFDenoiser(**TOY)
    denoiser = base.with_source(["edit"])
    task = EditTask(denoiser, EditSettings())
    assert all(p.requires_grad for p in denoiser.parameters())
    task.trainable().train()
    optimizer = torch.optim.AdamW(task.parameter_groups(0.0, 5e-3))
    losses: list[float] = []
    for step in range(200):
        loss = task(batch_of(step))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    denoiser.eval()
    batch = batch_of(1000)
    with torch.no_grad():
        result = EditTask(denoiser, EditSettings(text_dropout=0, source_dropout=0, joint_dropout=0)).conditioning(batch)
        found = predicted(denoiser, batch, result)
        without = predicted(denoiser, batch, result.drop("source"))
    right = [float((x.sign() == batch["latents"]).float().mean()) for x in (found, without)]
    assert right[0] > 0.9
    assert right[1] < 0.75


def test_a_plain_row_is_trained_as_before() -> None:
    """Without a source and before training, the loss of editing is that of painting, row for row."""
    torch.manual_seed(0)
    base: Any = LRFDenoiser(**TOY)
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = batch_of(0)
    batch |= {"source": torch.zeros_like(batch["source"]), "task": torch.full_like(batch["task"], -1)}
    nothing = EditSettings(text_dropout=0, source_dropout=0, joint_dropout=0)
    mine = EditTask(base.with_source(["edit"]).eval(), nothing)(batch)["per_sample"]
    theirs = FlowTask(base.eval(), FlowSettings(cfg_dropout=0.0, time_shift=nothing.time_shift))(batch)["per_sample"]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_rows_lose_words_source_or_both() -> None:
    rows = 1024
    batch = batch_of(0, rows)
    batch["source_mask"] = torch.ones_like(batch["source_mask"])
    denoiser: Any = LRFDenoiser(**TOY, tasks=("edit",))
    task = EditTask(denoiser, EditSettings(text_dropout=0.1, source_dropout=0.2, joint_dropout=0.3))
    result = task.conditioning(batch)
    assert result.mask is not None
    assert result.source is not None
    assert result.source_mask is not None
    assert result.task is not None
    text, source = result.mask.any(1), result.source.flatten(1).any(1)
    assert torch.equal(source, result.task == TASKS.index("edit"))
    assert torch.equal(source, result.source_mask.flatten(1).all(1))
    for lost, share in ((~text & source, 0.1), (text & ~source, 0.2), (~text & ~source, 0.3), (text & source, 0.4)):
        assert abs(float(lost.float().mean()) - share) < 0.05
    # A row loses the same alone and in any batch.
    alone = task.conditioning({name: value[7:8] for name, value in batch.items()})
    assert alone.source is not None
    assert alone.mask is not None
    assert torch.equal(alone.source, result.source[7:8])
    assert torch.equal(alone.mask, result.mask[7:8])


def test_the_task_reaches_the_network() -> None:
    torch.manual_seed(0)
    denoiser: Any = LRFDenoiser(**TOY, tasks=("edit", "inpaint")).eval()
    for parameter in denoiser.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    task = EditTask(denoiser, EditSettings())
    batch = batch_of(0)
    other = {**batch, "task": torch.full_like(batch["task"], TASKS.index("inpaint"))}
    one, two = (task(b)["per_sample"] for b in (batch, other))
    kept = task.conditioning(batch).task
    assert kept is not None
    assert (one - two).abs()[kept >= 0].min() > 0
    assert (one - two).abs()[kept < 0].eq(0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("generate",)}, "tasks: .* allowed are one or more of edit, inpaint, super_resolution"),
        ({"tasks": ()}, "tasks: .* allowed are one or more"),
        ({"generate": 1.0}, r"generate: 1.0 given, must be in \[0, 1\)"),
        ({"joint_dropout": -0.1}, r"joint_dropout: -0.1 given, must be in \[0, 1\]"),
        ({"text_dropout": 0.95}, "together are 1 at most"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        EditSettings(**changes)
