"""Training on pictures of several ratios: what is said, what is cached, exact resume, and sampling at such a size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pochade.data.sources import FolderSource
from pochade.errors import PochadeError
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.training.data import ImageData
from pochade.training.executor import check
from pochade.training.overrides import override
from pochade.training.stages.components import Components
from pochade.training.stages.models import shown_of
from recipes.running import train

FAST = ("steps=6", "batch_size=4", "warmup_steps=1", "sample_every=6", "log_every=1", "save_every=3", "ema_decay=0.5")

PIXELS = 12 * 60 * 100 + 8 * 100 * 70 + 4 * 64 * 64
SQUARES = 1 - (12 * 60**2 + 8 * 70**2 + 4 * 64**2) / PIXELS


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tall, eight wide and four square pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(60, 100)] * 12 + [(100, 70)] * 8 + [(64, 64)] * 4):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"picture number {number}")
    return folder


def changes(pictures: Path, base: Path) -> list[str]:
    return [f"data.source={pictures}", f"task.base={base}", "data.size=64", "data.held_out=false", *FAST]


def test_a_lora_keeps_the_ratios(
    pictures: Path, toy_pipeline_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = changes(pictures, toy_pipeline_folder)
    whole = train("lora", given, tmp_path / "whole")
    printed = capfd.readouterr().err
    assert "3 shapes, each batch of one: 48x80 (12), 64x64 (4), 80x48 (8); " in printed
    # 60 x 100 is 48 x 80 exactly; of 100 x 70 there is nothing left of 70 - 60 rows.
    assert f"{8 * 100 * 10 / PIXELS:.1%} of the pixels are cropped, {SQUARES:.1%} with squares" in printed
    assert len(list((tmp_path / "whole" / "cache").glob("latents-*"))) == 3
    (shown, *_) = sorted((whole.parent / "samples").iterdir())
    white = (np.asarray(Image.open(shown)) == 255).all(-1)
    assert white[8:104, 8:27].all()  # beside the first, 48 x 80 in a cell of 96
    assert not white[8:104, 27:85].all(0).any()
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(whole, adapter_name="mine")
    call: dict[str, Any] = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    assert pipe("picture number 3", height=80, width=48, **call).images[0].size == (48, 80)


def test_the_schedule_of_learning_rates_aside_a_resumed_run_is_the_same(
    pictures: Path, toy_pipeline_folder: Path, tmp_path: Path
) -> None:
    given = [*changes(pictures, toy_pipeline_folder), "schedule=constant"]
    whole = train("lora", given, tmp_path / "whole")
    train("lora", [*given, "steps=3"], tmp_path / "half")
    again = train("lora", given, tmp_path / "half", resume=True)
    first, second = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [
        [json.loads(line)["loss"] for line in (place / "1-lora" / "metrics.jsonl").read_text().splitlines()]
        for place in (tmp_path / "whole", tmp_path / "half")
    ]
    assert losses[0] == losses[1]


def test_sheets_show_held_out_captions_beside_others(pictures: Path, toy_pipeline_folder: Path) -> None:
    data = ImageData(FolderSource(pictures), 64, ratios=2.0, trigger="mine")
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    kept = data.open("held_out")
    shown = shown_of(data, data.open(), pipe)
    held_out = {one.prompt: one for one in shown if one.held_out}
    assert list(held_out) == [kept.item(i).captions[0] for i in range(len(kept))]
    assert all(one.label == f"held out: {prompt}" and "mine" in prompt for prompt, one in held_out.items())
    assert {one.shape for one in shown} <= {(48, 80), (64, 64), (80, 48)}
    others = {one.label for one in shown if not one.held_out}
    assert len(others) >= 8
    assert not others & set(held_out)
    assert not any(one.held_out for one in shown_of(replace(data, held_out=False), data.open("all"), pipe))


def test_squares_are_drawn_as_before(pictures: Path, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    """Where all pictures are square, keeping the ratios changes nothing."""
    squares = tmp_path / "squares"
    squares.mkdir()
    for path in sorted(pictures.glob("2[0-3].*")):
        (squares / path.name).write_bytes(path.read_bytes())
    given = changes(squares, toy_pipeline_folder)
    one = train("lora", given, tmp_path / "one")
    other = train("lora", [*given, "data.ratios=none"], tmp_path / "other")
    first, second = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_lost_to_squares_is_said(
    pictures: Path, toy_pipeline_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train("lora", [*changes(pictures, toy_pipeline_folder), "steps=1", "data.ratios=none"], tmp_path)
    assert f"{SQUARES:.1%} of the pixels are cropped, to squares" in capfd.readouterr().err


def test_distillation_to_few_steps_keeps_the_ratios(pictures: Path, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    given = [f"data.source={pictures}", f"task.teacher={toy_pipeline_folder}", "data.size=64", "data.ratios=2", *FAST]
    model = train("distil", given, tmp_path)
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("picture number 3", height=48, width=80).images[0].size == (80, 48)
    assert len(list((tmp_path / "cache").glob("images-*"))) == 3


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("lrf", ()),
        ("tiny-decoder", ()),
        ("student", ()),
        ("control", ()),
        ("image-prompt", ()),
    ],
)
def test_stages_that_work_on_squares_refuse(recipe: str, more: tuple[str, ...], pictures: Path) -> None:
    stages = override(stages_of(recipe), [f"data.source={pictures}", "data.ratios=2", *more])
    with pytest.raises(PochadeError, match=r"data\.ratios: 2 given for \w+, which works on squares"):
        check(stages, Components())


def test_the_field_is_of_the_data(pictures: Path) -> None:
    data = ImageData(FolderSource(pictures), 64, ratios=1.5).open()
    assert {data.dimensions(i) for i in range(len(data))} >= {(60, 100), (100, 70)}
