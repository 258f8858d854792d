from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pochade.data.cache.latents import fingerprint
from pochade.errors import PochadeError
from pochade.recipes.sources import as_pictures, open_images
from pochade.recipes.stages import ImageData


def folder(path: Path, colour: tuple[int, int, int], words: str, count: int) -> str:
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (16, 16), colour).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"{words} {i}")
    return str(path)


def test_parts_follow_each_other_as_often_as_they_are_named(tmp_path: Path):
    red, blue = folder(tmp_path / "red", (255, 0, 0), "red", 3), folder(tmp_path / "blue", (0, 0, 255), "blue", 2)
    data = open_images(ImageData(f"{red}+{blue}+{red}", 16, held_out=False))
    assert len(data) == 8
    samples = [data.sample(i, np.random.default_rng(0)) for i in range(8)]
    expected = ["red 0", "red 1", "red 2", "blue 0", "blue 1", "red 0", "red 1", "red 2"]
    assert [sample["caption"] for sample in samples] == expected
    assert [data.caption(i) for i in range(8)] == expected
    assert [float(sample["image"][0, 0, 0]) for sample in samples] == [1, 1, 1, -1, -1, 1, 1, 1]
    pictures = as_pictures(data)
    assert [pictures.captions(i)[0] for i in range(len(pictures))] == expected
    assert [pictures.group(i) for i in range(8)] == list(range(8))
    assert pictures.label(4) == -1
    assert pictures.image(4).getpixel((0, 0)) == (0, 0, 255)
    assert fingerprint(pictures) != fingerprint(as_pictures(open_images(ImageData(red, 16, held_out=False))))


def test_drawings_keep_their_variants_together(tmp_path: Path):
    other = folder(tmp_path / "red", (255, 0, 0), "red", 3)
    data = open_images(ImageData(f"{other}+openmoji", 32, held_out=False))
    pictures = as_pictures(data)
    groups = {pictures.group(i) for i in range(len(pictures))}
    assert len(groups) == len(data)
    assert {pictures.group(i) for i in range(3)} == {0, 1, 2}
    sample = data.sample(3, np.random.default_rng(0))
    assert sorted(sample) == ["caption", "image", "name"]


def test_what_cannot_be_joined_is_refused(tmp_path: Path):
    red = folder(tmp_path / "red", (255, 0, 0), "red", 3)
    with pytest.raises(PochadeError, match="several joined by"):
        open_images(ImageData(f"{red}+nothing", 16, held_out=False))


def test_a_folder_with_a_plus_in_its_name_is_that_folder(tmp_path: Path):
    red = folder(tmp_path / "red+blue", (255, 0, 0), "red", 3)
    assert len(open_images(ImageData(red, 16, held_out=False))) == 3
