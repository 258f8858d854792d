"""The full-size curricula by two processes, scaled down: shards, caches, all stages, a model that generates."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch

from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import SyntheticSource
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from processes import python
from recipes.running import FISH, fish_shards

SHARED = (
    *("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=0", "log_every=2", "save_every=2", "precision=fp32"),
    *("data.size=32", "ema_decay=0.5", "task.variant=nano"),
)
FEW_STEPS = "task.last_intervals=8"
PAIRS = ("data.pairs=pictures", "task.tasks=inpaint,super_resolution")
WAVELET = "sample_size=8,dim=32,heads=2,hidden=32,blocks=1,text_dim=384,pooled_dim=384"
SCAN = "task.options=sample_size=4,dim=32,heads=2,blocks=2,attention_every=2,inner=32,plan_hidden=32"
CURRICULA = {
    "iris-curriculum": (
        *("vae.task.size=nano", "vae.task.perceptual=0", f"task.options={WAVELET},num_classes={len(FISH)}", FEW_STEPS),
        *(f"{stage}.data.size=64" for stage in ("text_high", "best", "few_steps")),
        *(f"{stage}.task.text_encoder=minilm-l6-v2" for stage in ("text_low", "text_high", "best")),
    ),
    "lira-curriculum": (
        "task.autoencoder=microforge-nano",
        "task.options=sample_size=4,latent_channels=32,dim=32,blocks=2,hidden=32,heads=2,reasoning_width=16",
        *("data.size=64", "high.data.size=128"),
    ),
    "lrf-curriculum": (
        *("sample_every=2", "autoencoder.task.width=8", "autoencoder.task.latent_channels=4"),
        "autoencoder.task.perceptual=0",
        *("autoencoder.task.encoder_blocks=0,0,1,0", "autoencoder.task.decoder_blocks=0,1,0,0"),
        *("task.options=sample_size=8,dim=16,heads=2,hidden=24,blocks=1", "edit.task.options=", FEW_STEPS, *PAIRS),
        *(f"{stage}.data.size=64" for stage in ("flow_high", "consistency", "edit")),
    ),
    "microforge-curriculum": (
        *("task.size=nano", "task.perceptual=0", "vae_256.task.adversarial_from=0", FEW_STEPS, *PAIRS),
        *(f"{stage}.{SCAN}" for stage in ("low_128", "low_256", "high_256", "high_512", "student")),
        *(f"{stage}.data.size=64" for stage in ("vae_256", "low_256", "high_256", "edit_256")),
        *(f"{stage}.data.size=128" for stage in ("high_512", "student", "few_steps", "edit_512")),
    ),
}
"""What makes every stage small enough for a test."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards with captions; one with classes beside it."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    prepare(SyntheticSource(40), Target(out=folder, size=64, samples_per_shard=8), progress=False)
    fish_shards(folder.parent / "fish", captions=False)
    return folder


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, CompletedProcess[str]]":
    """The folder with a run of every recipe, and what the processes said: the same two for all, which saves starts."""
    folder = tmp_path_factory.mktemp("runs")
    commands = [
        ["train", recipe, "--device", "cpu", "--out", str(folder / recipe), f"data.source={shards}", *SHARED, *small]
        for recipe, small in CURRICULA.items()
    ]
    commands[list(CURRICULA).index("iris-curriculum")].append(f"classes.data.source={shards.parent / 'fish'}")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = python(*torchrun, Path(__file__).with_name("train_several.py"), json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return folder, done


def last_model(folder: Path, recipe: str) -> Path:
    stages = stages_of(recipe)
    return folder / recipe / f"{len(stages)}-{stages[-1].name}" / "model"


def test_the_processes_say_what_they_do_once(runs: "tuple[Path, CompletedProcess[str]]") -> None:
    folder, done = runs
    assert done.stderr.count("2 processes on cpu") == sum(len(stages_of(recipe)) for recipe in CURRICULA)
    assert "stride" not in done.stderr
    assert done.stdout == "".join(f"{last_model(folder, recipe)}\n" for recipe in CURRICULA)


@pytest.mark.parametrize("recipe", CURRICULA)
def test_a_curriculum_runs_from_shards_on_two_processes(
    recipe: str, shards: Path, runs: "tuple[Path, CompletedProcess[str]]"
) -> None:
    model = last_model(runs[0], recipe)
    for number, stage in enumerate(stages_of(recipe), 1):
        lines = (runs[0] / recipe / f"{number}-{stage.name}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["processes"] for line in lines] == [2]
    record = json.loads((model / "training.json").read_text())
    assert record["sources"] == [str(shards)]
    assert record["held_out"]
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np")
    assert np.isfinite(image.images).all()
