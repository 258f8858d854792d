"""Distillation as a stage of a recipe: from a model's folder, from the stage before, and what cannot work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cli.run import cli
from pochade.data.sources import FolderSource, SyntheticSource
from pochade.data.sources.pairs import PicturePairSource
from pochade.errors import PochadeError
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.recipes.stages import autoencoder_stage, consistency_stage, edit_stage, flow_stage
from pochade.training.data import ImageData, PairData
from pochade.training.dry_run import dry_run
from pochade.training.executor import run
from pochade.training.overrides import override
from pochade.training.stages.autoencoder import AutoencoderSettings
from pochade.training.stages.consistency import ConsistencySettings
from pochade.training.stages.edit import EditSettings
from pochade.training.stages.flow import FlowSettings
from recipes.running import train

FAST = ("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=2", "log_every=2", "save_every=2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"picture number {i}")
    return path


@pytest.fixture(scope="module")
def distilled(pictures: Path, toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "distil"
    changes = [f"data.source={pictures}", "data.size=32", f"task.teacher={toy_pipeline_folder}", *FAST]
    model = train("distil", changes, out)
    assert model == out / "1-consistency" / "model"
    assert train("distil", changes, out, resume=True) == model
    return model


def test_a_distilled_model_knows_how_it_is_sampled(distilled: Path, toy_pipeline_folder: Path) -> None:
    index = json.loads((distilled / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "FlowMatchLCMScheduler"]
    assert (index["default_steps"], index["default_guidance"]) == (4, 1.0)
    pipe, teacher = (TextToImagePipeline.from_pretrained(folder) for folder in (distilled, toy_pipeline_folder))
    assert (pipe.default_steps, pipe.default_guidance) == (4, 1.0)
    assert (teacher.default_steps, teacher.default_guidance) == (50, 3.0)
    pipe.set_progress_bar_config(disable=True)

    def sample(**changes: Any) -> torch.Tensor:
        return pipe("picture", generator=torch.Generator().manual_seed(3), output_type="pt", **changes).images

    assert torch.equal(sample(), sample(num_inference_steps=4, guidance_scale=1.0))
    assert pipe.num_timesteps == 4
    for steps in (1, 2):
        assert sample(num_inference_steps=steps).shape == (1, 3, 32, 32)
    assert not torch.equal(sample(num_inference_steps=1), sample())
    for name, value in teacher.autoencoder.state_dict().items():
        torch.testing.assert_close(pipe.autoencoder.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert pipe.text_encoder.identity == teacher.text_encoder.identity


def test_the_weights_are_the_averaged_students(distilled: Path) -> None:
    averaged = load_file(distilled.parent / "final" / "model.safetensors")
    saved = load_file(distilled / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert set(saved) == set(averaged)
    assert all(torch.equal(value, averaged[name].half()) for name, value in saved.items())
    assert (distilled.parent / "samples" / "step-000002.png").is_file()


def test_saved_again_it_keeps_its_defaults(distilled: Path, tmp_path: Path) -> None:
    TextToImagePipeline.from_pretrained(distilled).save_pretrained(tmp_path / "copy")
    copy = TextToImagePipeline.from_pretrained(tmp_path / "copy")
    assert (copy.default_steps, copy.default_guidance) == (4, 1.0)
    other = TextToImagePipeline.from_pretrained(distilled, default_steps=2)
    assert (other.default_steps, other.default_guidance) == (2, 1.0)
    with pytest.raises(PochadeError, match="default_steps: 0 given"):
        TextToImagePipeline.from_pretrained(distilled, default_steps=0)


def test_the_command_line_takes_the_models_own_steps(
    distilled: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli(capsys, "generate", "picture", "--seed", "1", "--model", str(distilled))
    made = read_metadata("out/picture-1.png").request
    assert (made.steps, made.guidance) == (4, 1.0)
    cli(capsys, "generate", "picture", "--seed", "2", "--model", str(distilled), "--steps", "1", "--guidance", "2")
    made = read_metadata("out/picture-2.png").request
    assert (made.steps, made.guidance) == (1, 2.0)
    result = cli(capsys, "generate", "picture", "--negative-prompt", "blur", "--model", str(distilled), code=2)
    assert "negative_prompt: has no effect at guidance 1" in result.error


def test_the_teacher_and_the_painter_may_be_stages_before(pictures: Path, tmp_path: Path) -> None:
    data = ImageData(FolderSource(pictures), 32)
    tiny = AutoencoderSettings(4, 8, (0, 0, 1, 0), (0, 1, 0, 0), perceptual=0)
    flow = FlowSettings(options=("dim=16", "heads=2", "hidden=24", "blocks=1"), text_encoder="bag")
    stages = [
        autoencoder_stage(data, task=tiny),
        flow_stage(data, flow),
        consistency_stage(data, ConsistencySettings()),
        edit_stage(PairData(PicturePairSource(), data.source), EditSettings(tasks=("inpaint",))),
    ]
    stages = override(stages, [*FAST, "sample_every=0"])
    assert [tried.stage for tried in dry_run(override(stages, ["flow.task.text_encoder=minilm-l6-v2"]), 1)] == [
        stage.name for stage in stages
    ]
    model = run(stages, tmp_path / "run")
    assert model == tmp_path / "run" / "4-edit" / "model"
    few = TextToImagePipeline.from_pretrained(model.parents[1] / "3-consistency" / "model")
    assert (few.default_steps, len(few.denoiser.config.tasks)) == (4, 0)
    editor = TextToImagePipeline.from_pretrained(model)
    assert editor.default_guidance_interval == (0.4, 0.8)
    assert (editor.default_steps, list(editor.denoiser.config.tasks)) == (20, ["inpaint"])


def test_classes_are_distilled_too(toy_class_pipeline_folder: Path, tmp_path: Path):
    """A data set with the teacher's classes, as CIFAR-10 has its own."""
    settings = ConsistencySettings(teacher=str(toy_class_pipeline_folder))
    stages = override([consistency_stage(ImageData(SyntheticSource(8, ("cat", "dog")), 32), settings)], [*FAST])
    pipe = TextToImagePipeline.from_pretrained(run(stages, tmp_path / "run"))
    assert pipe.text_encoder.names == ["cat", "dog"]
    stages = override(stages, ["data.source=synthetic:8:classes=cat,cow"])
    with pytest.raises(
        PochadeError, match="teacher: a model that knows classes is given, but the data holds the classes cat, cow"
    ):
        run(stages, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_distilled_is_said_before_any_work(
    pictures: Path, distilled: Path, toy_class_pipeline_folder: Path, tmp_path: Path
) -> None:
    data = (f"data.source={pictures}", "data.size=32")
    for match, change in (
        (
            "teacher: a model that knows classes is given, but the data holds captions",
            f"task.teacher={toy_class_pipeline_folder}",
        ),
        ("task.teacher: none given, and no stage before trains a denoiser", "task.teacher=none"),
        ("task.teacher: 'lrf-openmojo' is neither a shipped model", "task.teacher=lrf-openmojo"),
    ):
        with pytest.raises(PochadeError, match=match):
            train("distil", [*data, change], tmp_path / "run")
    for recipe, change in (("distil", "task.teacher"), ("edit", "task.model")):
        with pytest.raises(PochadeError, match=f"{change}: '.*' was distilled to few steps"):
            train(recipe, [data[0], "data.size=32", f"{change}={distilled}"], tmp_path / "run")
    with pytest.raises(PochadeError, match="intervals: 9 to 4 given"):
        train("distil", [*data, "task.last_intervals=4", "task.first_intervals=9"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_curriculum_ends_in_a_distillation_and_in_editing() -> None:
    *_, high, few, edit = stages_of("lrf-curriculum")
    assert few.task == ConsistencySettings()
    assert few.data == high.data
    assert isinstance(edit.task, EditSettings)
