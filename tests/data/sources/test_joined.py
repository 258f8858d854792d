from pathlib import Path

import pytest
from PIL import Image

from pochade.data.dataset import Dataset
from pochade.data.sources import open_source
from pochade.errors import PochadeError


def folder(path: Path, colour: tuple[int, int, int], words: str, count: int) -> str:
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (16, 16), colour).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"{words} {i}")
    return str(path)


def captions(data: Dataset) -> list[str]:
    return [data.item(i).captions[0] for i in range(len(data))]


def test_parts_follow_each_other_as_often_as_they_are_named(tmp_path: Path):
    red, blue = folder(tmp_path / "red", (255, 0, 0), "red", 3), folder(tmp_path / "blue", (0, 0, 255), "blue", 2)
    data = open_source(f"{red}+{blue}+{red}", "all")
    assert captions(data) == ["red 0", "red 1", "red 2", "blue 0", "blue 1", "red 0", "red 1", "red 2"]
    assert data.image(4, 8).getpixel((0, 0)) == (0, 0, 255)
    assert len(data.groups()) == len({data.item(i).name for i in range(8)}) == 8
    assert [data.identity(i) for i in (0, 3)] == [open_source(part, "all").identity(0) for part in (red, blue)]
    assert data.report is not None
    assert (data.report.used, data.report.skipped_count, dict(data.report.notes)) == (8, 0, {})
    assert data.report.source == f"{red} + {blue} + {red}"
    assert data.fingerprint() != open_source(f"{red}+{red}+{blue}", "all").fingerprint()


def test_an_index_counts_from_either_end_of_the_whole():
    data = open_source("synthetic:8+synthetic:4", "all")
    assert data.item(-1) == data.item(11)
    assert data.item(-12) == data.item(0)
    for index in (12, -13):
        with pytest.raises(IndexError):
            data.item(index)


def test_drawings_keep_their_variants_together(tmp_path: Path):
    other = folder(tmp_path / "red", (255, 0, 0), "red", 3)
    data, drawings = open_source(f"{other}+openmoji", "all"), open_source("openmoji", "all")
    groups = list(data.groups().values())
    assert len(groups) == 3 + len(drawings.groups())
    assert [[i - 3 for i in indices] for indices in groups[3:]] == list(drawings.groups().values())


def test_each_part_keeps_its_split(tmp_path: Path):
    red = folder(tmp_path / "red", (255, 0, 0), "red", 30)
    for split in ("train", "held_out"):
        parts = [open_source(part, split) for part in (red, "openmoji")]
        assert captions(open_source(f"{red}+openmoji", split)) == [c for part in parts for c in captions(part)]


def test_what_cannot_be_joined_is_refused(tmp_path: Path):
    red = folder(tmp_path / "red", (255, 0, 0), "red", 3)
    with pytest.raises(PochadeError, match="several joined by"):
        open_source(f"{red}+nothing", "all")


def test_a_folder_with_a_plus_in_its_name_is_that_folder(tmp_path: Path):
    assert len(open_source(folder(tmp_path / "red+blue", (255, 0, 0), "red", 3), "all")) == 3
