"""Editing from the recipe to a model: trained on toy pairs, stored with its tasks, and what it cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from pochade.data.sources.pairs import parse_pairs
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import PochadeError
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.training.data import PairData
from pochade.training.dry_run import dry_run
from pochade.training.overrides import override
from pochade.types import TASKS, Conditioning
from recipes.running import train

FAST = ("steps=2", "batch_size=8", "warmup_steps=1", "sample_every=2", "log_every=2", "save_every=2", "ema_decay=0")
SIZE = 32


def opened(pairs: str, *tasks: str) -> PairDataset:
    return PairData(parse_pairs(pairs)).open_pairs(tasks, SIZE)


def drawing(i: int, colour: str) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "white")
    ImageDraw.Draw(image).ellipse((2 + i, 4, 20 + i // 2, 24), fill=colour)
    return image


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    mask = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(mask).rectangle((0, 0, 15, 15), 255)
    mask.save(folder / "mask.png")
    rows: list[dict[str, Any]] = []
    for i in range(6):
        for colour in ("red", "green"):
            drawing(i, colour).save(folder / f"{i}-{colour}.png")
        source, target = f"{i}-red.png", f"{i}-green.png"
        rows.append({"source": source, "target": target, "instruction": ["make it green", "green please"]})
        rows.append({"source": target, "target": target, "task": "inpaint", "instruction": "a dot", "mask": "mask.png"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        drawing(i, "blue").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture number {i}")
    return folder


@pytest.fixture(scope="module")
def changes(pairs: Path, pictures: Path, toy_pipeline_folder: Path) -> list[str]:
    data = [f"data.pairs={pairs}", f"data.source={pictures}", "data.draws=2", "data.held_out=false"]
    return [f"task.model={toy_pipeline_folder}", "task.tasks=edit,inpaint", *data, *FAST]


@pytest.fixture(scope="module")
def trained(changes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "edit"
    # A rate so large that two steps are seen.
    model = train("edit", [*changes, "learning_rate=0.02"], out)
    assert model == out / "1-edit" / "model"
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert train("edit", [*changes, "learning_rate=0.02"], out, resume=True) == model
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps
    return model


def test_instructions_that_are_cut_are_counted(
    changes: list[str], pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each once, however often its pair is drawn."""
    rows = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text().splitlines()]
    rows[0]["instruction"] = ["make it green", "make it " + "very " * 200 + "green"]
    rows[5]["instruction"] = "a dot " * 100
    folder = shutil.copytree(pairs, tmp_path / "pairs", ignore=shutil.ignore_patterns(".pochade"))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train("edit", [*changes, f"data.pairs={folder}", "data.draws=8", "steps=1"], tmp_path / "run")
    said = capsys.readouterr().err
    assert "edit: 2 instructions cut at 32 tokens (" in said


def test_a_model_that_edits(trained: Path) -> None:
    pipe = TextToImagePipeline.from_pretrained(trained)
    assert list(pipe.denoiser.config.tasks) == ["edit", "inpaint"]
    assert pipe.default_size == SIZE
    assert (trained.parent / "samples" / "step-000002.png").is_file()
    assert len(list((trained.parents[1] / "cache").glob("pairs-*"))) == 1
    pipe.set_progress_bar_config(disable=True)
    result = pipe.encode_prompt("make it green")
    source = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))

    def sample(**parts: Any) -> torch.Tensor:
        inputs = Conditioning(result.tokens, result.mask, result.pooled, **parts)
        options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
        return pipe(prompt_embeds=inputs, generator=torch.Generator().manual_seed(1), **options).images

    task = torch.tensor([TASKS.index("edit")])
    edited, plain = sample(source=source, source_mask=torch.zeros(1, 1, 4, 4), task=task), sample()
    assert (edited - plain).abs().max() > 1e-4
    assert (sample(source=source, task=task + 1) - edited).abs().max() > 1e-4


def test_it_can_be_trained_further(trained: Path, changes: list[str], tmp_path: Path) -> None:
    more = [*changes, f"task.model={trained}", "task.tasks=inpaint", "task.generate=0", "steps=1", "sample_every=0"]
    model = train("edit", more, tmp_path / "run")
    assert list(TextToImagePipeline.from_pretrained(model).denoiser.config.tasks) == ["edit", "inpaint"]


def test_pictures_teach_to_fill_and_to_enlarge(changes: list[str], tmp_path: Path) -> None:
    own = [*changes, "data.pairs=pictures", "task.tasks=inpaint,super_resolution", "steps=1", "sample_every=0"]
    model = train("edit", own, tmp_path / "run")
    assert list(TextToImagePipeline.from_pretrained(model).denoiser.config.tasks) == ["inpaint", "super_resolution"]
    with pytest.raises(PochadeError, match="of any pictures can be made inpaint"):
        train("edit", [*changes, "data.pairs=pictures"], tmp_path / "other")


def test_dry_run(changes: list[str]) -> None:
    (tried,) = dry_run(override(stages_of("edit"), changes))
    assert tried.shape == (4, 4, 4)
    for model, options in (("microforge-nano", "source=channels,regions=4"), ("lrf-openmoji", "")):
        inputs = [f"task.model={model}", f"task.options={options}"]
        (tried,) = dry_run(override(stages_of("edit"), inputs), steps=1)
        assert tried.shape == {"microforge-nano": (32, 4, 4), "lrf-openmoji": (16, 8, 8)}[model]


def test_kinds_of_drawings() -> None:
    chosen = opened("openmoji:recolour=2,mirror", "edit")
    assert chosen.weights == {"recolour": 2.0, "mirror": 1.0}  # pyright: ignore[reportAttributeAccessIssue]
    assert chosen.pair(3).task == "edit"
    everything = opened("openmoji", "inpaint", "super_resolution")
    assert set(everything.weights) == {"inpaint", "super_resolution"}  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.options=source=width", "options: 'source=width' given"),
        ("task.tasks=edit,super_resolution", "there are no pairs for super_resolution"),
        ("data.size=40", "data.size: 40 given, allowed are multiples of 16"),
        ("initialise_from=lrf-openmoji", "initialise_from: 'lrf-openmoji' given, but the start is task.model"),
    ],
)
def test_what_cannot_be_trained(changes: list[str], change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=message):
        train("edit", [*changes, change], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_and_kinds_that_do_not_fit(changes: list[str], toy_class_pipeline_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="reads no sentences, and instructions are sentences"):
        train("edit", [*changes, f"task.model={toy_class_pipeline_folder}"], tmp_path / "run")
    for kinds, message in (
        ("mirorr", "weights: 'mirorr' given, .*did you mean 'mirror'"),
        ("mirror=often", "kinds: 'mirror=often' given, allowed is KIND or KIND=WEIGHT"),
        ("inpaint", "kinds: inpaint given, allowed for edit are recolour, "),
    ):
        with pytest.raises(PochadeError, match=message):
            opened(f"openmoji:{kinds}", "edit")
