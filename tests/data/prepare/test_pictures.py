import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.run import cli
from pochade.data.dataset import Dataset
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import CIFAR10Source, FolderSource, OpenMojiSource, Source, open_source, parse_source
from pochade.data.sources.image_files import Reading
from pochade.errors import FailureError, PochadeError

FORMATS = ("shards", "folder")


def pictures(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(folder / f"my.cat {i:02d}.png")
        (folder / f"my.cat {i:02d}.txt").write_text(f"cat {i}\nanimal {i}")
    return folder


def written(source: Source | Path, out: Path, **target: Any) -> dict[str, Any]:
    found = FolderSource(source) if isinstance(source, Path) else source
    return prepare(found, Target(out=out, **{"size": 8, **target}), progress=False)


def captions(data: Dataset) -> list[tuple[str, ...]]:
    return [data.item(i).captions for i in range(len(data))]


def test_shards_from_a_folder(tmp_path: Path):
    source = pictures(tmp_path / "in")
    (source / "my.cat 03.png").write_bytes(b"broken")
    out = tmp_path / "a" / "out"
    report = written(source, out, size=16, samples_per_shard=10)
    assert sorted(p.name for p in out.iterdir()) == ["held_out", "preview.png", "report.json", "train"]
    assert json.loads((out / "report.json").read_text()) == report
    assert report["samples"]["train"] + report["samples"]["held_out"] == 39
    assert [entry["name"] for entry in report["reading"]["skipped_files"]] == ["my.cat 03.png"]
    train, held_out = (open_source(out, split) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (report["samples"]["train"], report["samples"]["held_out"])
    assert {*captions(train), *captions(held_out)} == {(f"cat {i}", f"animal {i}") for i in range(40) if i != 3}
    original = open_source(source, "train")
    assert captions(original) == captions(train)
    assert all(train.image(i, 16).tobytes() == original.image(i, 16).tobytes() for i in range(len(train)))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("split", ["both", "all"])
@pytest.mark.parametrize("source", ["synthetic:60", "synthetic:60:classes=4"])
def test_what_is_prepared_has_the_groups_and_splits_of_its_source(tmp_path: Path, source: str, split: str, format: str):
    written(parse_source(source), tmp_path / "out", split=split, format=format)
    for side in ("train", "held_out"):
        data, again = open_source(source, side), open_source(tmp_path / "out", side)
        assert again.report is not None
        assert (again.report.skipped_count, dict(again.report.notes)) == (0, {})
        assert again.classes == data.classes
        assert known(again) == known(data)
        assert list(again.groups()) == list(data.groups())
        assert [again.image(i, 8).tobytes() for i in range(6)] == [data.image(i, 8).tobytes() for i in range(6)]
    written(tmp_path / "out", tmp_path / "twice", split="all", format=format)
    assert known(open_source(tmp_path / "twice", "held_out")) == known(open_source(source, "held_out"))


def known(data: Dataset) -> list[tuple[Any, ...]]:
    """What is kept of each picture."""
    items = [data.stored(i) for i in range(len(data))]
    return [(i.captions, i.label, i.group, i.split, i.licence) for i in items]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("source", ["openmoji", "openmoji:groups"])
def test_openmoji_is_divided_alike_on_every_road(tmp_path: Path, source: str, format: str):
    written(parse_source(source), tmp_path / "out", format=format, limit=80)
    for side, other in (("train", "held_out"), ("held_out", "train")):
        data, again = open_source(source, side), open_source(tmp_path / "out", side)
        assert len(again) == 80
        assert set(known(again)) <= set(known(data))
        # Split anew by captions, a fifth of these would be among the others.
        assert not set(again.groups()) & set(open_source(source, other).groups())


def test_a_plain_folder_has_a_list(tmp_path: Path):
    source = pictures(tmp_path / "in", 5)
    written(source, tmp_path / "out", size=16, split="all", format="folder")
    files = sorted(p.name for p in (tmp_path / "out" / "all").iterdir())
    assert files == ["metadata.jsonl", *(f"my_cat_0{i}.png" for i in range(5))]
    first = json.loads((tmp_path / "out" / "all" / "metadata.jsonl").read_text().splitlines()[0])
    assert first == {
        "file_name": "my_cat_00.png",
        "text": ["cat 0", "animal 0"],
        "group": "cat 0",
        "split": open_source(source, "all").item(0).split,
    }
    assert captions(open_source(tmp_path / "out", "all")) == [(f"cat {i}", f"animal {i}") for i in range(5)]
    with Image.open(tmp_path / "out" / "preview.png") as preview:
        assert preview.width > 8 * 90


def test_limit_takes_evenly_spaced_pictures(tmp_path: Path):
    written(pictures(tmp_path / "in", 40), tmp_path / "out", split="all", limit=4)
    assert [words[0] for words in captions(open_source(tmp_path / "out", "all"))] == [
        "cat 0",
        "cat 10",
        "cat 20",
        "cat 30",
    ]


def test_names_that_become_equal_stay_apart(tmp_path: Path):
    source, names = tmp_path / "in", ("a b", "a.b", "A_b", "a b-2", "a_b~2", "x/a", "x a")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(source / f"{name}.png")
        (source / f"{name}.txt").write_text(name)
    written(source, tmp_path / "out", split="all", format="folder")
    assert set(captions(open_source(tmp_path / "out", "all"))) == {(name,) for name in names}
    written_names = {path.stem.casefold() for path in (tmp_path / "out" / "all").glob("*.png")}
    assert len(written_names) == len(names)
    assert {name.partition("~")[0] for name in written_names} == {"a_b", "a_b-2", "a_b_2", "x_a"}


@pytest.mark.parametrize("format", FORMATS)
def test_names_without_a_letter_stay_apart(tmp_path: Path, format: str):
    source, names = pictures(tmp_path / "in", 1), "😀😃😄"
    for name in names:
        Image.new("RGB", (8, 8)).save(source / f"{name}.png")
        (source / f"{name}.txt").write_text(name)
    report = written(source, tmp_path / "out", split="all", format=format)
    assert report["samples"] == {"all": 4}
    assert {words[0] for words in captions(open_source(tmp_path / "out", "all"))} == {"cat 0", *names}


@pytest.mark.parametrize("format", FORMATS)
def test_equal_sources_give_equal_files(tmp_path: Path, format: str):
    source = pictures(tmp_path / "in", 8)
    for out in ("a", "b"):
        written(source, tmp_path / out, split="all", format=format)
    for path in (tmp_path / "a" / "all").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "all" / path.name).read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_cifar10(tmp_path: Path, format: str):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        rows = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        rows[:, 0] = [3, 1, 4, 1]
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    report = written(CIFAR10Source(folder), tmp_path / "out", size=32, format=format)
    assert report["samples"] == {"train": 20, "held_out": 4}
    assert captions(open_source(tmp_path / "out", "held_out")) == [("class3",), ("class1",), ("class4",), ("class1",)]
    labelled = open_source(f"classes:{tmp_path / 'out'}", "held_out")
    assert (len(labelled.classes), labelled.item(2).label) == (10, 4)


def test_the_background_is_that_of_every_source(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for i in range(2):
        Image.new("RGBA", (8, 8)).save(tmp_path / "in" / f"{i}.png")
        (tmp_path / "in" / f"{i}.txt").write_text(f"nothing {i}")
    for number, source in enumerate((FolderSource(tmp_path / "in"), OpenMojiSource())):
        for background in ("#ff8800", "random"):
            out = tmp_path / f"{number}{background}"
            target = Target(out=out, size=32, split="all", limit=2)
            prepare(source, target, reading=Reading(background), progress=False)
            corners = [open_source(out, "all").image(i, 32).getpixel((0, 0)) for i in range(2)]
            assert (len(set(corners)) == 2) if background == "random" else (corners == [(255, 136, 0)] * 2)


def test_a_filled_folder_is_left_alone(tmp_path: Path):
    source = pictures(tmp_path / "in", 5)
    out = tmp_path / "out"
    written(source, out, split="all")
    before = (out / "report.json").stat().st_mtime_ns
    with pytest.raises(PochadeError, match=r"out: .* is not empty"):
        written(source, out, split="all")
    assert (out / "report.json").stat().st_mtime_ns == before
    written(source, out, split="all", size=9, overwrite=True)
    assert json.loads((out / "report.json").read_text())["size"] == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(PochadeError, match=r"more than an earlier data set"):
        written(source, out, split="all", overwrite=True)
    assert (out / "thesis.tex").exists()


def test_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "out").mkdir()
    written(pictures(tmp_path / "in", 3), tmp_path / "out", split="all")
    assert (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch, stop, format):
    source = pictures(tmp_path / "in", 12)
    out = tmp_path / "out"
    target = {"split": "all", "samples_per_shard": 3, "format": format}
    written(source, out, **target)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    true_save, saved = Image.Image.save, []

    def failing(image, *arguments, **options):
        saved.append(image)
        if len(saved) % 8 == 0:
            raise stop
        return true_save(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", failing)
    expected = KeyboardInterrupt if stop is KeyboardInterrupt else FailureError
    with pytest.raises(expected):
        written(source, out, **target, overwrite=True)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(expected):
        written(source, tmp_path / "new", **target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_a_picture_that_breaks_on_the_way_ends_the_work(tmp_path: Path):
    class Broken(FolderSource):
        def _open(self, *arguments: Any) -> Any:
            data = super()._open(*arguments)
            (self.path / "my.cat 05.png").write_bytes(b"")
            return data

    with pytest.raises(PochadeError, match=r"my.cat 05.png: empty file"):
        written(Broken(pictures(tmp_path / "in", 8)), tmp_path / "out", split="all")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_source_and_target_must_not_lie_within_each_other(tmp_path: Path):
    source = pictures(tmp_path / "in", 3)
    for out in (source / "prepared", tmp_path / "in" / ".." / "in" / "x"):
        with pytest.raises(PochadeError, match=r"lie within each other"):
            written(source, out)


def test_the_command(capsys: Any, tmp_path: Path):
    source, out = pictures(tmp_path / "in", 20), tmp_path / "out"
    arguments = ("data", "prepare", "folder", str(out), "--path", str(source), "--size", "8", "--split", "all")
    done = json.loads(cli(capsys, *arguments, "--limit", "5", "--format", "folder", "--json").out)
    assert (done["samples"], done["source"]) == ({"all": 5}, str(source))
    assert cli(capsys, *arguments, "--overwrite").out == f"{out}: 20 all\n"
    (source / "broken.gif").write_bytes(b"GIF89a")
    (source / "broken.txt").write_text("a caption")
    told = cli(capsys, *arguments, "--overwrite").error
    assert re.search(r"warning: .*in: 20 used, 1 skipped \(1 corrupt or truncated \(broken.gif: .*report.json", told)
    assert "Usage: pochade data prepare" in cli(capsys, "data", "prepare", "--help").out
    cli(capsys, "data", "prepare", "synthetic:20", str(tmp_path / "syn"), "--size", "8")
    assert len(open_source(tmp_path / "syn", "held_out")) == 2
    for wrong, message in (
        (("folder",), "path: folder needs one"),
        (("openclipart",), "path: openclipart needs one"),
        (("openmoji", "--path", "x"), "path: openmoji takes none"),
        (("folders", "--path", "x"), "did you mean 'folder'"),
        (("openmojis",), "source: 'openmojis' given"),
        (("openmoji", "--background", "reddish"), "background: 'reddish' given"),
    ):
        name, *options = wrong
        assert message in cli(capsys, "data", "prepare", name, str(tmp_path / "new"), *options, code=2).error
    assert not (tmp_path / "new").exists()
