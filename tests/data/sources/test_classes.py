"""Classes in shards and in folders, beside captions and without."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.sources.test_shards import level, make_tar, opened, png, reasons
from pochade.data.dataset import Dataset
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.prepare.writer import picture_record, write_shards
from pochade.data.sources import FolderSource, JoinedSource, open_source
from pochade.data.sources.image_files import Reading
from pochade.errors import FailureError, PochadeError

NAMES = ("cat", "guinea pig", "dog")


def names(data: Dataset) -> list[str]:
    return [data.item(i).name for i in range(len(data))]


def labels(data: Dataset) -> list[int | None]:
    return [data.item(i).label for i in range(len(data))]


def labelled(folder: Path, count: int = 60, captions: bool = False, **options: Any) -> Path:
    words = [[f"grey {i}"] if captions else [] for i in range(count)]
    records = (picture_record(f"k{i:03d}", png(i), ".png", words[i], label=i % 3) for i in range(count))
    write_shards(records, folder, samples_per_shard=25, **options)
    return folder


def subfolders(folder: Path, count: int = 8) -> Path:
    for i in range(count):
        path = folder / ("n02" if i % 2 else "n01") / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i, "JPEG"))
    return folder


def test_classes_that_were_written_are_read(tmp_path: Path) -> None:
    data = opened(labelled(tmp_path, class_names=NAMES))
    assert data.classes == data.class_names == NAMES
    assert (tmp_path / "classes.txt").read_text() == "cat\nguinea pig\ndog\n"
    item = data.item(7)
    assert (level(data, 7), item.captions, item.label) == (7, (), 1)
    assert labels(opened(tmp_path)) == [i % 3 for i in range(60)]  # from what was remembered


def test_webdataset_of_others_has_no_names_and_no_index(tmp_path: Path) -> None:
    members = {}
    for i in range(9):
        members |= {
            f"n0/{i}.jpg": png(i, "JPEG"),
            f"n0/{i}.cls": f"{i % 5}\n".encode(),
            f"n0/{i}.json": b'{"label": 1}',
        }
    make_tar(tmp_path / "imagenet-train-0000.tar", members)
    data = opened(tmp_path)
    assert data.classes == ("0", "1", "2", "3", "4")
    assert labels(data) == [i % 5 for i in range(9)]


def test_classes_stand_on_both_sides_of_the_split(tmp_path: Path) -> None:
    labelled(tmp_path, 200)
    train, held_out = opened(tmp_path, "train"), opened(tmp_path, "held_out")
    assert len(train) + len(held_out) == 200
    assert 5 < len(held_out) < 45
    assert set(labels(held_out)) == {0, 1, 2}
    assert not set(names(train)) & set(names(held_out))


def test_captions_come_first_unless_classes_are_requested(tmp_path: Path) -> None:
    labelled(tmp_path, captions=True, class_names=NAMES)
    words, classes = opened(tmp_path), opened(tmp_path, classes=True)
    assert (words.classes, words.class_names) == ((), NAMES)
    assert (words.item(4).captions, words.item(4).label) == (("grey 4",), None)
    assert (classes.item(4).captions, classes.item(4).label) == ((), 1)
    for data in (words, classes):  # what is written when they are prepared
        assert (data.stored(4).captions, data.stored(4).label) == (("grey 4",), 1)
    for split in ("train", "held_out"):  # the same pictures and groups, whatever conditions on them
        one, other = (opened(tmp_path, split, wanted) for wanted in (None, True))
        assert names(one) == names(other)
        assert one.groups() == other.groups()


def test_where_captions_are_wanted_a_class_gives_its_name(tmp_path: Path) -> None:
    data = opened(labelled(tmp_path, class_names=NAMES), classes=False)
    assert data.classes == ()
    assert (data.item(1).captions, data.item(1).label) == (("guinea pig",), None)


def test_what_has_no_usable_class_is_named(tmp_path: Path) -> None:
    members = {}
    for i in range(50):
        members |= {f"{i}.png": png(i), f"{i}.cls": str(i % 2).encode()}
    members |= {"3.cls": b"three", "4.cls": b"-1", "5.cls": b"7", "6.cls": b"99999999999"}
    del members["8.cls"]
    make_tar(tmp_path / "0.tar", members)
    (tmp_path / "classes.json").write_text(json.dumps(["even", "odd"]))
    data = opened(tmp_path, max_skipped=0.2)
    assert len(data) == 45
    expected = dict.fromkeys(("3.png", "4.png", "6.png", "8.png"), "no class") | {"5.png": "unknown class"}
    assert {name.removeprefix("0.tar/"): reason for name, reason in reasons(data).items()} == expected
    with pytest.raises(
        FailureError, match=r"4 no class \(0.tar/3.png, .*0.tar/8.png\), 1 unknown class \(0.tar/5.png: 7 of 2 named"
    ):
        opened(tmp_path, max_skipped=0.01)


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
        opened(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text('{"0": 1}')
    with pytest.raises(PochadeError, match=r"classes.json: "):
        opened(tmp_path)


def test_parts_must_have_the_same_classes(tmp_path: Path) -> None:
    for side, names in (("train", NAMES), ("test", NAMES[::-1])):
        labelled(tmp_path / side, 4, class_names=names)
    with pytest.raises(PochadeError, match=r"its classes are not those of"):
        opened(tmp_path)


def test_classes_that_are_not_there(tmp_path: Path) -> None:
    write_shards([picture_record("k", png(1), ".png", ["a"])], tmp_path / "shards")
    with pytest.raises(PochadeError, match=r"classes: .* holds none"):
        opened(tmp_path / "shards", classes=True)
    with pytest.raises(PochadeError, match="label: -1 given for 'k', allowed are 0 to"):
        write_shards([picture_record("k", png(1), ".png", label=-1)], tmp_path / "bad")
    with pytest.raises(PochadeError, match="captions: 'k' has none, and no class"):
        picture_record("k", png(1), ".png")


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_subfolders_are_classes_and_stay_so(tmp_path: Path, format: Any) -> None:
    data = open_source(subfolders(tmp_path / "in"), "all")
    assert data.classes == ("n01", "n02")
    assert [(data.item(i).name, data.item(i).label) for i in range(2, 5)] == [
        ("n01/4.JPEG", 0),
        ("n01/6.JPEG", 0),
        ("n02/1.JPEG", 1),
    ]
    target = Target(out=tmp_path / "out", size=8, split="all", format=format)
    assert prepare(FolderSource(tmp_path / "in"), target)["samples"] == {"all": 8}
    again = open_source(tmp_path / "out", "all")
    assert again.classes == ("n01", "n02")
    assert labels(again) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [again.item(i).split for i in range(8)] == [data.item(i).split for i in range(8)]


def test_classes_of_a_list_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "label": [2, 0, 10][i % 3]} for i in range(6)]
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_source(tmp_path, "all")
    assert data.classes == tuple(map(str, range(11)))
    assert labels(data) == [2, 0, 10, 2, 0, 10]
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\n")
    with pytest.raises(FailureError, match="unknown class"):
        open_source(tmp_path, "all")


@pytest.mark.parametrize("above", ["train", "."])
def test_folders_of_folders_are_not_classes_by_accident(tmp_path: Path, above: str) -> None:
    subfolders(tmp_path / above)
    if above == ".":
        (tmp_path / "x.png").write_bytes(png(1))
    with pytest.raises(PochadeError, match=r"pictures but no captions: .*or a subfolder for each class"):
        open_source(tmp_path, "all")


def test_sources_with_classes(tmp_path: Path) -> None:
    both = labelled(tmp_path / "both", captions=True, class_names=NAMES)
    bare = labelled(tmp_path / "bare", 30, class_names=NAMES)
    assert labels(open_source(f"classes:{both}", "all"))[:6] == [0, 1, 2, 0, 1, 2]
    assert open_source(bare).classes == NAMES
    assert open_source(both).classes == ()
    joined = open_source(f"{bare}+{both}", "all")
    assert [joined.item(i).captions for i in (1, 31)] == [("guinea pig",), ("grey 1",)]
    with pytest.raises(PochadeError, match="only captioned pictures can be joined"):
        open_source(JoinedSource((FolderSource(bare), FolderSource(both, classes=True))))


def test_captioned_shards_as_downloaders_leave_them(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for shard in range(2):
        members = {}
        for i in range(20 * shard, 20 * shard + 20):
            facts = {"caption": f"grey {i}" if i else None, "url": "https://example.com", "status": "success"}
            members |= {f"{i:09d}.jpg": png(i, "JPEG"), f"{i:09d}.json": json.dumps(facts).encode()}
            members |= {f"{i:09d}.txt": f"grey {i}".encode()} if i else {}
        make_tar(source / f"{shard:05d}.tar", members)
        (source / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (source / f"{shard:05d}_stats.json").write_text("{}")
    report = prepare(FolderSource(source), Target(out=tmp_path / "out", size=8), reading=Reading())
    assert sum(report["samples"].values()) == 39
    assert report["reading"]["skipped_by_reason"] == {"no caption": 1}
    assert open_source(tmp_path / "out").item(0).captions[0].startswith("grey ")
