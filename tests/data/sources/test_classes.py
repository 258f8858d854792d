"""Classes in shards and in folders, beside captions and without."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.sources.test_shards import level, make_tar, png
from pochade.data.prepare.pictures import open_folder, prepare
from pochade.data.sources.folder import ImageFolder
from pochade.data.sources.shards import Record, ShardDataset, write_shards
from pochade.errors import FailureError, PochadeError
from pochade.recipes.sources import as_pictures, open_images
from pochade.recipes.stages import ImageData

NAMES = ("cat", "guinea pig", "dog")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labelled(folder: Path, count: int = 60, captions: bool = False, **options: Any) -> Path:
    records = (Record(png(i), ".png", [f"grey {i}"] if captions else [], f"k{i:03d}", i % 3) for i in range(count))
    write_shards(records, folder, samples_per_shard=25, **options)
    return folder


def subfolders(folder: Path, count: int = 8) -> Path:
    for i in range(count):
        path = folder / ("n02" if i % 2 else "n01") / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i, "JPEG"))
    return folder


def test_classes_that_were_written_are_read(tmp_path: Path) -> None:
    data = ShardDataset(labelled(tmp_path, class_names=NAMES), 8)
    assert data.class_names == NAMES
    assert (tmp_path / "classes.txt").read_text() == "cat\nguinea pig\ndog\n"
    sample = data.sample(7, rng())
    assert set(sample) == {"image", "class_label", "name"}
    assert (level(sample), sample["class_label"]) == (7, 1)
    assert (data.caption(7), data.captions(7), data.label(7)) == ("guinea pig", (), 1)
    again = ShardDataset(tmp_path, 8)  # from what was remembered
    assert [again.label(i) for i in range(60)] == [i % 3 for i in range(60)]


def test_webdataset_of_others_has_no_names_and_no_index(tmp_path: Path) -> None:
    members = {}
    for i in range(9):
        members |= {
            f"n0/{i}.jpg": png(i, "JPEG"),
            f"n0/{i}.cls": f"{i % 5}\n".encode(),
            f"n0/{i}.json": b'{"label": 1}',
        }
    make_tar(tmp_path / "imagenet-train-0000.tar", members)
    data = ShardDataset(tmp_path, 8)
    assert data.class_names == ("0", "1", "2", "3", "4")
    assert [data.label(i) for i in range(9)] == [i % 5 for i in range(9)]


def test_classes_stand_on_both_sides_of_the_split(tmp_path: Path) -> None:
    labelled(tmp_path, 200)
    parts = [ShardDataset(tmp_path, 8, split=split) for split in ("train", "held_out")]
    assert sum(map(len, parts)) == 200
    assert 5 < len(parts[1]) < 45
    assert {parts[1].label(i) for i in range(len(parts[1]))} == {0, 1, 2}
    assert not {p.name for p in parts[0].items} & {p.name for p in parts[1].items}


def test_captions_come_first_unless_classes_are_asked_for(tmp_path: Path) -> None:
    labelled(tmp_path, captions=True, class_names=NAMES)
    words, classes = ShardDataset(tmp_path, 8), ShardDataset(tmp_path, 8, classes=True)
    assert not hasattr(words, "class_names")
    assert (words.sample(4, rng())["caption"], words.captions(4), words.label(4)) == ("grey 4", ("grey 4",), -1)
    assert (classes.sample(4, rng())["class_label"], classes.caption(4)) == (1, "guinea pig")
    for split in ("train", "held_out"):  # the same pictures, whatever is told of them
        sides = [ShardDataset(tmp_path, 8, split=split, classes=c).items for c in (None, True)]
        assert [p.name for p in sides[0]] == [p.name for p in sides[1]]


def test_where_captions_are_wanted_a_class_gives_its_name(tmp_path: Path) -> None:
    data = ShardDataset(labelled(tmp_path, class_names=NAMES), 8, classes=False)
    assert not hasattr(data, "class_names")
    assert data.sample(1, rng())["caption"] == data.captions(1)[0] == "guinea pig"


def test_what_has_no_usable_class_is_named(tmp_path: Path) -> None:
    members = {}
    for i in range(50):
        members |= {f"{i}.png": png(i), f"{i}.cls": str(i % 2).encode()}
    members |= {"3.cls": b"three", "4.cls": b"-1", "5.cls": b"7", "6.cls": b"99999999999"}
    del members["8.cls"]
    make_tar(tmp_path / "0.tar", members)
    (tmp_path / "classes.json").write_text(json.dumps(["even", "odd"]))
    data = ShardDataset(tmp_path, 8, max_skipped=0.2)
    assert len(data) == 45
    reasons = {entry["name"].removeprefix("0.tar/"): entry["reason"] for entry in data.report.skipped}
    assert reasons == dict.fromkeys(("3.png", "4.png", "6.png", "8.png"), "no class") | {"5.png": "unknown class"}
    with pytest.raises(FailureError, match=r"unknown class|no class"):
        ShardDataset(tmp_path, 8, max_skipped=0.01)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat\nDog\ncat\n", "class 2: 'cat' is also class 0"),
        ("cat\n\ndog\n", "class 1: no name"),
    ],
)
def test_names_must_be_different(tmp_path: Path, names: str, message: str) -> None:
    labelled(tmp_path, 3)
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(PochadeError, match=message):
        ShardDataset(tmp_path, 8)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text('{"0": 1}')
    with pytest.raises(PochadeError, match=r"classes.json: "):
        ShardDataset(tmp_path, 8)


def test_classes_that_are_not_there(tmp_path: Path) -> None:
    write_shards([Record(png(1), ".png", ["a"], "k")], tmp_path / "shards")
    with pytest.raises(PochadeError, match=r"classes: .* holds none"):
        ShardDataset(tmp_path / "shards", 8, classes=True)
    with pytest.raises(PochadeError, match="label: -1 given for 'k', allowed are 0 to"):
        write_shards([Record(png(1), ".png", [], "k", -1)], tmp_path / "bad")
    with pytest.raises(PochadeError, match="captions: 'k' has none, and no class"):
        write_shards([Record(png(1), ".png", [], "k")], tmp_path / "none")


def test_subfolders_are_classes(tmp_path: Path) -> None:
    data = ImageFolder(subfolders(tmp_path / "in"), 8)
    assert data.class_names == ("n01", "n02")
    assert [(p.name, p.label) for p in data.items[2:5]] == [("n01/4.JPEG", 0), ("n01/6.JPEG", 0), ("n02/1.JPEG", 1)]
    report = prepare("folder", tmp_path / "out", size=8, path=tmp_path / "in", split="all")
    assert report["samples"] == {"all": 8}
    shards = open_folder(tmp_path / "out", 8)
    assert isinstance(shards, ShardDataset)
    assert shards.class_names == ("n01", "n02")
    assert [p.label for p in shards.items] == [0, 0, 0, 0, 1, 1, 1, 1]
    (tmp_path / "in" / "n01" / "0.txt").write_text("a caption")  # one says that captions are meant
    with pytest.raises(FailureError, match="no caption"):
        ImageFolder(tmp_path / "in", 8)
    assert ImageFolder(tmp_path / "in", 8, classes=True).class_names == ("n01", "n02")


@pytest.mark.parametrize("above", ["train", "."])
def test_folders_of_folders_are_not_classes_by_accident(tmp_path: Path, above: str) -> None:
    subfolders(tmp_path / above)
    (tmp_path / ("x.png" if above == "." else "train/n01/y.txt")).write_bytes(b"")
    with pytest.raises(PochadeError, match=r"pictures but no captions: .*or a subfolder for each class"):
        ImageFolder(tmp_path, 8)


def test_sources_of_recipes(tmp_path: Path) -> None:
    both = labelled(tmp_path / "both", captions=True, class_names=NAMES)
    bare = labelled(tmp_path / "bare", 30, class_names=NAMES)
    data = open_images(ImageData(f"classes:{both}", 8, held_out=False))
    pictures = as_pictures(data)
    assert [(pictures.captions(i), pictures.label(i), pictures.group(i)) for i in (0, 5)] == [((), 0, 0), ((), 2, 5)]
    assert hasattr(open_images(ImageData(str(bare), 8)), "class_names")
    assert not hasattr(open_images(ImageData(str(both), 8)), "class_names")
    joined = open_images(ImageData(f"{bare}+{both}", 8, held_out=False))
    assert [joined.caption(i) for i in (1, 31)] == ["guinea pig", "grey 1"]
    assert as_pictures(joined).captions(1) == ("guinea pig",)
    best = open_images(ImageData(str(bare), 8, held_out=False, best=0.5))
    assert len(best) == len(as_pictures(best)) == 15
    with pytest.raises(PochadeError, match="only captioned pictures can be joined"):
        open_images(ImageData(f"{bare}+classes:{both}", 8))
    with pytest.raises(PochadeError, match="allowed are openmoji, cifar10:PATH, a folder, classes:FOLDER"):
        open_images(ImageData("classes:nowhere", 8))


def test_captioned_shards_as_downloaders_leave_them(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for shard in range(2):
        members = {}
        for i in range(20 * shard, 20 * shard + 20):
            told = {"caption": f"grey {i}" if i else None, "url": "https://example.com", "status": "success"}
            members |= {f"{i:09d}.jpg": png(i, "JPEG"), f"{i:09d}.json": json.dumps(told).encode()}
            members |= {f"{i:09d}.txt": f"grey {i}".encode()} if i else {}
        make_tar(source / f"{shard:05d}.tar", members)
        (source / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (source / f"{shard:05d}_stats.json").write_text("{}")
    report = prepare("folder", tmp_path / "out", size=8, path=source)
    assert sum(report["samples"].values()) == 39
    assert report["reading"]["skipped_by_reason"] == {"no caption": 1}
    assert open_folder(tmp_path / "out", 8, "train").caption(0).startswith("grey ")
