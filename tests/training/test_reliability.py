"""Runs killed with SIGKILL and resumed, and runs shared by two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pochade.training.loop import train
from training.toy import DrawingTask, ToyDataset, toy_stage

HERE = Path(__file__).parent
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
LONGEST = 800
"""Seconds after which processes that wait for each other are ended."""


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        out, errors = started.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        started.terminate()  # torchrun ends its processes, too
        out, errors = started.communicate(timeout=60)
    assert started.returncode == 0, errors
    return subprocess.CompletedProcess(command, 0, out, errors)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes without an accident, and what they said beside it."""
    folder = tmp_path_factory.mktemp("shared") / "run"
    done = launch(*TWO, str(HERE / "run_shared.py"), str(folder))
    (folder / "said").write_text(done.stderr)
    return folder


def test_killed_runs_resume_bit_for_bit(tmp_path: Path) -> None:
    """Kill -9 at three points within an epoch, and twice within one; one and two processes; dropout on."""
    fingerprints = json.loads(launch(str(HERE / "kill_run.py"), str(tmp_path)).stdout)
    for world_size in (1, 2):
        whole = fingerprints[f"whole-{world_size}"]
        assert whole.keys() == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
        for name in ("early", "middle", "late", "twice"):
            assert fingerprints[f"{name}-{world_size}"] == whole, name
    assert fingerprints["whole-1"] != fingerprints["whole-2"]  # dropout is drawn on each process


def test_two_processes_give_the_loss_curve_of_one(shared: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    assert "2 processes on cpu" in (shared / "said").read_text()
    assert "batch 8 = 2 x 1 x 4" in (shared / "said").read_text()
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


def test_a_killed_process_is_started_again_and_the_curve_goes_on(shared: Path, tmp_path: Path) -> None:
    """torchrun ends the other process and starts both from the last checkpoint: the losses of a run without it.

    Its store outlives them, with the addresses of the processes before.
    """
    killed = tmp_path / "killed"
    done = launch(*TWO, "--max-restarts=1", str(HERE / "run_elastic.py"), str(killed))
    assert f"resumed from {killed / 'checkpoint-00000004'}" in done.stderr
    curves = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (shared, killed)
    ]
    for name in ("step", "loss", "gradient_norm", "loss_by_t"):
        assert [line[name] for line in curves[0]] == [line[name] for line in curves[1]]
    files = [(folder / "final" / "model.safetensors").read_bytes() for folder in (shared, killed)]
    assert files[0] == files[1]
