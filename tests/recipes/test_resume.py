"""Runs that are taken up again: by one process at a time, with more steps, from elsewhere; and sampled before their
end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cli.run import cli
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.errors import PochadeError
from pochade.evaluation.training_data import read_training_data
from pochade.pipelines import hub
from pochade.pipelines.hub import UnfinishedWarning
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.training.executor import CLAIM, run
from pochade.training.overrides import override
from processes import started
from recipes.running import train

FAST = ("steps=2", "batch_size=4", "warmup_steps=0", "sample_every=0", "log_every=1", "save_every=2")
NETWORK = ("task.options=dim=16,heads=2,hidden=24,blocks=1", "task.text_encoder=bag", "initialise_from=none")
HOLD = """
import sys, time
from pathlib import Path
from pochade.data.cache.claims import take
with take(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def pictures(path: Path, count: int = 12) -> Path:
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (32, 32), (20 * i, 255 - 20 * i, 90)).save(path / f"p{i:03d}.png")
        (path / f"p{i:03d}.txt").write_text(f"plate {i}")
    return path


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder") / "tiny"
    torch.manual_seed(0)
    TinyAutoencoder(4, 8, (0, 0, 1, 0), (0, 1, 0, 0)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path) -> Path:
    """A folder with the pictures ``data`` and ``run``, finished after two steps. Read only."""
    place = tmp_path_factory.mktemp("finished")
    pictures(place / "data")
    resume(place, autoencoder, again=False)
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of ``finished``."""
    return Path(shutil.copytree(finished, tmp_path / "place"))


def resume(place: Path, autoencoder: Path, *changes: str, data: Path | str = "", again: bool = True) -> Path:
    given = (f"data.source={data or place / 'data'}", "data.size=32", f"task.autoencoder={autoencoder}")
    return train("lrf-folder", [*given, *FAST, *NETWORK, *changes], place / "run", resume=again)


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def interrupt(place: Path, autoencoder: Path) -> None:
    """What is left of a run of four steps that was stopped after the second."""
    shutil.rmtree(place / "run")
    resume(place, autoencoder, "steps=4", again=False)
    for left in ("model", "final", "checkpoint-00000004"):
        shutil.rmtree(place / "run" / "1-flow" / left)


# --- one process at a time


def test_a_second_run_in_the_folder_of_one_that_lives_is_refused(place: Path, autoencoder: Path) -> None:
    claim = place / "run" / "1-flow" / CLAIM
    with started("-c", HOLD, claim) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        before = content(place)
        for again in (True, False):
            with pytest.raises(
                PochadeError, match=rf"folder: process {process.pid} on .* is training in .*1-flow; wait"
            ):
                resume(place, autoencoder, "steps=4", again=again)
        assert content(place) == before
    assert claim.exists()  # it was killed: the claim is worth nothing
    resume(place, autoencoder, "steps=4")
    assert not claim.exists()


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(
    place: Path, autoencoder: Path, tmp_path: Path
) -> None:
    start = f"initialise_from={place / 'run' / '1-flow' / 'model'}"
    changes = ("task.options=dim=32,heads=2,hidden=24,blocks=1", start)
    given = (f"data.source={place / 'data'}", "data.size=32", f"task.autoencoder={autoencoder}", *FAST, *NETWORK)
    with pytest.raises(PochadeError, match="is another network"):
        train("lrf-folder", [*given, *changes], tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_a_resumed_run_says_where_it_begins_anew(place: Path, autoencoder: Path, capfd: Any) -> None:
    """Once, where there is no run; and of a stage that was stopped before it had a checkpoint."""
    shutil.rmtree(place / "run")
    resume(place, autoencoder)
    printed = capfd.readouterr().err
    assert printed.count("run holds no run yet, a new one begins") == 1
    assert "no checkpoint" not in printed
    for left in ("model", "final", "checkpoint-00000002"):
        shutil.rmtree(place / "run" / "1-flow" / left)
    resume(place, autoencoder)
    printed = capfd.readouterr().err
    assert "1-flow, started from the beginning" in printed
    assert "a new one begins" not in printed


# --- finished, and to go on


def test_a_finished_run_goes_on_to_more_steps(place: Path, autoencoder: Path, capfd: Any) -> None:
    model = place / "run" / "1-flow" / "model"
    before = content(model)
    with pytest.raises(PochadeError, match="steps: 1 given for flow, which is finished after 2: allowed are 2"):
        resume(place, autoencoder, "steps=1")
    assert content(model) == before
    resume(place, autoencoder)
    assert "finished before after 2 steps, used as it is" in capfd.readouterr().err
    assert content(model) == before
    resume(place, autoencoder, "steps=4")
    assert "resumed from" in capfd.readouterr().err
    assert json.loads((model / "training.json").read_text())["stage"]["steps"] == 4
    assert [json.loads(line)["step"] for line in (model.parent / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]
    ema = load_file(model.parent / "checkpoint-00000004" / "ema.safetensors")
    for name, value in load_file(model / "denoiser" / "diffusion_pytorch_model.safetensors").items():
        assert torch.equal(value, ema[f"denoiser.{name}"].half())
    after = content(place)
    resume(place, autoencoder, "steps=4")
    assert content(place) == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=1", r"seed 0 \(now 1\)"),
        ("weight_decay=0.1", r"weight_decay 0\.01 \(now 0\.1\)"),
        ("data.held_out=false", r"data\.held_out True \(now False\); a new run of the"),
        ("task.autoencoder=lrf-openmoji", r"task\.autoencoder '.*tiny' \(now 'lrf-openmoji', of other content\)"),
    ],
)
def test_a_finished_run_with_another_setting_is_refused(
    place: Path, autoencoder: Path, change: str, message: str
) -> None:
    before = content(place / "run")
    with pytest.raises(PochadeError, match=rf"resume: .*1-flow was trained with other settings: {message}"):
        resume(place, autoencoder, change, "task.options=dim=16,heads=2,hidden=24,blocks=1")
    assert content(place / "run") == before


@pytest.mark.parametrize("stopped", [False, True])
def test_what_a_refused_resume_advises_can_be_done(
    place: Path, autoencoder: Path, tmp_path: Path, stopped: bool
) -> None:
    if stopped:
        interrupt(place, autoencoder)
    with pytest.raises(PochadeError, match="a new run of the same network goes on from its weights with") as error:
        resume(place, autoencoder, "seed=1", *(["steps=4"] if stopped else []))
    advice = str(error.value).rpartition(" with ")[2]
    assert advice.endswith("checkpoint-00000002" if stopped else "1-flow")
    shutil.copytree(place / "data", tmp_path / "data")
    resume(tmp_path, autoencoder, "seed=1", advice, again=False)


def test_a_finished_run_has_another_rate_with_more_steps_alone(place: Path, autoencoder: Path) -> None:
    before = content(place / "run")
    message = r"learning_rate 0\.1 instead of 0\.0005 given for flow, which is finished: allowed with steps above 2"
    with pytest.raises(PochadeError, match=message):
        resume(place, autoencoder, "learning_rate=0.1", "task.options=dim=16,heads=2,hidden=24,blocks=1")
    assert content(place / "run") == before


def test_more_steps_need_a_checkpoint_and_no_later_stage(place: Path, autoencoder: Path) -> None:
    given = [f"data.source={place / 'data'}", "data.size=32", f"task.autoencoder={autoencoder}", *FAST, *NETWORK]
    first = override([stages_of("lrf")[2]], given)[0]
    two = [first, replace(first, name="second", initialise_from="previous")]
    run(two, place / "two")
    longer = override(two, ["flow.steps=4"])
    with pytest.raises(PochadeError, match="steps: 4 given for flow, which is finished after 2, and second has begun"):
        run(longer, place / "two", resume=True)
    for checkpoint in (place / "run" / "1-flow").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(PochadeError, match="steps: 4 given for flow, which is finished after 2 and has no checkpoint"):
        resume(place, autoencoder, "steps=4")


# --- data and models are what they hold


@pytest.mark.parametrize("steps", [2, 4])
def test_data_and_models_are_known_wherever_they_lie(
    place: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Of a finished run and of one that was interrupted."""
    if steps == 4:
        interrupt(place, autoencoder)
    monkeypatch.chdir(place)
    (place / "data").rename(place / "moved")
    elsewhere = Path(shutil.copytree(autoencoder, place / "elsewhere"))
    for data in ("moved", "moved/", "./moved", str(place / "moved")):
        resume(place, elsewhere, f"steps={steps}", data=data)
    assert (place / "run" / "1-flow" / f"checkpoint-0000000{steps}").is_dir()


@pytest.mark.parametrize("interrupted", [False, True])
def test_other_captions_and_other_weights_are_other_settings(place: Path, autoencoder: Path, interrupted: bool) -> None:
    if interrupted:
        interrupt(place, autoencoder)
    (place / "data" / "p003.txt").write_text("a green plate")
    with pytest.raises(PochadeError, match=r"other settings: data\.source '.*data' \(now .*of other content\); a new"):
        resume(place, autoencoder, "steps=4")
    (place / "data" / "p003.txt").write_text("plate 3")
    other = place / "other"
    torch.manual_seed(1)
    TinyAutoencoder(4, 8, (0, 0, 1, 0), (0, 1, 0, 0)).save_pretrained(other)
    with pytest.raises(
        PochadeError, match=r"other settings: task\.autoencoder '.*tiny' \(now '.*other', of other content\); a new"
    ):
        resume(place, other, "steps=4")
    resume(place, autoencoder, "steps=4")


# --- before the end


def test_a_run_that_is_not_finished_is_sampled(place: Path, autoencoder: Path, capsys: Any) -> None:
    interrupt(place, autoencoder)
    checkpoint = place / "run" / "1-flow" / "checkpoint-00000002"
    for name in (place / "run", place / "run" / "1-flow", checkpoint):
        with pytest.warns(UnfinishedWarning, match=r"checkpoint-00000002/model is taken, of step 2 of a training"):
            assert hub.resolve(name) == checkpoint / "model"
    with pytest.warns(UnfinishedWarning):
        pipeline = TextToImagePipeline.from_pretrained(place / "run")
    ema = load_file(checkpoint / "ema.safetensors")
    for name, value in pipeline.denoiser.state_dict().items():
        assert torch.equal(value, ema[f"denoiser.{name}"].half().float())

    done = cli(capsys, "generate", "plate 3", "--model", str(place / "run"), "--steps", "1", "-o", str(place / "out"))
    assert done.error.count("is taken, of step 2 of a training") == 1
    picture = Path(done.out.strip())
    assert read_metadata(picture).request.model == str(checkpoint / "model")
    resume(place, autoencoder, "steps=4")
    again = cli(capsys, "generate", "--like", str(picture), "-o", str(place / "out"))
    assert Path(again.out.strip()).read_bytes() == picture.read_bytes()
    assert hub.resolve(place / "run") == place / "run" / "1-flow" / "model"


def test_a_run_that_was_lengthened_gives_its_newest_weights(place: Path, autoencoder: Path) -> None:
    resume(place, autoencoder, "steps=4")
    stage = place / "run" / "1-flow"
    record = json.loads((stage / "model" / "training.json").read_text())
    record["stage"]["steps"] = 2  # as it was while the steps after it were made
    (stage / "model" / "training.json").write_text(json.dumps(record))
    with pytest.warns(UnfinishedWarning):
        assert hub.resolve(stage) == stage / "checkpoint-00000004" / "model"


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "1-flow").mkdir()
    with pytest.raises(
        PochadeError, match=r"holds no model_index\.json, so it is neither the folder of a model nor of a"
    ):
        hub.resolve(tmp_path)


# --- what an evaluation reads


def test_the_record_follows_the_autoencoder(tmp_path: Path) -> None:
    first, second = pictures(tmp_path / "first"), pictures(tmp_path / "second", 14)
    tiny = ("task.latent_channels=4", "task.width=8", "task.encoder_blocks=0,0,1,0", "task.decoder_blocks=0,1,0,0")
    stages = override(
        stages_of("lrf"),
        ["data.size=32", *FAST, *tiny, "task.perceptual=0", NETWORK[0], "flow.task.text_encoder=bag"],
    )
    stages = override(stages, [f"data.source={first}", f"flow.data.source={second}"])
    model = run(stages, tmp_path / "run")
    assert [one.source for one in read_training_data(model)] == [str(second), str(first)]
    record = json.loads((tmp_path / "run" / "2-decoder" / "model" / "training.json").read_text())
    assert record["before"]["sources"] == [str(first)]
    changes = [f"data.source={second}", "data.size=32", *FAST, *NETWORK, f"task.autoencoder={model}"]
    assert {one.source for one in read_training_data(train("lrf-folder", changes, tmp_path / "b"))} == {
        str(first),
        str(second),
    }
