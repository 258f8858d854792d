"""IRIS's five stages at full size by configuration: on toy shards, as one command and one by one."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.run import cli
from pochade.errors import PochadeError
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.recipes.iris import IMAGENET
from pochade.text_encoders.class_label import ClassLabelEncoder
from pochade.training.dry_run import dry_run
from pochade.training.overrides import override
from pochade.training.stages.flow import FlowSettings
from recipes.running import FISH, build_denoiser, fish_shards, train

STAGES = ("vae", "classes", "text_low", "text_high", "best", "few_steps")
TINY = "sample_size=8,dim=32,heads=2,hidden=32,blocks=1,text_dim=384,pooled_dim=384"
SMALL = (
    *("steps=1", "batch_size=2", "warmup_steps=1", "sample_every=0", "log_every=1", "save_every=1", "precision=fp32"),
    *("vae.task.size=nano", "vae.task.perceptual=0", "task.last_intervals=8", "data.size=32"),
    *("text_high.data.size=64", "best.data.size=64", "few_steps.data.size=64"),
    *("task.variant=nano", f"task.options={TINY},num_classes=3"),
    *(f"{stage}.task.text_encoder=minilm-l6-v2" for stage in ("text_low", "text_high", "best")),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The overrides that name captioned shards, and shards with classes."""
    folder = tmp_path_factory.mktemp("data")
    words, classes = fish_shards(folder / "cc3m", captions=True), fish_shards(folder / "imagenet", captions=False)
    return f"data.source={words}", f"classes.data.source={classes}"


@pytest.fixture(scope="module")
def whole(data: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of all stages by one command."""
    out = tmp_path_factory.mktemp("runs") / "iris"
    joined = f"vae.data.source={data[1].partition('=')[2]}+{data[0].partition('=')[2]}"
    assert train("iris-curriculum", [*data, joined, *SMALL], out) == out / "6-few_steps" / "model"
    return out


def test_one_network_goes_through_all_stages(whole: Path) -> None:
    models = {n: whole / f"{i}-{n}" / "model" for i, n in enumerate(STAGES, 1)}
    pipelines = [TextToImagePipeline.from_pretrained(models[name]) for name in STAGES[1:]]
    assert isinstance(pipelines[0].text_encoder, ClassLabelEncoder)
    assert tuple(pipelines[0].text_encoder.names) == FISH
    assert {p.denoiser.config.num_classes for p in pipelines} == {3}
    shapes = [{k: v.shape for k, v in p.denoiser.state_dict().items()} for p in pipelines]
    assert all(s == shapes[0] for s in shapes)
    for before, after in itertools.pairwise(pipelines):  # a step from the one before
        gaps = [
            (a - b).abs().max() for a, b in zip(before.denoiser.parameters(), after.denoiser.parameters(), strict=True)
        ]
        assert 0 < max(gaps) < 0.01
    pipeline = pipelines[-1]
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a fish", num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="np")
    assert image.images[0].shape == (64, 64, 3)


def test_stages_run_one_by_one(
    whole: Path, data: tuple[str, str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.raises(PochadeError, match=r"only: 'classes' given, but vae comes before it and is not finished in"):
        train("iris-curriculum", [*data, *SMALL], out, only="classes")
    assert not out.exists()
    shutil.copytree(whole / "1-vae", out / "1-vae")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    done = cli(capsys, "train", "iris-curriculum", "--out", str(out), "--only", "classes", data[1], *SMALL)
    assert done.out.strip() == str(out / "2-classes" / "model")  # though the sources of the others are not set
    assert sorted(p.name for p in out.iterdir()) == ["1-vae", "2-classes", "cache"]
    assert all(p.stat().st_mtime_ns == at for p, at in before.items())
    weights = [f / "2-classes/model/denoiser/diffusion_pytorch_model.safetensors" for f in (whole, out)]
    assert weights[0].stat().st_size == weights[1].stat().st_size
    train("iris-curriculum", [data[0], *SMALL], out, only="text_low")
    assert (out / "3-text_low" / "model" / "model_index.json").is_file()
    with pytest.raises(PochadeError, match=r"2-classes already holds a run; continue it with --resume"):
        train("iris-curriculum", [*data, *SMALL], out, only="classes")
    with pytest.raises(PochadeError, match=r"only: 'clases' given, allowed are vae, classes, .*did you mean 'classes'"):
        train("iris-curriculum", [*data, *SMALL], out, only="clases")
    assert "only: goes with a run" in cli(capsys, "train", "iris", "--only", "best", "--show", code=2).error


def test_what_is_missing_is_said_before_any_work(data: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    for given, message in (
        ((), "data.source: not set; add data.source=FOLDER to the command"),
        ((data[0],), r"task.text_encoder: none given, but .*cc3m holds captions"),
        ((f"vae.{data[0]}", f"text_low.{data[0]}"), "or classes.data.source=FOLDER, for this stage alone"),
        ((*data, f"classes.task.options={TINY},num_classes=4"), r"num_classes=4 given, but .* has 3 classes"),
    ):
        with pytest.raises(PochadeError, match=message):
            train("iris-curriculum", [*SMALL, *given], out)
    assert not out.exists()


def test_it_is_as_published() -> None:
    stages = stages_of("iris-curriculum")
    assert tuple(s.name for s in stages) == STAGES
    assert [s.data.size for s in stages] == [256, 256, 256, 512, 512, 512]
    assert [(s.batch_size, s.learning_rate) for s in stages[:5]] == [
        (32, 1e-4),
        (256, 1e-4),
        (128, 2e-5),
        (128, 2e-5),
        (64, 5e-6),
    ]
    assert (stages[1].warmup_steps, stages[1].schedule, stages[2].schedule) == (5000, "cosine", "constant")
    flows = [s for s in stages if isinstance(s.task, FlowSettings)]
    assert len({s.task.options for s in flows}) == 1
    assert [s.initialise_from for s in flows] == [None, "previous", "previous", "previous"]
    with torch.device("meta"):
        network = build_denoiser(flows[0].task, latent_channels=16, sample_size=16)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(135e6, rel=0.1)
    assert (network.config.num_classes, network.config.text_dim) == (IMAGENET, 768)


def test_it_can_be_tried_without_data() -> None:
    found = list(dry_run(override(stages_of("iris-curriculum"), SMALL), 1))
    assert tuple(t.stage for t in found) == STAGES
    assert [t.shape for t in found[1:]] == [(16, 2, 2)] * 2 + [(16, 4, 4)] * 3
    assert len({t.parameters for t in found[1:]}) == 1
