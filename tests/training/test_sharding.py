"""Weights, moments and averages divided among processes: the run of those that each have them as a whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from once import made_once
from pochade.errors import PochadeError
from pochade.recipes import stages_of
from pochade.training.loop import train
from pochade.training.overrides import override
from processes import python
from training.sharded import FlowSamples, flow_stage, flow_task

HERE = Path(__file__).parent
FAMILIES = ("lrf", "microforge", "iris", "lira")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(place: Path) -> None:
        done = python(HERE / "run_sharded.py", place, *FAMILIES)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "sharded", make)


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_same(one: Path, other: Path) -> None:
    """Losses, norms and averaged weights agree but for the order of sums."""
    lines = [curve(folder)[-2:] for folder in (one, other)]
    for a, b in zip(*lines, strict=True):
        assert a["step"] == b["step"]
        for name in ("loss", "gradient_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    weights = [load_file(folder / "final" / "model.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-4, name


@pytest.mark.parametrize("family", FAMILIES)
def test_divided_weights_train_as_whole_ones(family: str, runs: Path) -> None:
    check_same(runs / family / "divided", runs / family / "whole")
    held_out = [[line["held_out_loss"] for line in curve(runs / family / name)] for name in ("divided", "whole")]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-4)
    for path in ("best/diffusion_pytorch_model.safetensors", "checkpoint-00000004/ema.safetensors"):
        divided, whole = (load_file(runs / family / name / path) for name in ("divided", "whole"))
        assert divided.keys() == whole.keys()
        for name, tensor in whole.items():
            assert (tensor - divided[name]).abs().max() < 1e-4, name


def test_each_process_writes_its_part(runs: Path) -> None:
    folder = runs / "lrf" / "divided" / "checkpoint-00000004"
    files = sorted(folder.glob("shards/*.safetensors"))
    sizes = [sum(t.nbytes for t in load_file(file).values()) for file in files]
    groups = [load_file(runs / "lrf" / "whole" / folder.name / f"{n}.safetensors") for n in ("model", "optimizer")]
    assert len(files) == 2
    assert sum(sizes) == sum(t.nbytes for group in groups for t in group.values())
    assert max(sizes) < 0.6 * sum(sizes)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {f"shards/{file.name}" for file in files} < manifest.keys()
    assert not list(folder.parent.glob(".shards*"))


@pytest.mark.parametrize("name", ["three", "whole-2", "2-3", "3-2"])
def test_a_run_goes_on_by_another_number_of_processes(name: str, runs: Path) -> None:
    check_same(runs / name, runs / "lrf" / "whole")
    assert len(list((runs / name / "checkpoint-00000004").glob("shards/*"))) == (2 if name[-1] == "2" else 3)
    assert [line["step"] for line in curve(runs / name)] == ([1, 2, 3, 4] if name == "three" else [3, 4])


def test_a_divided_run_goes_on_by_one_process(runs: Path, tmp_path: Path) -> None:
    name = "checkpoint-00000002"
    shutil.copytree(runs / "lrf" / "divided" / name, tmp_path / name)
    train(flow_stage(fsdp=True), flow_task("lrf"), FlowSamples(), tmp_path, resume=True, console=False)
    assert [line["step"] for line in curve(tmp_path)] == [3, 4]
    check_same(tmp_path, runs / "lrf" / "whole")


def test_only_what_is_trained_alone_is_divided() -> None:
    with pytest.raises(PochadeError, match="fsdp: true given for autoencoder, allowed with flow matching alone"):
        override(stages_of("lrf-curriculum"), ["fsdp=true"])
