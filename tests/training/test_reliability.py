"""Runs killed with SIGKILL and resumed, and runs shared by two processes."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from safetensors.torch import load_file

from pochade.training.loop import train
from processes import python
from training.toy import DrawingTask, ToyDataset, toy_stage

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, CompletedProcess[str]]":
    """The folder with all runs of several processes, and what these wrote."""
    folder = tmp_path_factory.mktemp("runs")
    done = python(HERE / "run_reliability.py", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_killed_runs_resume_bit_for_bit(runs: "tuple[Path, CompletedProcess[str]]") -> None:
    """Kill -9 at three points within an epoch, and twice within one; one and two processes; dropout on."""
    fingerprints = json.loads(runs[1].stdout)
    for world_size in (1, 2):
        whole = fingerprints[f"whole-{world_size}"]
        assert whole.keys() == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
        for name in ("early", "middle", "late", "twice"):
            assert fingerprints[f"{name}-{world_size}"] == whole, name
    assert fingerprints["whole-1"] != fingerprints["whole-2"]  # dropout is drawn on each process


def test_two_processes_give_the_loss_curve_of_one(runs: "tuple[Path, CompletedProcess[str]]", tmp_path: Path) -> None:
    shared, single = runs[0] / "shared", tmp_path / "single"
    assert "2 processes on cpu" in runs[1].stderr
    assert "batch 8 = 2 x 1 x 4" in runs[1].stderr
    train(toy_stage(log_every=1), DrawingTask(), ToyDataset(), single, console=False)
    curves = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (shared, single)
    ]
    assert len(curves[0]) == 12
    for two, one in zip(*curves, strict=True):
        assert (two["processes"], one["processes"]) == (2, 1)
        for name in ("loss", "size", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-5)
        bins = [[b or 0 for b in line["loss_by_t"]] for line in (two, one)]
        assert bins[0] == pytest.approx(bins[1], rel=1e-5)
    weights = [load_file(folder / "final" / "model.safetensors") for folder in (shared, single)]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-6


def test_a_killed_process_is_started_again_and_the_curve_goes_on(
    runs: "tuple[Path, CompletedProcess[str]]",
) -> None:
    """torchrun ends the other process and starts both from the last checkpoint: the losses of a run without it.

    Its store outlives them, with the addresses of the processes before.
    """
    shared, killed = runs[0] / "shared", runs[0] / "killed"
    assert f"resumed from {killed / 'checkpoint-00000004'}" in runs[1].stderr
    curves = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (shared, killed)
    ]
    for name in ("step", "loss", "gradient_norm", "loss_by_t"):
        assert [line[name] for line in curves[0]] == [line[name] for line in curves[1]]
    files = [(folder / "final" / "model.safetensors").read_bytes() for folder in (shared, killed)]
    assert files[0] == files[1]
