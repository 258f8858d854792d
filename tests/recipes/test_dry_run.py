"""A recipe tried on random tensors: no data, no files, every kind of stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.run import cli
from pochade.errors import FailureError, PochadeError
from pochade.recipes import stages_of
from pochade.recipes.lira import DC_AE
from pochade.training.dry_run import MOST_ON_CPU, STEPS, Trial, dry_run
from pochade.training.overrides import override

SMALL = "task.options=sample_size=8,dim=32,blocks=2,hidden=32,heads=2,reasoning_width=16"


def tried(recipe: str, *changes: str) -> list[Trial]:
    return list(dry_run(override(stages_of(recipe), changes)))


def test_one_network_is_carried_through_growing_pictures() -> None:
    found = tried("lira", SMALL)
    assert [t.stage for t in found] == ["low", "middle", "high"]
    assert [t.shape for t in found] == [(16, 8, 8), (16, 16, 16), (16, 32, 32)]
    assert len({t.parameters for t in found}) == 1
    assert all(len(t.losses) == STEPS and t.tried == MOST_ON_CPU for t in found)
    assert not any(t.assumed for t in found)


def test_what_is_not_on_the_disk_is_assumed_and_said() -> None:
    """Data that is not there is not needed; an autoencoder that is not there is guessed by its name."""
    found = tried("lira-curriculum", "task.variant=nano", "task.options=sample_size=8,latent_channels=32")
    assert [t.shape for t in found] == [(32, 8, 8), (32, 16, 16), (32, 32, 32)]
    assert [len(t.assumed) for t in found] == [2, 2, 2]
    assert {t.assumed[0] for t in found} == {"data.source is not set: a run needs data.source=FOLDER"}
    assert all(t.assumed[1].startswith(f"{DC_AE} is not on this machine: a small f32") for t in found)


def test_data_that_a_run_lacks_are_named() -> None:
    tiny = ("task.width=8", "task.encoder_blocks=0,0,1,0", "task.decoder_blocks=0,1,0,0", "data.size=32")
    net = ("task.options=sample_size=4,dim=16,heads=2,hidden=24,blocks=1",)
    found = tried("lrf", *tiny, *net, "autoencoder.data.source=/nowhere+openmoji", "flow.data.source=/no/{0..3}.tar")
    assert [t.assumed for t in found] == [
        ("data.source: /nowhere is not there",),
        (),
        ("data.source: /no/{0..3}.tar is not there",),
    ]
    (edit,) = stages_of("edit")
    lacking = override([edit], ["data.pairs=none", "data.source=captions:/nowhere"])[0].data.missing()
    assert lacking == ["data.pairs is not set: a run needs data.pairs=FOLDER", "data.source: /nowhere is not there"]


def test_every_kind_of_stage_is_tried() -> None:
    tiny = ("task.width=8", "task.encoder_blocks=0,0,1,0", "task.decoder_blocks=0,1,0,0", "data.size=32")
    net = "task.options=sample_size=4,dim=16,heads=2,hidden=24,blocks=1"
    assert [t.stage for t in tried("lrf", *tiny, net)] == ["autoencoder", "decoder", "flow"]
    for teacher in ("lrf-openmoji", "lira-nano"):  # the second has positions for larger pictures than it was shown
        assert [t.shape for t in tried("distil", f"task.teacher={teacher}")] == [(16, 8, 8)]
    labelled = tried("lrf-cifar10", *tiny, "task.options=dim=16,heads=2,hidden=24,blocks=1")
    assert labelled[1].shape == (4, 4, 4)


def test_a_loss_that_is_no_number_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pochade.training.stages.flow import FlowTask

    whole = FlowTask.forward
    monkeypatch.setattr(FlowTask, "forward", lambda self, batch: {"loss": whole(self, batch)["loss"] * float("nan")})
    with pytest.raises(FailureError, match="low: step 1: the loss is nan"):
        tried("lira", SMALL)


def test_wrong_use(capsys: Any) -> None:
    with pytest.raises(PochadeError, match="steps: 0 given"):
        list(dry_run(stages_of("lira"), 0))
    with pytest.raises(PochadeError, match=r"blocks: .x. given, must be a whole number from 1 to"):
        tried("lira", "task.options=blocks=x")
    assert "no field" in cli(capsys, "train", "lira", "stepps=3", "--dry-run", code=2).error


def test_the_command_prints_a_line_for_each_stage(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = cli(capsys, "train", "lira", SMALL, "--dry-run").out
    assert all(name in out for name in ("low", "middle", "high", "hours", "All stages: "))
    found = json.loads(cli(capsys, "train", "lira", SMALL, "--dry-run", "--json").out)
    assert [t["stage"] for t in found] == ["low", "middle", "high"]
    assert not list(tmp_path.iterdir())
