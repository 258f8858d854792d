"""OpenMoji beside small icon sets in the form of the packages."""

import json
from pathlib import Path

import numpy as np
import pytest

from cli.run import cli
from data.sources.iconify_sets import disc, write_folder, write_packed
from pochade.data.dataset import Dataset, is_held_out
from pochade.data.sources import DrawingsSource, FolderSource, open_source
from pochade.data.sources.drawing_names import ALIASES
from pochade.data.sources.drawings import STYLES, captions_of, is_composed, key_of, matched
from pochade.data.sources.openmoji import SKIN_TONE_WORDS, all_drawings
from pochade.errors import PochadeError

NAMES = ["red-apple", "fox", "hot-dog", "sailboat", "guitar", "rocket", "house", "butterfly", "snowman", "anchor"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    concepts = [d for d in all_drawings() if not SKIN_TONE_WORDS.search(d.name)]
    names = [d.name.casefold().replace(" ", "-") for d in concepts if d.name.replace(" ", "").isalpha()][:150]
    extra = {
        "flag-for-france": disc("00f"),
        "flag-italy": disc("0a0"),
        "switzerland": disc("f00"),
        "penguin-2": disc("112"),
        "robot-face-1": disc("999"),
        "womans-boot": disc("421"),
        "phoenix-bird": disc("f40"),
        "man-pouting-1": disc("fd0"),
        "flag-for-flag-denmark": disc(),
        "fox-medium-skin-tone": disc(),
        "fox-medium-dark": disc(),
        "police-car-light": disc("e00"),
        "bedroom-dark": disc("222"),
        "direct-hit": disc("d11"),
        "dizzy-face": disc("fc1"),
        "bodiless": {},
        "input-latin-letters": disc(),
        "starry-squid": disc("808"),
        "gone": disc(hidden=True),
        "empty": {"body": "<g/>"},
    }
    write_packed(
        folder, "noto", {name: disc(f"{i:03x}") for i, name in enumerate(dict.fromkeys(NAMES + names))} | extra
    )
    write_folder(folder, "game-icons", {name: disc("111") for name in NAMES}, width=16, height=16)
    return folder


@pytest.fixture(scope="module")
def everything(sets: Path) -> Dataset:
    return open_source(DrawingsSource(sets, ("openmoji", "noto", "game-icons")), "all", progress=False)


def by_name(data: Dataset) -> dict[str, int]:
    return {data.item(i).name: i for i in range(len(data))}


def test_names_are_matched_to_those_of_openmoji(everything: Dataset) -> None:
    found = by_name(everything)
    openmoji = {d.name: d for d in all_drawings()}
    for name, style, same in (
        ("noto/red-apple", "noto", "red apple"),
        ("noto/flag-for-france", "noto", "flag of France"),
        ("noto/flag-italy", "noto", "flag of Italy"),
        ("noto/switzerland", "noto", "flag of Switzerland"),
        ("noto/penguin-2", "noto", "penguin"),
        ("noto/robot-face-1", "noto", "robot"),
        ("noto/womans-boot", "noto", "woman's boot"),
        ("noto/phoenix-bird", "noto", "phoenix"),
        ("noto/direct-hit", "noto", "bullseye"),
        ("noto/dizzy-face", "noto", "face with crossed-out eyes"),
        ("noto/police-car-light", "noto", "police car light"),
        ("game-icons/fox", "game icons", "fox"),
    ):
        item, drawing = everything.item(found[name]), openmoji[same]
        assert item.captions[0] == f"{drawing.name}, {style} style"
        assert item.caption == f"{', '.join((drawing.name, *drawing.keywords))}, {style} style"
        assert item.group == f"{style}/{drawing.concept}"
    squid = everything.item(found["noto/starry-squid"])
    assert (squid.captions[0], squid.group) == ("starry squid, noto style", "noto/starry squid")
    assert everything.item(found["noto/man-pouting-1"]).group == "noto/pouting"
    assert {everything.item(i).licence for i in found.values()} == {"CC-BY-SA-4.0", "Apache-2.0", "MIT"}


def test_what_is_left_out_is_reported(everything: Dataset) -> None:
    found, report = by_name(everything), everything.report
    assert report is not None
    left_out = {"flag-for-flag-denmark", "fox-medium-skin-tone", "fox-medium-dark", "input-latin-letters"}
    assert not {f"noto/{name}" for name in left_out} & set(found)
    assert "noto/bedroom-dark" in found  # there is no other bedroom of which it is a shade
    assert report.notes["drawn twice"] == report.notes["input symbol"] == 1
    tones = sum(bool(SKIN_TONE_WORDS.search(d.name)) for d in all_drawings())
    assert report.notes["skin tone"] == tones + 2
    assert report.noted("skin tone").startswith("openmoji/1F385-1F3FB")
    assert report.notes["name that OpenMoji does not have"] == 3
    skipped = [(entry["name"], entry["reason"]) for entry in report.skipped]
    assert skipped == [("noto/bodiless", "corrupt or truncated"), ("noto/empty", "nothing drawn")]
    assert "noto/gone" not in found


def test_a_concept_is_held_out_in_every_style_and_a_pair_in_one(sets: Path, everything: Dataset) -> None:
    parts = {
        split: [data.item(i) for i in range(len(data))]
        for split in ("train", "held_out", "composed")
        for data in (open_source(DrawingsSource(sets, ("openmoji", "noto", "game-icons")), split, progress=False),)  # pyright: ignore[reportArgumentType]
    }
    pairs = {split: {tuple(item.group.split("/", 1)) for item in items} for split, items in parts.items()}
    concepts = {split: {concept for _, concept in found} for split, found in pairs.items()}
    assert sum(map(len, parts.values())) == len(everything)
    assert all(item.split == split for split, items in parts.items() for item in items)
    assert all(map(is_held_out, concepts["held_out"]))
    assert not any(map(is_held_out, concepts["train"] | concepts["composed"]))
    other_names = {"flag of Switzerland", "penguin", "robot", "woman's boot", "phoenix", "pouting"}
    assert {("noto", concept) for concept in other_names} <= pairs["held_out"]
    assert all(is_composed(*pair) for pair in pairs["composed"])
    assert not pairs["composed"] & pairs["train"]
    assert 0.02 < len(pairs["composed"]) / (len(pairs["composed"]) + len(pairs["train"])) < 0.06


def test_pairs_that_no_other_set_trains_are_named(everything: Dataset) -> None:
    """Of one set alone each composed pair is of a concept that is not seen."""
    what = "composed, though no other of these sets trains the concept"
    alone = open_source("drawings::sets=openmoji", "composed", progress=False)
    assert alone.report is not None
    assert everything.report is not None
    assert alone.report.notes[what] == len(alone)
    assert 0 < everything.report.notes[what] < len(alone)


def test_four_of_five_captions_name_the_style_and_hold_some_of_the_words() -> None:
    captions = captions_of("red apple", ("fruit", "food"), "noto", "noto/red-apple")
    assert captions[:2] == ("red apple, noto style", "red apple, fruit, food, noto style")
    assert [caption.endswith(", noto style") for caption in captions] == [True] * 4 + [False]
    for caption in captions[2:]:
        words = caption.removesuffix(", noto style").split(", ")
        assert "red apple" in words
        assert set(words) <= {"red apple", "fruit", "food"}
    drawn = {captions_of("red apple", ("fruit", "food"), "noto", str(key)) for key in range(30)}
    assert len(drawn) > 10


def test_pixels_are_those_of_the_set_on_the_background(everything: Dataset) -> None:
    pixels = np.asarray(everything.image(by_name(everything)["noto/flag-for-france"], 64))
    assert (pixels[0] == 255).all()
    assert pixels[32, 32].tolist() == [0, 0, 255]


def test_the_command_writes_all_parts_and_a_copy_keeps_them_out_of_training(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"drawings:{sets}:sets=openmoji,noto,game-icons"
    said: dict[str, str] = {}
    for split in ("both", "composed"):
        out = str(tmp_path / split)
        command = ("data", "prepare", source, out, "--size", "16", "--split", split, "--format", "folder")
        said[split] = cli(capsys, *command).out
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    written = json.loads((tmp_path / "composed" / "report.json").read_text())["samples"]["composed"]
    assert report["composed"] == written
    assert f"{written} composed are not written, which --split composed writes" in said["both"]
    assert "not written" not in said["composed"]
    assert report["reading"]["notes"]["drawn twice"]["files"] == 1
    copy = open_source(FolderSource(tmp_path / "composed" / "composed"), "all", progress=False)
    assert {copy.item(i).split for i in range(len(copy))} == {"held_out"}
    kept = open_source(FolderSource(tmp_path / "both"), "train", progress=False)
    assert kept.item(0).licence == "CC-BY-SA-4.0"


def test_missing_packages_are_named_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sets").mkdir()
    command = ("data", "prepare", "drawings", str(tmp_path / "out"), "--path", str(tmp_path / "sets"))
    error = cli(capsys, *command, code=2).error
    assert "npm install --prefix" in error
    assert "\n" not in error
    assert all(f"@iconify-json/{name}" in error for name in STYLES)
    assert not (tmp_path / "out").exists()
    with pytest.raises(PochadeError, match="path: nowhere is no folder"):
        open_source("drawings:nowhere")
    with pytest.raises(PochadeError, match="'composed' given, which openmoji does not have"):
        open_source("openmoji", "composed")


def test_every_alias_names_a_drawing_of_openmoji() -> None:
    named = {key_of(drawing.name): drawing for drawing in all_drawings()}
    for name, meant in ALIASES.items():
        assert key_of(name) not in named
        assert matched(name, named) is named[key_of(meant)]
    assert key_of("flag of Côte d’Ivoire") == "flag-of-cote-divoire"
    assert key_of("flag of St. Kitts & Nevis") == "flag-of-st-kitts-and-nevis"
