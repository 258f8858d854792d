"""The other commands, exit codes, help, errors."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import pochade
from cli.run import cli
from pochade.errors import FailureError, PochadeError
from pochade.pipelines.hub import shipped
from processes import python

COMMANDS = ([], ["generate"], ["models"], ["info"], ["train"], ["data"], ["data", "prepare"], ["evaluate"], ["export"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(capsys: Any, command: list[str]) -> None:
    assert "Usage: pochade" in cli(capsys, *command, "--help").out


def test_version_and_no_arguments(capsys: Any) -> None:
    assert cli(capsys, "--version").out == f"pochade {pochade.__version__}\n"
    assert "Usage: pochade" in cli(capsys, code=2).out
    assert "No such command" in cli(capsys, "paint", code=2).error


def test_models(capsys: Any) -> None:
    found = json.loads(cli(capsys, "models", "--json").out)
    sizes = {(v["family"], v["variant"]): v for v in found["variants"]}
    assert abs(sizes["lrf", "cifar"]["parameters"] / 1.47e6 - 1) < 0.02
    assert all(v["bytes_fp32"] == 2 * v["bytes_fp16"] == 4 * v["parameters"] for v in found["variants"])
    iterated = sizes["iris", "nano"]
    counts = [iterated["effective_parameters"][depth] for depth in ("4", "8", "16")]
    core = (counts[0] - iterated["parameters"]) // 3
    assert core > 0
    assert counts == [iterated["parameters"] + passes * core for passes in (3, 7, 15)]
    assert sizes["lira", "nano"]["effective_parameters"] is None
    shown = cli(capsys, "models").out
    assert "cifar" in shown
    assert " / ".join(f"{count / 1e6:,.0f}" for count in counts) in shown
    assert f"{sizes['lrf', 'cifar']['parameters']:,}" in shown


def test_info_of_a_model(capsys: Any, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(toy_pipeline_folder, tmp_path / "toy[/b]"))
    (folder / "README.md").write_text("---\nlicence: x\n---\n# A toy\nIt generates [noise].\n")
    found = json.loads(cli(capsys, "info", str(folder), "--json").out)
    from conftest import toy_components

    for name, module in toy_components().items():
        assert found["components"][name]["parameters"] == sum(p.numel() for p in module.parameters())
    assert found["components"]["denoiser"]["config"]["patch_size"] == 2
    assert found["components"]["denoiser"]["types"] == ["F32"]
    assert found["card"] == "# A toy\nIt generates [noise]."
    shown = cli(capsys, "info", str(folder)).out
    assert "TinyAutoencoder" in shown
    assert "It generates [noise]." in shown


def test_info_of_a_damaged_model(capsys: Any, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(toy_pipeline_folder, tmp_path / "toy"))
    (folder / "denoiser/diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64)
    assert "not a readable safetensors file" in cli(capsys, "info", str(folder), code=2).error


def test_info_of_a_picture(capsys: Any, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    model, folder = str(toy_pipeline_folder), tmp_path / "my [red] pictures"
    cli(capsys, "generate", "a [red] apple", "--model", model, "--steps", "1", "--seed", "7", "-o", str(folder))
    path = folder / "a-red-apple-7.png"
    found = json.loads(cli(capsys, "info", str(path), "--json").out)
    assert found == {"file": str(path), **json.loads(pochade.read_metadata(path).to_json())}
    shown = cli(capsys, "info", str(path)).out
    assert re.search(r"^prompt +a \[red\] apple$", shown, re.MULTILINE)
    assert re.search(r"^seed +7$", shown, re.MULTILINE)
    assert re.search(rf"^model_sha256 +{found['model_sha256']}$", shown, re.MULTILINE)
    repeat = shlex.split(shown.partition("Repeat with: pochade ")[2])
    again = Path(cli(capsys, *repeat, "-o", str(tmp_path / "again")).out.strip())
    assert again.read_bytes() == path.read_bytes()
    other = tmp_path / "other.txt"
    other.write_text("no picture")
    assert "not a readable PNG" in cli(capsys, "info", str(other), code=2).error
    missing = str(tmp_path / "fox.png")
    assert f"{missing}: there is no such file" in cli(capsys, "info", missing, code=2).error


def test_info_of_the_machine(capsys: Any) -> None:
    found = json.loads(cli(capsys, "info", "--json").out)
    assert found["pochade"] == pochade.__version__
    assert found["devices"][0] == "cpu"
    assert found["scans"][0] == "numba on cpu"
    assert "threads" in cli(capsys, "info").out


def test_train_lists_and_shows(capsys: Any) -> None:
    names = json.loads(cli(capsys, "train", "--list", "--json").out)
    assert "lrf" in names
    assert "lrf " in cli(capsys, "train", "--list").out
    assert all(line.endswith(".") and "\n" not in line for line in names.values())
    stages = json.loads(cli(capsys, "train", "lrf", "--show", "--json", "flow.steps=7").out)
    assert next(s for s in stages if s["name"] == "flow")["steps"] == 7
    assert "  steps = 7\n" in cli(capsys, "train", "lrf", "--show", "flow.steps=7").out
    short = cli(capsys, "train", "lora", "--show", "--data", "pictures", "--base", "lrf-openmoji", "--rank", "3").out
    for field in ("data.source = pictures", "task.base = lrf-openmoji", "task.rank = 3"):
        assert f"  {field}\n" in short


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "recipe: none given, pochade train --list"),
        (["train", "lfr"], "did you mean 'lrf'"),
        (["train", "lrf", "learning_rat=1"], "learning_rate"),
        (["train", "lrf", "flow.steps=many"], "steps"),
        (["train", "lrf", "--json"], "json: goes with --list, --show or --dry-run"),
        (["train", "lrf", "--steps", "100"], "--steps: there is no such option; a field is set as steps=100, without"),
        (["train", "lora", "--alpha", "8"], "a field is set as task.alpha=8"),
        (["train", "lrf", "--rank", "8"], "override: no field 'task.rank'"),
        (["train", "lora", "--rank", "0", "--base", "lrf-openmoji"], "rank: 0 given, must be at least 1"),
        (["train", "lora", "--rank", "8", "task.rank=4"], "rank: --rank 8 given with task.rank=4, allowed is one of"),
        (["train", "lrf", "device=cpu", "--device", "mps"], "device: --device mps given with device=cpu"),
        (["train", "--flow.batch-size=8", "lrf"], "a field is set as flow.batch_size=8"),
        (["train", "lrf", "--warmup-steps"], "a field is set as warmup_steps=VALUE"),
        (["train", "lrf", "--resum"], "--resum: there is no such option (did you mean '--resume'"),
        (["ablate", "lira", "--steps", "100"], "a field is set as steps=100"),
        (["generate", "a", "--seed", "1e3"], "seed: '1e3' given, allowed are whole numbers"),
        (["generate", "a", "--guidance", "high"], "guidance: 'high' given, allowed are numbers"),
        (["generate", "a", "-n", "0"], "images_per_prompt: '0' given, allowed are whole numbers from 1 on"),
        (["generate", "a", "--sed", "3"], "No such option: --sed (Possible options: --seed"),
        (["generate", "a", "--seed"], "'--seed' requires an argument"),
        (["profile", "lrf:nano", "--steps", "2.5"], "steps: '2.5' given, allowed are whole numbers"),
        (["data", "prepare", "openmoji"], "out: none given; Usage: pochade data prepare"),
        (["data", "prepar"], "Did you mean 'prepare'"),
        (["info", "a", "b"], "unexpected extra argument"),
        (["run", "x", "a", "--seed", "1e3"], "seed: '1e3' given, allowed are whole numbers"),
        (["run"], "are required: bundle"),
        (["data", "prepare", "openmoij", "x"], "did you mean 'openmoji'"),
        (["evaluate", "lrf-nothing", "openmoji"], "model: 'lrf-nothing' is neither"),
        (["evaluate", "lrf-openmoji", "openmoji", "--device", "gpu"], "device: 'gpu' given, allowed are auto, cpu"),
        (["evaluate", "lrf-openmoji", "--guidance", "5000"], "guidance: 5000.0 given, allowed"),
        (["evaluate", "lrf-nothing", "openmoji", "--samples", "1"], "samples: 1 given, allowed are 2 and more"),
        (["export", "lrf-nothing", "x"], "model: 'lrf-nothing' is neither"),
        (["info", "lrf-nothing"], "model: 'lrf-nothing' is neither"),
    ],
)
def test_wrong_use_is_one_line(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(capsys, *arguments, code=2)
    assert done.error.startswith("error: ")
    assert message in done.error
    assert "\n" not in done.error
    assert list(tmp_path.iterdir()) == []


def test_models_side_by_side_may_be_folders_of_runs_and_are_each_given_once(capsys: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "1-flow" / "model"
    run.mkdir(parents=True)
    for file in shipped()["lrf-openmoji"].iterdir():
        (run / file.name).symlink_to(file)
    for last in (run.parents[1], run):
        done = cli(capsys, "evaluate", str(run), str(last), "--sheet", "-o", str(tmp_path / "out"), code=2)
        assert done.error.startswith("error: models: ")
        assert "twice" in done.error or " are one, allowed is each once" in done.error
    assert not (tmp_path / "out").exists()


def test_data_folder_without_captions(capsys: Any, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures/one.png")
    out = tmp_path / "out"
    done = cli(
        capsys, "data", "prepare", "folder", str(out), "--path", str(tmp_path / "pictures"), "--size", "8", code=2
    )
    assert done.error.startswith("error: ")
    assert "caption" in done.error
    assert not out.exists()


def test_data_prepare(capsys: Any, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.linear_gradient("L").resize((8, 8)).convert("RGB").save(tmp_path / f"pictures/{i}.png")
        (tmp_path / f"pictures/{i}.txt").write_text(f"a gradient {i}")
    arguments = ("--path", str(tmp_path / "pictures"), "--size", "8", "--split", "all")
    done = cli(capsys, "data", "prepare", "folder", str(tmp_path / "out"), *arguments, "--json")
    assert json.loads(done.out)["samples"] == {"all": 3}
    assert "3 all" in cli(capsys, "data", "prepare", "folder", str(tmp_path / "two"), *arguments).out
    few = ("--path", str(tmp_path / "pictures"), "--split", "held_out")
    wrong = cli(capsys, "data", "prepare", "folder", str(tmp_path / "three"), *few, code=2)
    assert "split: 'held_out' of" in wrong.error
    assert wrong.error.endswith("is empty (3 samples in all); --split all takes all of them")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("data prepare folder --path nowhere OUT", "path: nowhere is not there"),
        ("data prepare cifar10 --path nowhere OUT", "path: nowhere is not there"),
        ("data pairs folder --path nowhere OUT", "path: nowhere is not there"),
        ("data generate nowhere OUT", "source: 'nowhere' given, but nowhere is not there"),
        ("data check nowhere --out OUT", "source: 'nowhere' given, but nowhere is not there"),
        ("merge open-drawings --lora nowhere --out OUT", "lora: 'nowhere' given, allowed is a folder that holds"),
    ],
)
def test_a_missing_input_is_said_before_an_output_that_exists(
    capsys: Any, tmp_path: Path, command: str, said: str
) -> None:
    for name in ("check.json", "report.json"):
        (tmp_path / name).write_text("{}")
    assert said in cli(capsys, *[str(tmp_path) if word == "OUT" else word for word in command.split()], code=2).error


def test_export(capsys: Any, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path / "two"), "--size", "20", code=2)
    assert "size: 20 given, allowed are multiples of 16" in done.error
    assert not (tmp_path / "two").exists()
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path / "two"), "--depth", "1000", code=2)
    assert "depth: 1000 given, allowed are 1 to" in done.error
    assert not (tmp_path / "two").exists()
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path / "two"), "--batch", "0", code=2)
    assert "batch: 0 given, allowed are whole numbers from 1" in done.error
    given = ("--depth", "1", "--external-data", "--batch", "1", "--precision", "int8")
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path / "two"), *given)
    assert [line.split(",")[0] for line in done.out.splitlines()] == [
        "text_encoder: int8",
        "denoiser: int8",
        "decoder: fp16",
        "encoder: fp16",
        done.out.splitlines()[4],
        str(tmp_path / "two"),
    ]
    assert done.out.splitlines()[4].startswith("pictures: ")
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path / "two"), code=2)
    assert "two: exists already" in done.error
    done = cli(capsys, "export", "lrf-openmoji", str(tmp_path / "x"), "--precision", "int3", code=2)
    assert "precision: 'int3' given, allowed are fp32, fp16, int8" in done.error


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (PochadeError("a: b\nc"), 2, "error: a: b c"),
        (FailureError("the disk is full"), 1, "error: the disk is full"),
        (KeyboardInterrupt("stopped at step 3"), 130, "interrupted: stopped at step 3"),
        (KeyboardInterrupt(), 130, "interrupted: stopped by Ctrl-C"),
        (ZeroDivisionError("oh"), 1, "error: unexpected ZeroDivisionError: oh (--debug shows the traceback)"),
    ],
)
def test_exit_codes(capsys: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, line: str) -> None:
    from pochade.pipelines import hub

    def fail(_: str) -> None:
        raise raised

    monkeypatch.setattr(hub, "resolve", fail)
    assert cli(capsys, "info", "x", code=code).error == line


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("[/src/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"),
        torch.distributed.DistNetworkError("reset"),
    ],
)
def test_a_process_that_is_gone_is_told_from_what_is_unexpected(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """As raised where one of two processes is killed while the other one waits for it."""
    from pochade.pipelines import hub

    def fail(_: str) -> None:
        raise raised

    monkeypatch.setattr(hub, "resolve", fail)
    alone = cli(capsys, "info", "x", code=1).error
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = cli(capsys, "info", "x", code=1).error
    assert alone.startswith("error: unexpected ")
    assert shared == f"error: another of the 2 processes has ended, or cannot be reached: {raised}"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from pochade.cli import main

    with pytest.raises(PochadeError, match="is neither"):
        main(["info", "lrf-nothing", "--debug"])


def test_debug_after_two_dashes_is_a_prompt() -> None:
    from pochade.cli.common import debug_requested

    assert debug_requested(["generate", "--debug", "--", "--debug"]) == (["generate", "--", "--debug"], True)
    assert debug_requested(["generate", "--", "--debug"]) == (["generate", "--", "--debug"], False)


ENTRY = """
import os, sys
from pochade.__main__ import run
sys.argv = ["pochade", "--version"]
try:
    run()
except SystemExit:
    print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, "passive 1000"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"OMP_WAIT_POLICY": "passive"}, "passive None"),
        ({"GOMP_SPINCOUNT": "7"}, "passive 7"),
    ],
)
def test_threads_wait_without_their_cores(given: dict[str, str], used: str) -> None:
    absent = dict.fromkeys(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    done = python("-c", ENTRY, **(absent | given))
    assert done.stdout.splitlines()[-1] == f"{used} False"
