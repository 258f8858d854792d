"""What a run writes down."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pochade.training.metrics import MetricLog, Progress, Window


def alone(values: Tensor) -> Tensor:
    return values


def test_averages_and_bins() -> None:
    window = Window()
    t = torch.tensor([0.0, 0.05, 0.95, 1.0])
    for scale in (1.0, 2.0):
        for _ in range(2):
            losses = torch.tensor([1.0, 3.0, 5.0, 7.0]) * scale
            window.add_part({"loss": losses.mean(), "share": torch.tensor(0.25), "t": t, "per_sample": losses})
        window.add_norm(torch.tensor(scale))
        window.add_step(0.1, 0.3)
    line = window.line(alone, 1, 16)
    assert line["loss"] == pytest.approx(6.0)
    assert line["gradient_norm"] == pytest.approx(1.5)
    assert line["share"] == pytest.approx(0.25)
    assert line["seconds_per_step"] == pytest.approx(0.4)
    assert line["seconds_data"] == pytest.approx(0.1)
    assert line["images_per_second"] == pytest.approx(40)
    assert line["loss_by_t"][0] == pytest.approx(3.0)
    assert line["loss_by_t"][9] == pytest.approx(9.0)
    assert line["loss_by_t"][1:9] == [None] * 8


def test_a_metric_that_is_no_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match="'map'"):
        Window().add_part({"loss": torch.tensor(1.0), "map": torch.ones(2, 2)})


def test_a_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write({"step": step, "loss": float("nan") if step == 4 else 0.5, "loss_by_t": [0.1, None]})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # killed in the middle of a line
    log = MetricLog(tmp_path, 4)
    log.write({"step": 6, "loss": 0.25})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["loss"] for line in lines] == [0.5, None, 0.25]
    assert list((tmp_path / "tensorboard").iterdir())


def test_progress_without_a_terminal_logs_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"step": 10, "loss": 0.5, "gradient_norm": 1.0, "seconds_per_step": 2.0, "learning_rate": 1e-3}
    for shown in (True, False):
        progress = Progress("toy", 0, 100, shown)
        progress.message("begins")
        progress.step(10)
        progress.log(line)
        progress.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "begins",
        "step 10/100: loss 0.5, gradient 1, 2 s/step, learning rate 0.001, 00:03:00 left",
    ]
