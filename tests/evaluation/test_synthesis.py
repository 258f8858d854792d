"""Data sets that a model makes: shares, splits, near duplicates, the card, and going on."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.run import cli
from evaluation.test_report import COLOURS, SHAPES, SIZE, ToyPipeline, draw
from pochade.data.prepare.target import Target
from pochade.data.sources import FolderSource, open_source
from pochade.errors import PochadeError
from pochade.evaluation.synthesis import Plan, synthesise
from pochade.runtime.manifest import Model

TEACHER = Model("toy", "0" * 64, "cc-by-4.0", "drawn by a toy")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    folder = tmp_path_factory.mktemp("captions")
    for caption in (f"{c} {s}" for c in COLOURS for s in SHAPES):
        draw(caption).save(folder / f"{caption}.png")
        (folder / f"{caption}.txt").write_text(caption)
    return FolderSource(folder)


def made(captions: FolderSource, out: Path, count: int, pipeline: Any = None, **changes: Any) -> dict[str, Any]:
    plan = Plan(count, steps=2, guidance=1.0, batch_size=8)
    target = Target(out=out, size=SIZE, **{"format": "folder", **changes})
    return synthesise(pipeline or ToyPipeline(), TEACHER, captions, target, plan, progress=False)


def test_each_part_has_its_share_and_what_looks_alike_is_kept_once(captions: FolderSource, tmp_path: Path) -> None:
    """The toy draws the same for a caption whatever the seed: of two rounds the second is left out."""
    there = {part: len(open_source(captions, part)) for part in ("train", "held_out")}
    once = made(captions, tmp_path / "once", sum(there.values()))
    twice = made(captions, tmp_path / "twice", 2 * sum(there.values()))
    assert (once["made"], twice["made"]) == (54, 108)
    assert once["samples"] == twice["samples"]
    assert twice["alike"] == once["alike"] + 54
    for part in ("train", "held_out"):
        source, result = open_source(captions, part), open_source(tmp_path / "twice" / part, "all")
        assert {result.item(i).captions[0] for i in range(len(result))} <= {c for i in range(len(source))
                                                                          for c in source.item(i).captions}  # fmt: skip
        assert {result.item(i).split for i in range(len(result))} == {part}
        assert {result.item(i).licence for i in range(len(result))} == {"cc-by-4.0"}
        assert result.image(0, SIZE).size == (SIZE, SIZE)
    assert not list(tmp_path.glob("*-pictures"))


def test_the_card_says_what_was_done(captions: FolderSource, tmp_path: Path) -> None:
    report = made(captions, tmp_path / "set", 20, format="shards", split="train")
    text = (tmp_path / "set" / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert "20 pictures were made" in text
    assert f"{report['samples']['train']} in `train`" in text
    assert "drawn by a toy" in text
    assert report == json.loads((tmp_path / "set" / "report.json").read_text())
    again = made(captions, tmp_path / "set", 10, format="shards", split="train", overwrite=True)
    assert again["made"] == 10


def test_an_interrupted_call_goes_on(captions: FolderSource, tmp_path: Path) -> None:
    first, whole = ToyPipeline(), ToyPipeline()
    first.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        made(captions, tmp_path / "cut", 40, first)
    assert not (tmp_path / "cut").exists()
    second = ToyPipeline()
    made(captions, tmp_path / "cut", 40, second)
    made(captions, tmp_path / "whole", 40, whole)
    assert 0 < len(second.seeds) < len(whole.seeds) == 40
    files = [
        sorted(p for p in (tmp_path / name).rglob("*") if p.is_file() and p.suffix == ".png")
        for name in ("cut", "whole")
    ]
    assert [p.relative_to(tmp_path / "cut") for p in files[0]] == [p.relative_to(tmp_path / "whole") for p in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_what_cannot_be_made(captions: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="count: 0 given"):
        Plan(0, 1, 1.0)
    with pytest.raises(PochadeError, match="lie within each other"):
        made(captions, captions.path / "inside", 4)


def test_the_command(captions: FolderSource, toy_pipeline_folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "set"
    arguments = ("data", "generate", str(captions.path), str(out), "--model", str(toy_pipeline_folder), "--steps", "1")
    report = json.loads(cli(capsys, *arguments, "--count", "12", "--format", "folder", "--json").out)
    assert report["made"] == 12
    assert sum(report["samples"].values()) == 12 - report["alike"]
    assert (out / "README.md").is_file()
