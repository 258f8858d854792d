"""A student as a stage of a recipe: any teacher and any family, one cache of answers, and what cannot work."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cli.run import cli
from pochade.data.sources import FolderSource, SyntheticSource
from pochade.errors import PochadeError
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.recipes.stages import autoencoder_stage, distillation_stage, flow_stage
from pochade.training.data import ImageData
from pochade.training.dry_run import dry_run
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.distillation import DistillationSettings
from pochade.training.stages.flow import FlowSettings
from recipes.running import train

FAST = ("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=2", "log_every=1", "save_every=2")
FORGE = (
    "task.options=dim=16,heads=2,blocks=1,inner=16,state_size=4,"
    "plan_tokens=2,plan_layers=1,plan_hidden=16,attention_every=0"
)
LRF = "task.options=dim=16,heads=2,hidden=24,blocks=1"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"picture number {i}\nnumber {i}, a picture")
    return path


@pytest.fixture(scope="module")
def changes(pictures: Path, toy_pipeline_folder: Path) -> list[str]:
    return [f"data.source={pictures}", "data.size=32", f"task.teacher={toy_pipeline_folder}", "task.records=2", *FAST]


@pytest.fixture(scope="module")
def taught(changes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MicroForge that reads MiniLM, by an LRF that reads a bag of tokens."""
    out = tmp_path_factory.mktemp("runs") / "student"
    model = train("student", [*changes, FORGE], out)
    assert model == out / "1-student" / "model"
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert train("student", [*changes, FORGE], out, resume=True) == model
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps
    return model


def test_the_student_is_a_model_like_any_other(taught: Path, toy_pipeline_folder: Path) -> None:
    student, teacher = (TextToImagePipeline.from_pretrained(folder) for folder in (taught, toy_pipeline_folder))
    assert type(student.denoiser).__name__ == "MicroForgeDenoiser"
    assert student.text_encoder.identity == "minilm-l6-v2"
    assert student.text_encoder.identity != teacher.text_encoder.identity
    # Guidance is built in.
    assert (student.default_steps, student.default_guidance, student.default_size) == (20, 1.0, 32)
    for name, value in teacher.autoencoder.state_dict().items():
        torch.testing.assert_close(student.autoencoder.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    student.set_progress_bar_config(disable=True)
    assert student("picture", num_inference_steps=2, output_type="pt").images.shape == (1, 3, 32, 32)
    assert (taught.parent / "samples" / "step-000002.png").is_file()
    lines = [json.loads(line) for line in (taught.parent / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_teacher"] > 0 and line["loss_flow"] > 0 for line in lines)


def test_students_share_the_answers_and_another_question_has_others(
    taught: Path, changes: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(taught.parent.parent / "cache", out / "cache")
    (folder,) = (out / "cache").glob("velocities-*")
    (part,) = folder.glob("part-*.safetensors")
    velocities = load_file(part)["velocity"]
    assert velocities.dtype == torch.float16
    assert velocities.shape[1:] == (2, 4, 4, 4)
    os.utime(part, ns=(1, 1))
    net = override(stages_of("student"), [*changes, "task.family=lrf", LRF, "task.text_encoder=bag"])
    pipe = TextToImagePipeline.from_pretrained(run(net, out))
    assert pipe.text_encoder.identity.startswith("bag:")
    assert part.stat().st_mtime_ns == 1
    assert len(list((out / "cache").glob("velocities-*"))) == 1
    inputs = override(net, ["task.guidance=1"])
    pipe = TextToImagePipeline.from_pretrained(run(inputs, out / "second"))
    assert pipe.default_guidance == 3.0
    names = {path.name for path in (out / "second" / "cache").iterdir()}
    assert folder.name not in names
    assert sum(name.startswith("velocities-") for name in names) == 1


def test_the_teacher_may_be_the_stage_before(pictures: Path, tmp_path: Path) -> None:
    data = ImageData(FolderSource(pictures), 32)
    tiny = AutoencoderSettings(4, 8, (0, 0, 1, 0), (0, 1, 0, 0), perceptual=0)
    options = tuple(LRF.removeprefix("task.options=").split(","))
    flow = FlowSettings(options=options, text_encoder="bag")
    stages = [
        autoencoder_stage(data, task=tiny),
        flow_stage(data, flow),
        distillation_stage(data, DistillationSettings(options=options, records=1)),
    ]
    model = run(override(stages, [*FAST, "sample_every=0"]), tmp_path / "run")
    assert model == tmp_path / "run" / "3-student" / "model"
    assert TextToImagePipeline.from_pretrained(model).default_guidance == 1.0


def test_classes_are_taught_too(toy_class_pipeline_folder: Path, tmp_path: Path):
    options = tuple(FORGE.removeprefix("task.options=").split(","))
    settings = DistillationSettings(
        "microforge", "nano", options, teacher=str(toy_class_pipeline_folder), text_encoder=None
    )
    stages = override([distillation_stage(ImageData(SyntheticSource(8, ("cat", "dog")), 32), settings)], [*FAST])
    pipe = TextToImagePipeline.from_pretrained(run(stages, tmp_path / "run"))
    assert pipe.text_encoder.names == ["cat", "dog"]
    with pytest.raises(PochadeError, match=r"text_encoder: bag given, but synthetic.* holds classes: allowed is none"):
        run(override(stages, ["task.text_encoder=bag"]), tmp_path / "other")
    stages = override(stages, ["data.source=synthetic:8:classes=cat,cow"])
    with pytest.raises(PochadeError, match="teacher: a model that knows classes is given, but the data holds the cl"):
        run(stages, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_taught_is_said_before_any_work(
    changes: list[str], toy_class_pipeline_folder: Path, tmp_path: Path
) -> None:
    for match, change in (
        ("a model that knows classes is given, but the data holds captions", f"teacher={toy_class_pipeline_folder}"),
        ("task.teacher: none given, and no stage before trains a denoiser", "teacher=none"),
        ("task.teacher: 'lrf-openmojo' is neither a shipped model", "teacher=lrf-openmojo"),
        ("autoencoder: 'lrf-openmoji' given, allowed is none: the teacher's is kept", "autoencoder=lrf-openmoji"),
        ("text_encoder: none given, but .* holds captions", "text_encoder=none"),
        ("text_encoder: 'minilm' is unknown", "text_encoder=minilm"),
        ("latent_channels=8 given, the autoencoder's latents have 4", "options=latent_channels=8"),
        ("records: 0 given, must be at least 1", "records=0"),
        ("task.alpha: '2t' given, must be t or 1-t or constant", "alpha=2t"),
    ):
        with pytest.raises(PochadeError, match=match):
            train("student", [*changes, f"task.{change}"], tmp_path / "run")
    with pytest.raises(PochadeError, match=r"data\.size: 36 given"):
        train("student", [*changes, "data.size=36"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_is_tried_without_data(capsys: Any) -> None:
    small = FORGE.replace("dim=16", "dim=32")
    found = list(dry_run(override(stages_of("student"), [small, "task.teacher=lira-nano"])))
    assert [(t.stage, t.shape, t.assumed) for t in found] == [("student", (16, 8, 8), ())]
    stages = [*override(stages_of("denoiser"), [small]), *override(stages_of("student"), [small, "task.teacher=none"])]
    assert [t.shape for t in dry_run(stages)] == [(16, 8, 8)] * 2
    with pytest.raises(PochadeError, match=r"task\.teacher: none given"):
        list(dry_run(stages[1:]))
    assert "student" in cli(capsys, "train", "student", small, "--dry-run").out
