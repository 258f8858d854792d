import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.data.dataset import Dataset
from pochade.data.sources.folder import ImageFolder
from pochade.errors import FailureError, PochadeError


def paint(path: Path, colour: tuple[int, int, int] = (200, 100, 0), size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def fill(folder: Path, count: int) -> Path:
    for i in range(count):
        paint(folder / f"p{i:03d}.png", (i, 255 - i, 0))
        (folder / f"p{i:03d}.txt").write_text(f"picture {i}\n")
    return folder


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_text_files_and_subfolders(tmp_path: Path):
    fill(tmp_path, 3)
    paint(tmp_path / "sub" / "deep" / "a.JPG")
    (tmp_path / "sub" / "deep" / "a.txt").write_text("\ufeffa  fox \n\n a red fox\r\na fox\n", encoding="utf-8")
    paint(tmp_path / ".hidden" / "b.png")
    data = ImageFolder(tmp_path, 8)
    assert isinstance(data, Dataset)
    assert [p.name for p in data.items] == ["p000.png", "p001.png", "p002.png", "sub/deep/a.JPG"]
    assert data.items[3].captions == ("a fox", "a red fox")
    sample = data.sample(1, rng())
    assert sample["caption"] == "picture 1"
    assert sample["name"] == "p001.png"
    assert sample["image"].shape == (3, 8, 8)
    assert torch.allclose(sample["image"][:, 0, 0], torch.tensor([1, 254, 0]) / 127.5 - 1)


def test_alternatives_are_drawn_by_the_generator_alone(tmp_path: Path):
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    data = ImageFolder(tmp_path, 8)
    drawn = [data.sample(0, rng(seed))["caption"] for seed in range(40)]
    assert set(drawn) == {"one", "two", "three"}
    assert drawn == [data.sample(0, rng(seed))["caption"] for seed in range(40)]


def test_metadata(tmp_path: Path):
    fill(tmp_path, 2)
    paint(tmp_path / "sub" / "a.png")
    rows = [
        {"file_name": "sub/a.png", "text": ["a house", "a hut"]},
        {"file_name": "p000.png", "text": "something else", "more": 1},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    data = ImageFolder(tmp_path, 8)
    assert [(p.name, p.captions) for p in data.items] == [
        ("sub/a.png", ("a house", "a hut")),
        ("p000.png", ("something else",)),
    ]


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../b.png", "..\\b.png"])
def test_metadata_must_not_leave_the_folder(tmp_path: Path, name):
    paint(tmp_path / "outside.png")
    folder = fill(tmp_path / "in", 2)
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "p000.png", "text": "x"}) + "\n" + json.dumps({"file_name": name, "text": "x"})
    )
    with pytest.raises(PochadeError, match=r"metadata.jsonl line 2.*leaves the folder"):
        ImageFolder(folder, 8)
    assert not (folder / ".pochade").exists()


def test_bad_metadata_lines_are_named(tmp_path: Path):
    folder = fill(tmp_path, 4)
    lines = [json.dumps({"file_name": f"p{i:03d}.png", "text": f"caption {i}"}) for i in range(4)]
    lines += [
        "{not json",
        '{"text": "no name"}',
        '{"file_name": 3, "text": "x"}',
        '{"file_name": "p000.png", "text": 4}',
    ]
    lines += [
        "[]",
        lines[0],
        '{"file_name": "absent.png", "text": "x"}',
        '{"file_name": "p001.png", "text": " "}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = ImageFolder(folder, 8, max_skipped=1.0)
    assert len(data) == 3  # p001.png is listed with an empty caption as well, and is left out
    assert data.report.skipped_count == 8
    reasons = data.report.to_dict()["skipped_by_reason"]
    assert reasons == {"unreadable line": 5, "listed twice": 1, "missing file": 1, "empty caption": 1}


def test_a_folder_without_captions_is_one_error_that_says_what_is_expected(tmp_path: Path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png")
    with pytest.raises(PochadeError, match=r"2 pictures but no captions: expected name.txt.*metadata.jsonl") as caught:
        ImageFolder(tmp_path, 8)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / ".pochade").exists()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_no_folder_or_no_pictures(tmp_path: Path, make):
    make(tmp_path / "data")
    with pytest.raises(PochadeError, match=r"no folder|no pictures"):
        ImageFolder(tmp_path / "data", 8)


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 8, "split": "test"}])
def test_wrong_arguments(tmp_path: Path, arguments):
    with pytest.raises(PochadeError, match=r"size: 0|split: 'test'"):
        ImageFolder(fill(tmp_path, 1), **arguments)


def test_one_percent_of_bad_files_is_reported_and_the_rest_is_used(tmp_path: Path):
    folder = fill(tmp_path, 200)
    (folder / "p010.png").write_bytes((folder / "p010.png").read_bytes()[:40])
    (folder / "p020.png").write_bytes(b"")
    (folder / "p030.txt").unlink()
    (folder / "p040.txt").write_text(" \n")
    (folder / "p050.txt").write_bytes(b"\xff\xfe\x00bad")
    (folder / "cat.gif").write_bytes(b"GIF89a")
    data = ImageFolder(folder, 8)
    assert len(data) == 195
    written = json.loads((folder / ".pochade" / "report.json").read_text())
    assert {entry["name"]: entry["reason"] for entry in written["skipped_files"]} == {
        "p010.png": "corrupt or truncated",
        "p020.png": "empty file",
        "p030.png": "no caption",
        "p040.png": "empty caption",
        "p050.png": "unreadable caption",
        "cat.gif": "unsupported format",
    }
    for index in range(len(data)):
        assert torch.isfinite(data.sample(index, rng())["image"]).all()


def test_too_many_bad_files_end_the_work(tmp_path: Path):
    folder = fill(tmp_path, 40)
    for i in range(3):
        (folder / f"p{i:03d}.png").write_bytes(b"")
    with pytest.raises(FailureError, match=r"3 of 40.*report.json") as caught:
        ImageFolder(folder, 8)
    assert caught.value.exit_code == 1
    assert len(ImageFolder(folder, 8, max_skipped=0.1)) == 37


def test_a_folder_of_broken_pictures_only(tmp_path: Path):
    fill(tmp_path, 1)
    (tmp_path / "p000.png").write_bytes(b"")
    with pytest.raises(FailureError, match=r"no usable picture"):
        ImageFolder(tmp_path, 8)


def test_the_second_start_decodes_nothing_but_what_changed(tmp_path: Path, monkeypatch):
    folder = fill(tmp_path, 20)
    (folder / "p007.png").write_bytes(b"broken")
    first = ImageFolder(folder, 8, max_skipped=0.1)
    import pochade.data.sources.captioned as module

    decoded: list[str] = []
    true_load = module.load_image

    def watched(source, **options):
        decoded.append(options["name"])
        return true_load(source, **options)

    monkeypatch.setattr(module, "load_image", watched)
    again = ImageFolder(folder, 8, max_skipped=0.1)
    assert decoded == []
    assert again.report.to_dict() == first.report.to_dict()
    paint(folder / "p007.png")
    assert len(ImageFolder(folder, 8, max_skipped=0.1)) == 20
    assert decoded == ["p007.png"]
    # Another limit of pixels makes another outcome.
    decoded.clear()
    ImageFolder(folder, 8, max_megapixels=1)
    assert len(decoded) == 20


def test_a_damaged_store_is_made_anew(tmp_path: Path):
    folder = fill(tmp_path, 3)
    ImageFolder(folder, 8)
    for content in ("{", "[1]", '{"max_megapixels": 25.0, "pictures": {"p000.png": {}}}'):
        (folder / ".pochade" / "checked.json").write_text(content)
        assert len(ImageFolder(folder, 8)) == 3


def test_a_read_only_folder_is_remembered_in_the_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = fill(tmp_path / "data", 3)
    (folder / ".pochade").write_text("in the way, as a folder that cannot be written")
    data = ImageFolder(folder, 8)
    assert data.report.path.is_relative_to(tmp_path / "cache")
    assert data.report.path.is_file()


def test_the_split_is_by_caption_and_complete(tmp_path: Path):
    folder = fill(tmp_path, 60)
    for i in range(60):
        paint(folder / f"twin{i:03d}.png")
        (folder / f"twin{i:03d}.txt").write_text(f"Picture {i}")
    parts = {split: ImageFolder(folder, 8, split=split) for split in ("train", "held_out", "all")}
    names = {split: {p.name for p in part.items} for split, part in parts.items()}
    assert names["train"] | names["held_out"] == names["all"]
    assert not names["train"] & names["held_out"]
    assert 0 < len(names["held_out"]) < 30
    assert {n.replace("twin", "p") for n in names["held_out"]} == {n for n in names["held_out"] if n[0] == "p"}


def test_an_empty_split_is_an_error(tmp_path: Path):
    with pytest.raises(PochadeError, match=r"split: 'held_out'.* is empty"):
        ImageFolder(fill(tmp_path, 1), 8, split="held_out")


def test_a_picture_that_breaks_later_is_replaced_and_named(tmp_path: Path, caplog):
    data = ImageFolder(fill(tmp_path, 10), 8)
    (tmp_path / "p004.png").unlink()
    with caplog.at_level(logging.WARNING):
        sample = data.sample(4, rng(1))
    assert "p004.png" in caplog.text
    assert sample["name"] != "p004.png"
    assert sample["caption"] == f"picture {int(sample['name'][1:4])}"
    assert data.sample(4, rng(1))["name"] == sample["name"]
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(FailureError, match=r"10 unreadable pictures in a row"):
        data.sample(0, rng())
