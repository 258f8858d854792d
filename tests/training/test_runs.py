"""Runs as their files tell: state, figures, differing settings, and the page that compares them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.run import cli
from pochade.data.cache.claims import take
from pochade.errors import PochadeError
from pochade.training.runs import different_settings, find_runs
from training.test_loop import run


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps and one that was stopped at 4."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    sheet = {"sample_sheet": lambda: Image.new("RGB", (30, 20), "teal")}
    run(folder / "one" / "1-toy", options=sheet, sample_every=4, log_every=2)
    run(folder / "two" / "1-toy", steps=4, log_every=2, learning_rate=0.5)
    log = folder / "two" / "1-toy" / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [{**line, "held_out_loss": 3.0 + line["step"]} for line in lines]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    for path in (folder / "two" / "1-toy" / "final").iterdir():
        path.unlink()
    (folder / "two" / "1-toy" / "final").rmdir()
    return folder


def test_what_the_files_tell(two: Path) -> None:
    one, other = find_runs([two])
    assert (one.folder, one.state, one.step, one.steps) == (two / "one" / "1-toy", "finished", 12, 12)
    assert (one.held_out_loss, one.lowest) == (None, None)
    assert [step for step, _ in one.curve] == [2, 4, 6, 8, 10, 12]
    assert one.loss == one.curve[-1][1]
    assert [path.name for path in one.sheets] == [f"step-{step:06}.png" for step in (1, 4, 8, 12)]
    assert (other.state, other.step, other.steps) == ("stopped", 4, 4)
    assert (other.held_out_loss, other.lowest, other.lowest_step) == (7.0, 5.0, 2)
    assert different_settings([one, other]) == {"steps": [12, 4], "learning_rate": [0.01, 0.5], "sample_every": [4, 0]}
    assert [found.folder for found in find_runs([two / "two", two / "one" / "1-toy"])] == [
        two / "two" / "1-toy",
        two / "one" / "1-toy",
    ]


def test_a_run_that_is_trained_is_running(two: Path) -> None:
    claim = take(two / "one" / "1-toy" / "running")
    assert claim is not None
    with claim:
        assert [found.state for found in find_runs([two])] == ["running", "stopped"]


@pytest.mark.parametrize(("name", "printed"), [("nothing", "which is no folder"), (".", "holds no run")])
def test_no_run_is_one_line(tmp_path: Path, name: str, printed: str) -> None:
    with pytest.raises(PochadeError, match=printed):
        find_runs([tmp_path / name])


def test_the_command(two: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(two.parent)
    printed = cli(capsys, "runs").out
    assert "finished" in printed
    assert "5 @ 2" in printed
    assert "learning_rate" in printed
    listed = json.loads(cli(capsys, "runs", "--json").out)
    assert [row["state"] for row in listed] == ["finished", "stopped"]
    assert listed[1]["settings"]["learning_rate"] == 0.5
    page = tmp_path / "compare.html"
    assert cli(capsys, "runs", str(two), "--page", str(page)).out.rstrip().endswith(str(page))
    text = page.read_text()
    assert text.count("<svg") == 2
    assert text.count("data:image/png;base64,") == 1
    assert "http" not in text
    assert "compare.html already" in cli(capsys, "runs", str(two), "--page", str(page), code=2).error
    assert "which is no folder" in cli(capsys, "runs", str(tmp_path / "none"), "--page", str(page), code=2).error
