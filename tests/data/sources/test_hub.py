"""Rows by the library ``datasets``, from files on the disk alone: no request to the hub."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.run import cli
from pochade.data.dataset import Dataset
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import open_source
from pochade.data.sources.hub import HubSource, JourneyDBSource, open_rows, read_columns
from pochade.data.sources.image_files import Reading
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.images.decode import BadImage

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def jpeg(value: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 4), (value, 0, 255 - value)).save(buffer, "JPEG")
    return buffer.getvalue()


def parquet(path: Path, features: dict[str, Any], **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(path)
    return path


def pictures(count: int) -> list[dict[str, Any]]:
    return [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(count)]


def captioned(path: Path, count: int = 40) -> Path:
    features = {"id": datasets.Value("int64"), "image": datasets.Image(), "caption": datasets.Value("string")}
    captions = [f" red  {i}\n" for i in range(count)]
    return parquet(path, features, id=list(range(count)), image=pictures(count), caption=captions)


def test_a_column_with_the_split_counts(tmp_path: Path) -> None:
    sides, texts = ["Train", "test", "validation", ""], [f"grey {i}" for i in range(4)]

    def table(**columns: list[str]) -> Path:
        features = {"image": datasets.Image()} | dict.fromkeys(("text", *columns), datasets.Value("string"))
        return parquet(tmp_path / "in.parquet", features, image=pictures(4), text=texts, **columns)

    written(table(split=sides), tmp_path / "out", split="all")
    found = captions(open_source(str(tmp_path / "out"), "held_out"))
    assert {("grey 1",), ("grey 2",)} <= set(found) <= {("grey 1",), ("grey 2",), ("grey 3",)}
    written(table(part=["train", "dev"] * 2), tmp_path / "named", columns=[("split", "part")], split="held_out")
    assert captions(open_source(str(tmp_path / "named"), "all")) == [("grey 1",), ("grey 3",)]
    wrong = table(split=["train", "restval", "test", "test"])
    with pytest.raises(PochadeError, match=r"in\.parquet: row 1: split 'restval' given, allowed are train, "):
        written(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def labelled(path: Path, labels: list[int]) -> Path:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "guinea pig", "dog"])}
    return parquet(path, features, image=pictures(len(labels)), label=labels)


def written(
    source: Path | str, out: Path, max_skipped: float = 0.05, columns: Any = (), **target: Any
) -> dict[str, Any]:
    found = HubSource(str(source), columns=tuple(columns))
    target = {"size": 16, **target}
    return prepare(found, Target(out=out, **target), reading=Reading(max_skipped=max_skipped), progress=False)


def captions(data: Dataset) -> list[tuple[str, ...]]:
    return [data.item(i).captions for i in range(len(data))]


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_captions_are_found_and_divided_as_in_a_folder(tmp_path: Path, format: str) -> None:
    source = captioned(tmp_path / "in" / "train.parquet")
    report = written(source, tmp_path / "out", samples_per_shard=10, format=format)
    assert report["samples"]["train"] + report["samples"]["held_out"] == report["reading"]["used"] == 40
    assert report["samples"]["held_out"] > 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["held_out", "preview.png", "report.json", "train"]
    sets = [open_source(tmp_path / "out", split) for split in ("train", "held_out")]
    assert {words for part in sets for words in captions(part)} == {(f"red {i}",) for i in range(40)}
    written(source.parent, tmp_path / "whole", split="all", format=format)
    again = open_source(tmp_path / "whole", "all")
    for split, part in zip(("train", "held_out"), sets, strict=True):
        assert captions(open_source(tmp_path / "whole", split)) == captions(part)
    for i in (0, 25):
        assert abs(np.asarray(again.image(i, 16))[8, 8, 0] - i) < 6
    assert not list(tmp_path.glob("*skipped*"))


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_classes_keep_their_names_and_numbers(tmp_path: Path, format: str) -> None:
    source = labelled(tmp_path / "in" / "data.parquet", [2, 0, 1, 2, 2, 0, -1] * 6)
    report = written(source, tmp_path / "out", split="all", max_skipped=0.2, format=format)
    assert report["reading"]["skipped_by_reason"] == {"no class": 6}
    data = open_source(tmp_path / "out", "all")
    assert data.classes == ("cat", "guinea pig", "dog")
    assert [data.item(i).label for i in range(6)] == [2, 0, 1, 2, 2, 0]


def test_named_columns_nested_and_listed(tmp_path: Path) -> None:
    features = {
        "img": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "kind": datasets.Value("int32"),
        "more": {"prompts": datasets.List(datasets.Value("string")), "seed": datasets.Value("int64")},
    }
    more = [{"prompts": [f"a {i}", f"the {i}", ""], "seed": i} for i in range(5)]
    source = parquet(tmp_path / "in.parquet", features, img=pictures(5), kind=[4, 1, 0, 1, 2], more=more)
    columns = read_columns("caption=more.prompts, label=kind")
    rows = list(open_rows(str(source), columns=columns))
    assert [row.captions for row in rows] == [(f"a {i}", f"the {i}") for i in range(5)]
    assert [row.label for row in rows] == [4, 1, 0, 1, 2]
    written(source, tmp_path / "out", columns=columns.items(), split="all")
    data = open_source(tmp_path / "out", "all")
    assert data.item(1).captions == ("a 1", "the 1")
    assert (data.classes, data.class_names) == ((), ("0", "1", "2", "3", "4"))
    assert open_source(f"classes:{tmp_path / 'out'}", "all").item(0).label == 4


def test_pictures_in_folders_and_shards_of_others(tmp_path: Path) -> None:
    import tarfile

    folder = tmp_path / "imagefolder" / "train"
    for name, i in (("bird", 3), ("ant", 9)):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.jpg").write_bytes(jpeg(i))
    rows = open_rows(str(folder.parent))
    assert rows.classes == ("ant", "bird")
    assert {(row.label, row.read()) for row in rows} == {(0, jpeg(9)), (1, jpeg(3))}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i in range(3):
            facts = json.dumps({"caption": f"long {i}"}).encode()
            for suffix, data in (("jpg", jpeg(i)), ("txt", f"short {i}".encode()), ("json", facts)):
                member = tarfile.TarInfo(f"{i:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    assert [row.captions for row in open_rows(str(tmp_path / "0.tar"))] == [(f"short {i}",) for i in range(3)]
    named = open_rows(str(tmp_path / "0.tar"), columns={"caption": "json.caption"})
    assert [(row.captions, row.read()) for row in named] == [((f"long {i}",), jpeg(i)) for i in range(3)]


def laion(folder: Path, count: int = 8) -> Path:
    """A table as LAION publishes them: addresses, texts and scores, and no pictures."""
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    kinds = {"URL": "string", "TEXT": "string", "AESTHETIC_SCORE": "float64"}
    return parquet(
        folder / "part.parquet",
        {name: datasets.Value(kind) for name, kind in kinds.items()},
        URL=[(folder / f"{i}.jpg").as_uri() for i in range(count)],
        TEXT=[f"red {i}" for i in range(count)],
        AESTHETIC_SCORE=[None, *(6.0 + i / 10 for i in range(1, count))],
    )


def test_a_table_of_addresses_texts_and_scores(capsys: Any, tmp_path: Path) -> None:
    source = laion(tmp_path)
    assert [row.read() for row in open_rows(str(source))] == [jpeg(i) for i in range(8)]
    arguments = ("--path", str(source), "--columns", "score=AESTHETIC_SCORE", "--size", "16", "--split", "all")
    done = cli(capsys, "data", "prepare", "datasets", str(tmp_path / "out"), *arguments, "--min-score", "6.5", "--json")
    report = json.loads(done.out)
    assert report["samples"] == {"all": 3}
    assert report["reading"]["notes"]["low score"]["files"] == 5
    assert captions(open_source(tmp_path / "out", "all")) == [("red 5",), ("red 6",), ("red 7",)]
    wrong = ("data", "prepare", "datasets", str(tmp_path / "no"), "--path", str(source), "--min-score", "6")
    assert "min_score: 6 given, which takes a column of scores" in cli(capsys, *wrong, code=2).error


def test_a_table_of_addresses_without_a_split_is_refused_before_a_picture_is_fetched(
    capsys: Any, tmp_path: Path
) -> None:
    source = laion(tmp_path)
    for picture in tmp_path.glob("*.jpg"):
        picture.unlink()
    error = cli(capsys, "data", "prepare", "datasets", str(tmp_path / "out"), "--path", str(source), code=2).error
    assert f"split: 'held_out' of {source} is empty (8 samples in all); --split all takes all of them" in error
    assert not (tmp_path / "out").exists()


def test_journeydb_as_it_is_published(capsys: Any, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    (folder / "imgs" / "000").mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for i in range(4):
        (folder / "imgs" / "000" / f"{i}.jpg").write_bytes(jpeg(i))
        lines.append({"img_path": f"./000/{i}.jpg", "prompt": f"p {i} --v 5", "Task2": {"Caption": f"a thing, {i}"}})
    lines[2]["Task2"] = {}
    (folder / "train_anno.jsonl").write_text("{}\n")
    (folder / "train_anno_realease_repath.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row.read() for row in JourneyDBSource(str(folder)).open()] == [jpeg(i) for i in range(4)]
    arguments = ("--path", str(folder), "--size", "16", "--split", "all", "--json")
    report = json.loads(cli(capsys, "data", "prepare", "journeydb", str(tmp_path / "out"), *arguments).out)
    assert report["samples"] == {"all": 4}
    found = captions(open_source(tmp_path / "out", "all"))
    assert found == [("a thing, 0",), ("a thing, 1",), ("p 2 --v 5",), ("a thing, 3",)]
    wrong = cli(capsys, "data", "prepare", "journeydb", str(tmp_path / "x"), "--path", str(tmp_path / "out"), code=2)
    assert "which holds no list *_anno*.jsonl with its folder imgs" in wrong.error


def test_an_annotation_that_leaves_the_folder_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "imgs").mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    line = {"img_path": "../secret.jpg", "prompt": "a secret"}
    (tmp_path / "x_anno.jsonl").write_text(json.dumps(line) + "\n")
    (row,) = JourneyDBSource(str(tmp_path)).open()
    with pytest.raises(BadImage, match="no picture"):
        row.read()


def test_bad_rows_are_skipped_and_named(tmp_path: Path) -> None:
    features = {"image": datasets.Image(), "text": datasets.Value("string")}
    rows = pictures(30)
    rows[3], rows[4], rows[5] = {"bytes": b"%!PS-Adobe", "path": None}, None, {"bytes": jpeg(1)[:200], "path": None}  # type: ignore[call-overload]
    texts = [f"red {i}" for i in range(30)]
    texts[9] = " "
    source = parquet(tmp_path / "in.parquet", features, image=rows, text=texts)
    report = written(source, tmp_path / "out", split="all", max_skipped=0.2)
    assert {e["name"]: e["reason"] for e in report["reading"]["skipped_files"]} == {
        "row 3": "unsupported format",
        "row 4": "no picture",
        "row 5": "corrupt or truncated",
        "row 9": "no caption",
    }
    assert report["samples"] == {"all": 26}
    with pytest.raises(FailureError, match=r"4 of 30 samples cannot be used, 1 are allowed.*two-skipped\.json"):
        written(source, tmp_path / "two", split="all")
    assert not (tmp_path / "two").exists()
    assert len(json.loads((tmp_path / "two-skipped.json").read_text())["skipped_files"]) == 4


def test_a_limit_takes_the_first_of_each_split(tmp_path: Path) -> None:
    source = captioned(tmp_path / "in.parquet", 60)
    report = written(source, tmp_path / "out", limit=2)
    assert report["samples"] == {"train": 2, "held_out": 2}
    assert captions(open_source(tmp_path / "out", "train")) == [("red 0",), ("red 1",)]


def test_the_command(capsys: Any, tmp_path: Path) -> None:
    source = captioned(tmp_path / "in" / "train.parquet", 5)
    arguments = ("--path", str(source.parent), "--size", "8", "--split", "all", "--columns", "caption=caption")
    done = cli(capsys, "data", "prepare", "datasets", str(tmp_path / "out"), *arguments, "--json")
    assert json.loads(done.out)["samples"] == {"all": 5}
    wrong = cli(capsys, "data", "prepare", "datasets", "x", "--path", str(source), "--columns", "picture=a", code=2)
    assert "columns: 'picture=a' given, allowed is ROLE=COLUMN with image, caption, label, score" in wrong.error


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("in.parquet", {"columns": {"caption": "captoin"}}, "columns: caption=captoin given, .*did you mean 'caption'"),
        (
            "in.parquet",
            {"columns": {"words": "caption"}},
            "columns: 'words' given, allowed are image, caption, label, score",
        ),
        ("bare.parquet", {}, "columns: none is known as a picture; .*there are id"),
        ("mute.parquet", {}, "columns: none is known as a caption or a class; .*there are image"),
        ("in.zip", {}, "path: .*in.zip given, allowed are a folder, files in .parquet"),
        ("nobody/has-this-data-set", {}, "path: nobody/has-this-data-set could not be opened by the library datasets"),
        ("splits", {}, "path: .*splits has no split train, but test, validation"),
    ],
)
def test_unreadable_input_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    captioned(Path("in.parquet"), 2)
    parquet(Path("bare.parquet"), {"id": datasets.Value("int64")}, id=[1])
    parquet(Path("mute.parquet"), {"image": datasets.Image()}, image=pictures(1))
    captioned(Path("splits/test.parquet"), 2)
    captioned(Path("splits/validation.parquet"), 2)
    Path("in.zip").write_bytes(b"x")
    with pytest.raises(PochadeError, match=message) as caught:
        written(path, Path("out"), columns=arguments.get("columns", {}).items())
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_a_split_without_rows_is_an_error(tmp_path: Path) -> None:
    source = captioned(tmp_path / "in.parquet", 1)
    with pytest.raises(EmptySplitError, match="is empty"):
        written(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_of_datasets_go_with_it_alone(capsys: Any, tmp_path: Path) -> None:
    wrong = cli(capsys, "data", "prepare", "openmoji", str(tmp_path / "out"), "--config", "default", code=2)
    assert "config: given, but goes with the source datasets only" in wrong.error


def test_without_the_library_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(PochadeError, match=r"datasets is not installed: pip install 'pochade\[hub\]'"):
        written("someone/something", tmp_path / "out")


def test_a_hub_that_does_not_answer_is_one_attempt(silent_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", constants.ENDPOINT)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(PochadeError, match=r"^path: nobody/nothing could not be opened .*Couldn't reach"):
        open_rows("nobody/nothing")
    assert sum("nobody/nothing" in request for request in silent_hub) == 1
