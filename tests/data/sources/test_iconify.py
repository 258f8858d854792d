import json
from pathlib import Path

import numpy as np
import pytest

from data.sources.iconify_sets import disc, write_folder, write_packed
from pochade.data.sources.iconify import find_sets, read_set
from pochade.data.sources.openmoji import on_colour
from pochade.data.sources.svg import rasterise
from pochade.errors import PochadeError

WHITE = (255, 255, 255)


def middle_of_red(svg: str) -> tuple[float, float]:
    pixels = on_colour(rasterise(svg, 64), WHITE).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
    return float(columns.mean()) / 64, float(rows.mean()) / 64


def test_a_packed_package_and_a_folder_give_the_same_set(tmp_path: Path) -> None:
    icons = {"red-disc": disc(), "gone": disc(hidden=True)}
    packed, folder = write_packed(tmp_path, "noto", icons), write_folder(tmp_path, "noto", icons)
    one, other = read_set(packed), read_set(folder)
    assert (one.prefix, one.title, one.licence, one.author) == ("noto", "Noto", "Apache-2.0", "Jane Doe")
    assert one.drawings == other.drawings
    assert list(one.drawings) == ["red-disc"]
    assert (one.file, other.file) == (packed, folder / "icons.json")


def test_sets_are_found_in_folders_first_and_of_packages_the_highest_version_is_taken(tmp_path: Path) -> None:
    write_packed(tmp_path, "noto", {}, "1.2.9")
    new = write_packed(tmp_path, "noto", {}, "1.2.10")
    write_packed(tmp_path, "noto-v1", {}, "9.0.0")
    assert find_sets(tmp_path, ["noto"]) == {"noto": new}
    folder = write_folder(tmp_path, "noto", {})
    assert find_sets(tmp_path, ["noto"]) == {"noto": folder}


def test_missing_sets_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    write_packed(tmp_path, "noto", {})
    with pytest.raises(PochadeError) as error:
        find_sets(tmp_path, ["noto", "twemoji", "emojione"])
    message = str(error.value)
    assert "lacks 2 of 3" in message
    assert f"npm install --prefix {tmp_path} @iconify-json/twemoji @iconify-json/emojione" in message
    assert "\n" not in message
    (tmp_path / "my sets").mkdir()
    with pytest.raises(PochadeError, match=r"--prefix '.*my sets' @iconify-json/noto fetches"):
        find_sets(tmp_path / "my sets", ["noto"])
    with pytest.raises(PochadeError, match=r"sets: '\.\./noto' given"):
        find_sets(tmp_path, ["../noto"])


def test_what_is_no_set_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_packed(tmp_path, "noto", {"a": disc()})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PochadeError, match="is no icon set"):
        read_set(path)
    folder = write_folder(tmp_path, "twemoji", {"a": disc()})
    (folder / "info.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(PochadeError, match="it has no 'license'"):
        read_set(folder)


def test_drawings_are_centred_in_a_square_and_turned_as_the_set_says(tmp_path: Path) -> None:
    side = '<rect x="0" y="0" width="4" height="16" fill="#f00"/>'
    icons = {
        "plain": {"body": side},
        "wide": {"body": side, "width": 32},
        "moved": {"body": side, "left": -6},
        "turned": {"body": side, "rotate": 1},
        "mirrored": {"body": side, "hFlip": True},
        "down": {"body": side, "rotate": 1, "vFlip": True},
    }
    drawn = read_set(write_folder(tmp_path, "noto", icons, width=16, height=16)).drawings
    expected = {
        "plain": (0.125, 0.5),
        "wide": (2 / 32, 0.5),
        "moved": (8 / 16, 0.5),
        "turned": (0.5, 0.125),
        "mirrored": (0.875, 0.5),
        "down": (0.5, 0.125),
    }
    for name, middle in expected.items():
        assert middle_of_red(drawn[name]) == pytest.approx(middle, abs=0.02), name


def test_a_damaged_drawing_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    icons = {"good": disc(), "flat": disc(width=0), "bodiless": {"width": 16}, "none": None}
    found = read_set(write_folder(tmp_path, "noto", icons))
    assert list(found.drawings) == ["good"]
    assert list(found.damaged) == ["flat", "bodiless", "none"]
    assert found.damaged["flat"] == "ValueError: a drawing of 0 by 16"
    assert found.damaged["bodiless"] == "it has no 'body'"


def test_aliases_that_turn_a_drawing_are_drawings_and_second_names_are_not(tmp_path: Path) -> None:
    side = '<rect x="0" y="0" width="4" height="16" fill="#f00"/>'
    aliases = {
        "other-name": {"parent": "left"},
        "right": {"parent": "left", "hFlip": True},
        "top": {"parent": "left", "rotate": 1},
        "left-again": {"parent": "mirrored", "hFlip": True},
        "lost": {"parent": "nothing", "hFlip": True},
    }
    icons = {"left": {"body": side}, "mirrored": {"body": side, "hFlip": True}}
    folder = write_folder(tmp_path, "noto", icons, width=16, height=16, aliases=aliases)
    drawn = read_set(folder).drawings
    assert list(drawn) == ["left", "mirrored", "right", "top", "left-again"]
    for name, middle in {"right": (0.875, 0.5), "top": (0.5, 0.125), "left-again": (0.125, 0.5)}.items():
        assert middle_of_red(drawn[name]) == pytest.approx(middle, abs=0.02), name
