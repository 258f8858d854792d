from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import OpenClipArtSource, open_source
from pochade.data.sources.image_files import ImageFiles, Reading
from pochade.data.sources.openclipart import LICENCE, MAX_ALIKE, captions_of, open_openclipart
from pochade.errors import FailureError, PochadeError

CIRCLE = '<circle cx="20" cy="30" r="10" fill="#f00"/>'


def drawing(title: str = "red ball", keywords: tuple[str, ...] = (), page: str = 'width="100pt" height="75pt"') -> str:
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    about = f"<dc:title>{title}</dc:title><dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:dc="d" xmlns:rdf="r"'
    return f"<svg {page} {spaces}><metadata>{about}<dc:title>Jane Doe</dc:title></metadata>{CIRCLE}</svg>"


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def opened(folder: Path, **limits: float) -> ImageFiles:
    return open_openclipart(folder, "all", Reading(progress=False, **limits))


def test_a_drawing_fills_the_picture_whatever_its_page(tmp_path: Path):
    write(tmp_path, "toys/a.svg", drawing())
    write(tmp_path, "toys/b.svg", drawing(page='viewBox="0 0 100 75"'))
    data = opened(tmp_path)
    assert len(data) == 2
    for i in range(2):
        pixels = np.asarray(data.image(i, 50)).astype(int)
        red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
        for filled in (np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))):
            assert abs(filled[0] - 2) <= 1
            assert abs(filled[-1] - 47) <= 1
        assert (pixels[0] == 255).all()
    assert (data.item(0).captions, data.item(0).licence) == (("red ball",), LICENCE)
    assert data.identity(0) != data.identity(1)


def test_captions_are_the_title_and_its_keywords():
    head = drawing("Tea &amp; cup_1", ("unsorted", "", "kitchen", "hash(0x86)", "Kitchen ware", "tea &amp; cup 1"))
    assert captions_of(head) == ("Tea & cup 1", "Tea & cup 1, kitchen, Kitchen ware")
    assert captions_of("<svg/>") == ()
    assert captions_of(drawing(" ")) == ()


def test_what_cannot_be_drawn_is_skipped_and_named(tmp_path: Path):
    for i in range(4):
        write(tmp_path, f"{i}.svg", drawing(f"ball {i}"))
    write(tmp_path, "broken.svg", drawing("broken")[:-9])
    write(tmp_path, "empty.svg", drawing("empty").replace(CIRCLE, ""))
    write(tmp_path, "untitled.svg", f'<svg xmlns="http://www.w3.org/2000/svg">{CIRCLE}</svg>')
    write(tmp_path, "duplicates/0.svg", drawing("ball 0"))
    (tmp_path / "link.svg").symlink_to(tmp_path / "0.svg")
    with pytest.raises(FailureError, match="cannot be used"):
        opened(tmp_path)
    data = opened(tmp_path, max_skipped=0.5)
    assert [data.item(i).name for i in range(len(data))] == [f"{i}.svg" for i in range(4)]
    reasons = {entry["name"]: entry["reason"] for entry in data.report.skipped}
    assert reasons == {
        "broken.svg": "corrupt or truncated",
        "empty.svg": "nothing drawn",
        "untitled.svg": "no caption",
    }
    assert data.report.to_dict()["notes"] == {
        "link or duplicate": {"files": 2, "names": ["duplicates/0.svg", "link.svg"]}
    }


def test_a_title_of_a_whole_collection_is_thinned(tmp_path: Path):
    for i in range(3 * MAX_ALIKE):
        write(tmp_path, f"{i:03d}.svg", drawing("star"))
    data = opened(tmp_path)
    assert len(data) == MAX_ALIKE
    assert sum(data.report.notes.values()) == 2 * MAX_ALIKE


def test_prepare_writes_what_a_folder_reads(tmp_path: Path):
    for i in range(5):
        write(tmp_path / "svg", f"{i}.svg", drawing(f"ball {i}"))
    source = OpenClipArtSource(tmp_path / "svg")
    report = prepare(source, Target(out=tmp_path / "out", size=32, split="all"))
    assert report["samples"] == {"all": 5}
    again = open_source(tmp_path / "out", "all")
    assert again.image(0, 32).tobytes() == source.open("all").image(0, 32).tobytes()
    assert again.item(0).licence == LICENCE
    with Image.open(tmp_path / "out" / "preview.png") as preview:
        assert preview.width > 96


def test_a_folder_without_drawings_is_refused(tmp_path: Path):
    with pytest.raises(PochadeError, match="is no folder"):
        opened(tmp_path / "none")
    with pytest.raises(PochadeError, match="no SVG files"):
        opened(tmp_path)
