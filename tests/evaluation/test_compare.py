"""Several models side by side."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cli.run import cli
from evaluation.test_report import COLOURS, SHAPES, draw
from pochade.errors import PochadeError
from pochade.evaluation.compare import evaluate_models
from pochade.pipelines.hub import read_json
from pochade.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawings")
    for caption in (f"{c} {s}" for c in COLOURS for s in SHAPES):
        draw(caption).save(folder / f"{caption}.png")
        (folder / f"{caption}.txt").write_text(caption)
    return folder


def test_models_beside_each_other_have_the_same_prompts_and_their_own_figures(
    toy_pipeline_folder: Path, drawings: Path, tmp_path: Path, capsys: object
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(toy_pipeline_folder, folder)
    out = tmp_path / "beside"
    settings = ("--samples", "2", "--per-caption", "2", "--steps", "1", "--guidance", "1")
    done = cli(capsys, "evaluate", str(first), str(second), str(drawings), "--sheet", *settings, "-o", str(out))
    for text in ("training concepts", "held-out concepts", "retrieval R@1", "KID (Lite0)", "side-by-side.html"):
        assert text in done.out
    found = read_json(out / "side-by-side.json")
    assert list(found) == [str(first), str(second)]
    a, b = found.values()
    assert a["train"] == b["train"]  # the same weights, prompts and seeds
    assert (a["settings"]["samples"], a["settings"]["steps"], a["train"]["pictures"]) == (2, 1, 4)
    page = (out / "side-by-side.html").read_text()
    low, high = a["train"]["intervals"]["kid_lite0"]
    assert page.count(f"({low:.4f} to {high:.4f})") == 2
    pictures = sum(a[split]["pictures"] for split in ("train", "held_out"))
    assert page.count("<img") == 3 * pictures
    assert not re.search(r'(src|href)="(?!data:)', page)
    with Image.open(out / "side-by-side.png") as sheet:
        assert sheet.width == 3 * (128 + 8) + 8
    assert len(list(out.glob("*/report.json"))) == 2
    again = cli(capsys, "evaluate", str(first), str(second), str(drawings), "--sheet", "-o", str(out), code=2)
    assert "holds side-by-side.html, side-by-side.png, side-by-side.json already" in again.error


def test_wrong_use(toy_pipeline_folder: Path, drawings: Path, tmp_path: Path, capsys: object) -> None:
    model, data, out = str(toy_pipeline_folder), str(drawings), ("-o", str(tmp_path / "out"))
    for arguments, message in (
        ((model, model, data, "--sheet"), "given twice, allowed is once"),
        ((model, "lrf-openmoji", data), "allowed are one, and with --sheet two and more"),
        ((model, data, "--sheet"), "allowed are one, and with --sheet two and more"),
        ((model, "lrf-openmoji", data, "--sheet", "--grid", "1"), "grid: '1' given with --sheet, allowed is none"),
        ((model, "lrf-openmojy", data, "--sheet"), "model: 'lrf-openmojy' is neither a shipped model"),
    ):
        assert message in cli(capsys, "evaluate", *arguments, *out, code=2).error
    assert not (tmp_path / "out").exists()
    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    with pytest.raises(PochadeError, match=r"^models: 1 given, allowed are 2 and more"):
        evaluate_models({"one": pipe}, data, out=tmp_path / "out")
    with pytest.raises(PochadeError, match=r"^models: a/b, a-b given, whose reports would lie in one folder"):
        evaluate_models({"a/b": pipe, "a-b": pipe}, data, out=tmp_path / "out")
    with pytest.raises(PochadeError, match=r"^samples: 1 given"):
        evaluate_models({"a": pipe, "b": pipe}, data, samples=1, out=tmp_path / "out")
