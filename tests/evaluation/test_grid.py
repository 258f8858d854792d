"""The table of quality by steps and depth."""

from pathlib import Path

import pytest
from PIL import Image

from cli.run import cli
from pochade.errors import PochadeError
from pochade.evaluation.grid import evaluate_grid
from pochade.pipelines import hub
from pochade.pipelines.hub import read_json
from pochade.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, each with a caption."""
    folder = tmp_path_factory.mktemp("drawings")
    for i, (colour, shape) in enumerate((c, s) for c in ("red", "green", "blue") for s in ("cat", "dog", "cup", "hat")):
        Image.effect_noise((32, 32), 20.0 * (i + 1)).convert("RGB").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {colour} {shape}")
    return folder


def test_every_cell_is_measured_and_an_interrupted_grid_goes_on(
    toy_pipeline_folder: Path, drawings: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "grid"
    given = ("evaluate", str(toy_pipeline_folder), str(drawings), "--grid", "1,2x1,2", "--samples", "4")
    done = cli(capsys, *given, "--guidance", "1", "-o", str(out))
    assert str(out / "quality.json") in done.out
    table = read_json(out / "quality.json")
    assert [(row["steps"], row["depth"]) for row in table["rows"]] == [(1, 1), (2, 1), (1, 2), (2, 2)]
    assert table["model_sha256"] == hub.model_sha256(toy_pipeline_folder)
    assert (table["pictures"], table["guidance"], table["size"]) == (4, 1, 32)
    assert len({row["kid_lite0"] for row in table["rows"]}) == 4
    assert all(0 <= row["R@1"] <= 1 for row in table["rows"])
    assert "holds quality.json already" in cli(capsys, *given, "-o", str(out), code=2).error

    (out / "quality.json").unlink()
    monkeypatch.setattr(TextToImagePipeline, "__call__", None)  # every picture is there already
    cli(capsys, *given, "--guidance", "1", "-o", str(out))
    assert read_json(out / "quality.json")["rows"] == table["rows"]


def test_wrong_use(toy_pipeline_folder: Path, drawings: Path, tmp_path: Path, capsys: object) -> None:
    model, data, out = str(toy_pipeline_folder), str(drawings), ("-o", str(tmp_path / "grid"))
    for arguments, message in (
        (("--grid", "1,1"), "grid: '1,1' given, allowed are different numbers from 1"),
        (("--grid", "1x0"), "grid: '0' given, allowed are different numbers from 1"),
        (("--grid", "1", "--per-caption", "2"), "per_caption: 2 given with a grid, allowed is none"),
        (("--per-caption", "0"), "per_caption: 0 given, allowed are 1 and more"),
        (("--grid", "1", "--guidance-interval", "0,1"), "guidance_interval: '0,1' given with a grid, allowed is none"),
        (("--grid", "1", "--steps", "4"), "steps: 4 given with a grid, allowed is none"),
        (("--grid", "1", "--size", "64x32"), "size: '64x32' given with a grid, allowed are pixels a side"),
        (("--size", "64by32"), "size: '64by32' given, allowed are pixels such as 64 or WIDTHxHEIGHT"),
        (("--size", "100000"), "size: '100000' given, allowed are pixels such as 64 or WIDTHxHEIGHT, up to 10000"),
        (("--size", "64x33"), "height: 33 given"),
        (("--grid", "1", "--samples", "1"), "samples: 1 given, allowed are 2 and more"),
    ):
        assert message in cli(capsys, "evaluate", model, data, *arguments, *out, code=2).error
    assert not (tmp_path / "grid").exists()
    parts = TextToImagePipeline.from_pretrained(toy_pipeline_folder).components
    with pytest.raises(PochadeError, match="pipeline: made in memory"):
        evaluate_grid(TextToImagePipeline(**parts), data, (1,), out=tmp_path / "grid")
