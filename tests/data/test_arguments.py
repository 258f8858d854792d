"""Data in Python with arguments of other kinds: taken, or refused by name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pochade
from pochade.data.prepare.target import Target
from pochade.data.sources import open_source, parse_source
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError


class Place(os.PathLike[str]):
    """A path that is none of ``pathlib``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"caption {i}")
    return path


def test_paths_of_any_kind_and_numbers_of_numpy_are_taken(folder: Path, tmp_path: Path) -> None:
    plain = open_source(folder, "all")
    assert open_source(Place(folder), "all").fingerprint() == plain.fingerprint()
    limits = Reading(max_megapixels=np.float32(25), max_skipped=np.float64(0.1))  # pyright: ignore[reportArgumentType]
    assert len(open_source(str(folder), "all", reading=limits)) == 3
    assert plain.image(0, np.int64(4)).size == (4, 4)  # pyright: ignore[reportArgumentType]
    target = Target(out=str(tmp_path / "out"), size=np.int64(8), limit=np.int32(2))  # pyright: ignore[reportArgumentType]
    assert (target.out, target.limit) == (tmp_path / "out", 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_source(None), "source: None given, allowed is openmoji, "),  # pyright: ignore[reportArgumentType]
        (lambda: parse_source(5), "source: 5 given, allowed is openmoji, "),  # pyright: ignore[reportArgumentType]
        (lambda: open_source("openmoji", 5), "split: 5 given, allowed are "),  # pyright: ignore[reportArgumentType]
        (lambda: open_source("synthetic:4", reading="white"), "reading: 'white' given, allowed are a Reading and None"),  # pyright: ignore[reportArgumentType]
        (lambda: Reading(background=["white"]), r"background: \['white'\] given, allowed are a colour"),  # pyright: ignore[reportArgumentType]
        (lambda: Reading(max_megapixels="25"), "max_megapixels: '25' given, more than 0 expected"),  # pyright: ignore[reportArgumentType]
        (lambda: Reading(max_skipped=None), "max_skipped: None given, a fraction from 0 to 1"),  # pyright: ignore[reportArgumentType]
        (lambda: Target(out=5), "out: 5 given, allowed is a path"),  # pyright: ignore[reportArgumentType]
        (lambda: Target(out=Path("x"), format=5), "format: 5 given, allowed are "),  # pyright: ignore[reportArgumentType]
        (lambda: Target(out=Path("x"), limit=1.5), "limit: 1.5 given, at least 1 expected"),  # pyright: ignore[reportArgumentType]
        (lambda: Target(out=Path("x"), size=np.zeros((9, 9))), r"size: array\(\[\[0\., .*given, 1 to 8192"),  # pyright: ignore[reportArgumentType]
        (lambda: pochade.generate("a fox"), "request: 'a fox' given, allowed are a GenerationRequest and an Edit"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_others_are_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(PochadeError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
