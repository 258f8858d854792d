"""The loss on held-out samples: the same noises each time, the model at the lowest kept, and what is said of a rise."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pochade.data.samples import Samples
from pochade.nn.keyed_random import keyed_normal
from pochade.training import loop
from pochade.training.estimate import estimate, span
from pochade.training.held_out import DRAWS, HeldOut, Lowest, is_due
from pochade.training.loop import train
from pochade.training.stage import Stage, steps_for
from pochade.training.task import Batch, Task
from training.toy import ToyData, ToySettings


class Numbers(Samples):
    """Sample i is ``value`` with noise of its key."""

    def __init__(self, value: float, count: int = 6) -> None:
        self.value, self.count = value, count
        self.drawn = 0

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        self.drawn += len(indices)
        return {"x": self.value + 0.1 * keyed_normal(keys, (1,)), "name": [str(i) for i in indices.tolist()]}


class Mean(Task):
    """One number that learns the mean of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.net.weight, -1.0)

    def trainable(self) -> nn.Module:
        return self.net

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        noise = 0.3 * torch.rand(()) if self.training else 0  # of a global generator: no other run may be disturbed
        error = (self.net.weight[0] + 0 * noise - batch["x"]).square().mean(1)
        return {"loss": error.mean(), "t": torch.full_like(error, 0.5), "per_sample": error.detach()}


def stage(**changes: Any) -> Stage:
    given: dict[str, Any] = {
        "steps": 100, "batch_size": 4, "learning_rate": 0.05, "warmup_steps": 0, "schedule": "constant",
        "ema_decay": 0.0, "save_every": 50, "sample_every": 0, "log_every": 2, "device": "cpu",
    }  # fmt: skip
    return Stage(name="toy", task=ToySettings(), data=ToyData(), **{**given, **changes})  # pyright: ignore


def write_weight(task: Mean, folder: Path) -> None:
    save_file({"weight": task.net.weight.detach().clone()}, folder / "weight.safetensors")


def run(folder: Path, held_out: Samples | None, **changes: Any) -> tuple[Mean, list[dict[str, Any]]]:
    task = Mean()
    resume = bool(changes.pop("resume", False))
    train(
        stage(**changes),
        task,
        Numbers(1.0),
        folder,
        held_out=held_out,
        resume=resume,
        save_model=lambda place: write_weight(task, place),
        console=True,
    )
    return task, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_model_at_the_lowest_loss_is_kept_and_a_rise_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From -1 the weight moves by 0.05 a step to 1, past the held-out samples at 0."""
    _, lines = run(tmp_path, Numbers(0.0))
    printed = capfd.readouterr().err
    losses = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    assert sorted(losses) == list(range(2, 101, 2))
    lowest = min(losses, key=lambda step: losses[step])
    assert 16 <= lowest <= 26
    kept = load_file(tmp_path / "best" / "weight.safetensors")["weight"]
    assert abs(float(kept)) < 0.1
    assert losses[lowest] < 0.03 < losses[100]
    assert printed.count("the held-out loss has risen for") == 1
    risen = next(step for step in sorted(losses) if step >= lowest + 10)
    assert f"risen for {risen - lowest} steps, from {losses[lowest]:.4g} to {losses[risen]:.4g}" in printed
    assert f"the held-out loss was lowest, {losses[lowest]:.4g}, at step {lowest}: {tmp_path / 'best'}" in printed
    assert " s a step, " in printed


def test_an_estimate_is_of_the_steps_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes a minute in a step and an hour in a sheet, the first of which comes after the first step."""
    now = [0.0]

    class Slow(Mean):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            now[0] += 60
            return super().forward(batch)

    def sheet() -> None:
        now[0] += 3600

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    train(stage(steps=10, sample_every=5), Slow(), Numbers(1.0), tmp_path, sample_sheet=sheet)
    assert "60 s a step, 7 min to go" in capfd.readouterr().err


def test_nothing_is_said_where_it_falls(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, Numbers(1.0), learning_rate=0.02, schedule="cosine")
    printed = capfd.readouterr().err
    assert "risen" not in printed


def test_measuring_changes_nothing_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    with_it, lines = run(tmp_path / "with", Numbers(0.0))
    without, _ = run(tmp_path / "without", None)
    assert torch.equal(with_it.net.weight, without.net.weight)
    assert not (tmp_path / "without" / "best").exists()
    run(tmp_path / "half", Numbers(0.0), steps=50)
    half, again = run(tmp_path / "half", Numbers(0.0), resume=True)
    assert torch.equal(half.net.weight, with_it.net.weight)
    kept = [load_file(tmp_path / name / "best" / "weight.safetensors")["weight"] for name in ("with", "half")]
    assert torch.equal(*kept)
    of_both = [[(r["step"], r["held_out_loss"]) for r in rows if "held_out_loss" in r] for rows in (lines, again)]
    assert of_both[0] == of_both[1]


def test_the_draws_are_the_same_each_time_and_drawn_once() -> None:
    samples = Numbers(0.0)
    held_out, task = HeldOut(samples, 10, torch.device("cpu")), Mean().eval()
    assert samples.drawn >= DRAWS
    drawn = samples.drawn
    first = held_out.loss(task)
    assert held_out.loss(task) == first
    assert samples.drawn == drawn
    assert HeldOut(Numbers(0.0), 10, torch.device("cpu")).loss(task) == first
    # (-1 - x)^2 over x of mean 0 and deviation 0.1.
    assert first == pytest.approx(1.01, abs=0.05)


def test_about_fifty_lines_of_the_log_have_it() -> None:
    for steps, every in ((1000, 10), (1000, 50), (156, 10), (20_000, 50), (7, 1)):
        due = [step for step in range(1, steps + 1) if is_due(step, steps, every)]
        assert due[-1] == steps
        assert all(step % every == 0 for step in due[:-1])
        assert len(due) <= 76
        assert len(due) >= min(25, steps // every)


def test_the_lowest_is_remembered_with_what_was_said() -> None:
    lowest = Lowest()
    assert lowest.see(10, 1.0)

    def said(one: Lowest, *losses: tuple[int, float]) -> list[str | None]:
        return [one.warn(step, loss, 1000) for step, loss in losses if not one.see(step, loss)]

    assert said(lowest, (20, 1.2), (30, 1.2), (40, 1.2)) == [None] * 3  # too early
    assert said(lowest, (110, 1.001), (120, 1.2), (130, 1.2)) == [None] * 3  # hardly higher, and then twice
    assert "risen for 130 steps, from 1 to 1.3" in (said(lowest, (140, 1.3))[0] or "")
    again = Lowest(lowest.state())
    assert again.warn(300, 1.3, 1000) is None  # said before
    assert again.see(400, 0.9)
    assert said(again, (500, 1.0), (550, 1.0)) == [None] * 2
    assert said(again, (600, 1.0)) != [None]


def test_steps_follow_from_the_number_of_samples() -> None:
    assert steps_for(800, 16) == 990
    assert steps_for(3200, 16) == pytest.approx(2 * steps_for(800, 16), abs=1)
    assert steps_for(1, 16) == steps_for(5, 16) == 100
    assert steps_for(800, 32) == pytest.approx(steps_for(800, 16) / 2, abs=1)


def test_an_estimate_says_how_long_and_how_large(tmp_path: Path) -> None:
    line = estimate(2.0, 1800, 10_000_000, 2, tmp_path, torch.device("cpu"))
    assert "2 s a step, 1 h 00 min to go without sample sheets: until " in line
    assert "2 checkpoints of 10.0 MB" in line
    assert "MB of memory so far" in line
    assert estimate(2.0, 1, 10**18, 2, tmp_path, torch.device("cpu")).startswith("warning: the disk is too small")
    assert [span(s) for s in (0.2, 59, 61, 3600, 7500, 200_000)] == [
        "1 s", "59 s", "1 min", "1 h 00 min", "2 h 05 min", "2.3 days",
    ]  # fmt: skip
