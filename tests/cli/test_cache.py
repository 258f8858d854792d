"""The data of a stage encoded before it trains."""

from pathlib import Path

import pytest

from cli.run import cli
from pochade.cli import main
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import SyntheticSource

SMALL = ("task.options=dim=16,heads=2,hidden=16,blocks=1", "task.autoencoder=lrf-openmoji", "initialise_from=none")


def stamps(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


def test_training_finds_what_was_encoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = tmp_path / "shards", tmp_path / "run"
    prepare(SyntheticSource(24), Target(out=shards, size=64), progress=False)
    given = ["lrf-folder", f"data.source={shards}", *SMALL, "--out", str(out)]
    run("cache", *given)
    assert capsys.readouterr().out.startswith("flow: ")
    made = stamps(out / "cache")
    assert {name.partition("-")[0] for name in made} == {"images", "captions", "latents"}
    run("train", *given, "steps=1", "batch_size=4", "warmup_steps=0", "sample_every=0", "device=cpu")
    assert made.items() <= stamps(out / "cache").items()
    assert (out / "1-flow" / "model").is_dir()
    finished, missing = stamps(out), ["lrf-folder", f"data.source={tmp_path / 'none'}", *SMALL, "--out", str(out)]
    for command, of_run in (("train", "already holds a run"), ("cache", "all stages in")):
        for arguments, error in ((missing, "source: "), (given, of_run)):
            assert error in cli(capsys, command, *arguments, code=2).error
    assert stamps(out) == finished


def test_what_makes_no_cache_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    (out / "cache").mkdir(parents=True)  # as of another stage
    for recipe, error in (
        (["lrf-folder", *SMALL, "data.cached=false"], "data.cached: false given for flow, allowed is true"),
        (["lrf"], "recipe: 'lrf' given, whose stage autoencoder reads its pictures as they are"),
        (["lrf", "--only", "autoencoder"], "only: 'autoencoder' given, whose stage autoencoder reads its pictures"),
    ):
        given = ["cache", *recipe, "data.source=synthetic:8", "data.size=64", "device=cpu", "--out", str(out)]
        assert error in cli(capsys, *given, code=2).error
    assert not list((out / "cache").iterdir())


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, error in (
        (["--workers", "2"], "workers: 2 given, allowed are 1, and with --on ray more"),
        (["--on", "local", "--gpus", "nan"], "gpus: nan given, allowed are finite numbers"),
        (["--on", "dask"], "on: 'dask' given, allowed are local, ray"),
        (["--only", "flows"], "only: 'flows' given, allowed are flow (did you mean 'flow'?)"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["cache", "lrf-folder", "data.source=x", "--out", str(tmp_path / "run"), *options])
        assert (end.value.code, capsys.readouterr().err) == (2, f"error: {error}\n")
