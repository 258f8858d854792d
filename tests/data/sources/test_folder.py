"""Folders of pictures with captions beside them, or of one class each."""

import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from data.sources.folders import fill, names, opened, reasons, save_picture
from pochade.data.captioned import Captioned, Wording
from pochade.data.dataset import SPLITS
from pochade.data.shifted import Shifted
from pochade.data.sources import FolderSource
from pochade.data.sources.folder import open_folder
from pochade.data.sources.image_files import Reading
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.images.decode import BadImage
from pochade.training.data import ImageData


def test_text_files_and_subfolders(tmp_path: Path):
    fill(tmp_path, 3)
    save_picture(tmp_path / "sub" / "deep" / "a.JPG")
    (tmp_path / "sub" / "deep" / "a.txt").write_text("\ufeffa  fox \n\n a red fox\r\na fox\n", encoding="utf-8")
    save_picture(tmp_path / ".hidden" / "b.png")
    data = opened(tmp_path)
    assert names(data) == ["p000.png", "p001.png", "p002.png", "sub/deep/a.JPG"]
    assert data.item(3).captions == ("a fox", "a red fox")
    assert (data.item(1).captions, data.item(1).label, data.item(1).group) == (("picture 1",), None, "picture 1")
    assert data.image(1, 8).size == (8, 8)
    assert data.image(1, 8).getpixel((0, 0)) == (1, 254, 0)


def test_copies_of_a_picture_are_known(tmp_path: Path):
    fill(tmp_path, 3)
    assert opened(tmp_path).different() is None
    for i in range(3, 6):
        (tmp_path / f"p{i:03d}.png").write_bytes((tmp_path / "p000.png").read_bytes())
        (tmp_path / f"p{i:03d}.txt").write_text(f"copy {i}")
    data = opened(tmp_path)
    assert (len(data), data.different()) == (6, 3)
    assert (data.subset([0, 4, 5]).different(), data.subset([0, 1, 2]).different()) == (1, None)
    assert Shifted(data, 2).different() == Captioned(data, Wording("by me")).different() == 3


def test_without_captions_pictures_go_by_the_names_of_their_files(tmp_path: Path):
    for name in ("a/1.png", "b/1.jpg", "2_x.png"):
        save_picture(tmp_path / name)
    (tmp_path / "2_x.txt").write_text("a fox")
    data = open_folder(tmp_path, "all", classes=False, by_name=True, reading=Reading(progress=False))
    found = {data.item(i).name: (data.item(i).captions, data.item(i).group) for i in range(len(data))}
    assert found == {
        "2_x.png": (("a fox",), "a fox"),
        "a/1.png": (("a/1",), "a/1.png"),
        "b/1.jpg": (("b/1",), "b/1.jpg"),
    }
    assert data.report.skipped_count == 0
    assert data.classes == ()
    (tmp_path / "2_x.txt").unlink()
    with pytest.raises(PochadeError, match=r"3 pictures but no captions: .* pictures:FOLDER takes all of them"):
        opened(tmp_path)


def test_a_folder_without_captions_is_one_error_that_names_what_is_expected(tmp_path: Path):
    save_picture(tmp_path / "a.png")
    save_picture(tmp_path / "b.png")
    with pytest.raises(PochadeError, match=r"2 pictures but no captions: expected name.txt.*metadata.jsonl") as caught:
        opened(tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / ".pochade").exists()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_no_folder_or_no_pictures(tmp_path: Path, make):
    make(tmp_path / "data")
    with pytest.raises(PochadeError, match=r"no folder|no pictures"):
        opened(tmp_path / "data")


def test_wrong_arguments(tmp_path: Path):
    data = opened(fill(tmp_path, 1))
    with pytest.raises(PochadeError, match="size: 0"):
        data.image(0, 0)
    with pytest.raises(PochadeError, match="split: 'test'"):
        opened(tmp_path, "test")  # type: ignore[arg-type]
    for wrong in ({"background": "reddish"}, {"max_megapixels": 0}, {"max_skipped": 5}):
        with pytest.raises(PochadeError, match=rf"{next(iter(wrong))}: .* given"):
            Reading(**wrong)  # type: ignore[arg-type]


def test_one_percent_of_bad_files_is_reported_and_the_rest_is_used(tmp_path: Path):
    folder = fill(tmp_path, 200)
    (folder / "p010.png").write_bytes((folder / "p010.png").read_bytes()[:40])
    (folder / "p020.png").write_bytes(b"")
    (folder / "p030.txt").unlink()
    (folder / "p040.txt").write_text(" \n")
    (folder / "p050.txt").write_bytes(b"\x00bad\x01")
    (folder / "cat.psd").write_bytes(b"GIF89a")
    data = opened(folder)
    assert len(data) == 195
    written = json.loads((folder / ".pochade" / "report.json").read_text())
    assert {entry["name"]: entry["reason"] for entry in written["skipped_files"]} == {
        "p010.png": "corrupt or truncated",
        "p020.png": "empty file",
        "p030.png": "no caption",
        "p040.png": "empty caption",
        "p050.png": "unreadable caption",
        "cat.psd": "unsupported format",
    }
    assert all(data.image(index, 8).size == (8, 8) for index in range(len(data)))


def test_too_many_bad_files_end_the_work(tmp_path: Path):
    folder = fill(tmp_path, 40)
    for i in range(3):
        (folder / f"p{i:03d}.png").write_bytes(b"")
    with pytest.raises(FailureError, match=r"3 of 40.*report.json") as caught:
        opened(folder)
    assert caught.value.exit_code == 1
    assert len(opened(folder, max_skipped=0.1)) == 37


def test_a_folder_of_broken_pictures_only(tmp_path: Path):
    fill(tmp_path, 1)
    (tmp_path / "p000.png").write_bytes(b"")
    with pytest.raises(FailureError, match=r"no usable picture"):
        opened(tmp_path)


def test_the_second_start_decodes_nothing_but_what_changed(tmp_path: Path, monkeypatch):
    folder = fill(tmp_path, 20)
    (folder / "p007.png").write_bytes(b"broken")
    first = opened(folder, max_skipped=0.1)
    import pochade.data.sources.image_files as module

    decoded: list[str] = []
    true_load = module.load_image

    def watched(source, **options):
        decoded.append(options["name"])
        return true_load(source, **options)

    monkeypatch.setattr(module, "load_image", watched)
    again = opened(folder, max_skipped=0.1)
    assert decoded == []
    assert again.report.to_dict() == first.report.to_dict()
    save_picture(folder / "p007.png")
    assert len(opened(folder, max_skipped=0.1)) == 20
    assert decoded == ["p007.png"]
    # Another limit of pixels makes another outcome.
    decoded.clear()
    opened(folder, max_megapixels=1)
    assert len(decoded) == 20


def test_a_damaged_store_is_made_anew(tmp_path: Path):
    folder = fill(tmp_path, 3)
    opened(folder)
    for content in ("{", "[1]", '{"form": 2, "max_megapixels": 25.0, "pictures": {"p000.png": {}}}'):
        (folder / ".pochade" / "checked.json").write_text(content)
        assert len(opened(folder)) == 3


def test_a_read_only_folder_is_remembered_in_the_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = fill(tmp_path / "data", 3)
    (folder / ".pochade").write_text("in the way, as a folder that cannot be written")
    data = opened(folder)
    assert data.report.path.is_relative_to(tmp_path / "cache")
    assert data.report.path.is_file()


def test_the_split_is_by_caption_and_complete(tmp_path: Path):
    folder = fill(tmp_path, 60)
    for i in range(60):
        save_picture(folder / f"same{i:03d}.png")
        (folder / f"same{i:03d}.txt").write_text(f"Picture {i}")
    parts = {split: opened(folder, split) for split in SPLITS}
    sides = {split: set(names(part)) for split, part in parts.items()}
    assert sides["train"] | sides["held_out"] == sides["all"]
    assert not sides["train"] & sides["held_out"]
    assert 0 < len(sides["held_out"]) < 30
    assert {n.replace("same", "p") for n in sides["held_out"]} == {n for n in sides["held_out"] if n[0] == "p"}


def test_an_empty_split_is_an_error(tmp_path: Path):
    with pytest.raises(EmptySplitError, match=r"split: 'held_out'.* is empty"):
        opened(fill(tmp_path, 1), "held_out")


def test_one_caption_for_all_says_how_to_train_on_all(tmp_path: Path):
    for i in range(30):
        save_picture(tmp_path / f"{i}.png", (i, 0, 0))
        (tmp_path / f"{i}.txt").write_text("Caption 1\n")
    said = r"split: 'train' of .* is empty \(30 samples in all, of one group, 'caption 1'\)"
    with pytest.raises(EmptySplitError, match=rf"{said}$"):
        opened(tmp_path, "train")
    with pytest.raises(EmptySplitError, match=rf"{said}; data\.held_out=false takes all of them$"):
        ImageData(FolderSource(tmp_path), 32).open()
    assert len(opened(tmp_path, "all")) == 30


def test_pictures_replaced_with_their_old_size_and_time_are_read_again(tmp_path: Path):
    fill(tmp_path, 160)
    before = opened(tmp_path)
    time.sleep(0.02)  # a clock of a file system may tick in hundredths
    for i in range(0, 160, 2):
        path = tmp_path / f"p{i:03d}.png"
        status, data = path.stat(), bytearray(path.read_bytes())
        save_picture(path, (255 - i, i, 0))
        assert path.stat().st_size == len(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = opened(tmp_path)
    assert [before.identity(i) != after.identity(i) for i in range(160)] == [i % 2 == 0 for i in range(160)]
    (tmp_path / "p000.txt").write_text("another")
    assert len({before.fingerprint(), after.fingerprint(), opened(tmp_path).fingerprint()}) == 3


def test_a_picture_that_breaks_later_is_named(tmp_path: Path):
    data = opened(fill(tmp_path, 10))
    (tmp_path / "p004.png").unlink()
    with pytest.raises(BadImage, match=r"p004.png: unreadable"):
        data.image(4, 8)


def test_every_file_is_used_or_named(tmp_path: Path):
    fill(tmp_path, 40)
    for name in ("a.psd", "b.JXL", "notes.md", ".DS_Store", "lonely.txt", "p001.caption"):
        (tmp_path / name).write_text("x")
    save_picture(tmp_path / "c.jfif")
    (tmp_path / "c.jfif").rename(tmp_path / "d.JFIF")
    (tmp_path / "d.txt").write_text("a jpeg by another name")
    save_picture(tmp_path / ".cache" / "x.png")
    data = opened(tmp_path)
    assert "d.JFIF" in names(data)
    assert reasons(data) == {"a.psd": "unsupported format", "b.JXL": "unsupported format"}
    notes = data.report.to_dict()["notes"]
    assert {what: note["names"] for what, note in notes.items()} == {
        "hidden file": [".DS_Store"],
        "hidden folder": [".cache"],
        "file that is no picture, caption or list": ["notes.md"],
        "caption file without a picture": ["lonely.txt"],
        "second caption file of a picture": ["p001.caption"],
    }
    assert data.report.notes["hidden file"] == 1
    named = sum(note["files"] for note in notes.values()) + len(data) + 2
    assert named == sum(1 for p in tmp_path.rglob("*") if p.is_file() and ".pochade" not in p.parts) - 40 - 1


@pytest.mark.parametrize("name", ["p.txt", "p.caption", "p.png.txt", "p.TXT"])
def test_captions_are_found_by_their_usual_names(tmp_path: Path, name: str):
    save_picture(tmp_path / "p.png")
    (tmp_path / name).write_text("a plate")
    assert opened(tmp_path).item(0).captions == ("a plate",)


def test_avif_is_read_where_pillow_reads_it(tmp_path: Path):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (16, 16), (200, 40, 40)).save(tmp_path / "a.avif")
    (tmp_path / "a.txt").write_text("a red plate")
    red, green, _ = opened(tmp_path).image(0, 8).getpixel((4, 4))
    assert abs(red - 200) < 12
    assert abs(green - 40) < 12


@pytest.mark.parametrize(
    ("data", "caption", "note"),
    [
        ("un café crème".encode("latin-1"), "un café crème", "caption in Latin-1, not UTF-8"),
        ("“quoted” – café".encode("cp1252"), "“quoted” – café", "caption in Latin-1, not UTF-8"),
        ("ein Café".encode("utf-16"), "ein Café", "caption in UTF-16"),
        ("\ufeffcafé".encode(), "café", None),
    ],
)
def test_captions_in_other_encodings_are_read_and_noted(tmp_path: Path, data: bytes, caption: str, note: str | None):
    save_picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(data)
    opened_ = opened(tmp_path)
    assert opened_.item(0).captions == (caption,)
    assert list(opened_.report.notes) == ([note] if note else [])


def test_a_caption_file_in_another_spelling_is_found_and_noted(tmp_path: Path):
    save_picture(tmp_path / "IMG_1.PNG")
    (tmp_path / "img_1.txt").write_text("a plate")
    data = opened(tmp_path)
    assert data.item(0).captions == ("a plate",)
    assert data.report.notes == {"found by a name in another spelling": 1}


@pytest.mark.parametrize("folders", [("train", "test"), ("10_sks dog", "1_dog")])
def test_folders_that_are_no_classes_are_not_taken_for_them(tmp_path: Path, folders: tuple[str, str]):
    for folder in folders:
        for i in range(3):
            save_picture(tmp_path / folder / f"{i}.png")
    with pytest.raises(PochadeError, match="6 pictures but no captions"):
        opened(tmp_path)
    if folders[0] != "train":
        assert opened(tmp_path, classes=True).classes == ("10_sks dog", "1_dog")


def test_one_caption_means_that_the_folder_has_captions(tmp_path: Path):
    for folder in ("cats", "dogs"):
        for i in range(3):
            save_picture(tmp_path / folder / f"{i}.png")
    assert opened(tmp_path).classes == ("cats", "dogs")
    (tmp_path / "cats" / "0.txt").write_text("a cat")
    with pytest.raises(
        FailureError, match=r"5 of 6 samples cannot be used.* 5 no caption \(cats/1.png, cats/2.png, dogs"
    ):
        opened(tmp_path)
    data = opened(tmp_path, classes=True)
    assert [data.item(i).label for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert data.stored(0).captions == ("a cat",)


@pytest.mark.parametrize("caption", ["cats/0.txt", "captions/0.txt", "0.caption"])
def test_classes_are_not_guessed_where_a_picture_has_a_caption_file(tmp_path: Path, caption: str):
    for folder in ("cats", "dogs"):
        for i in range(3):
            save_picture(tmp_path / folder / f"{i}.png")
    (tmp_path / "README.txt").write_text("of no picture")
    assert opened(tmp_path).classes == ("cats", "dogs")
    (tmp_path / caption).parent.mkdir(exist_ok=True)
    (tmp_path / caption).write_text("\n")
    with pytest.raises(PochadeError, match=r"holds 6 pictures but no captions"):
        opened(tmp_path)


def test_classes_may_lie_below_the_splits(tmp_path: Path):
    for side in ("train", "val"):
        for name in ("ant", "bee"):
            for i in range(2):
                save_picture(tmp_path / side / name / f"{i}.png")
    data = opened(tmp_path, "held_out")
    assert (data.classes, [data.item(i).label for i in range(4)]) == (("ant", "bee"), [0, 0, 1, 1])


def test_all_that_is_skipped_is_counted_before_the_work_ends(tmp_path: Path):
    fill(tmp_path, 20)
    for i in range(6):
        (tmp_path / f"{i}.psd").write_bytes(b"8BPS")
    (tmp_path / "p007.png").write_bytes(b"")
    with pytest.raises(
        FailureError,
        match=r"7 of 26 .* 1 are allowed.*1 empty file \(p007.png\), 6 unsupported format \(0.psd, .*5.psd: .psd\)",
    ):
        opened(tmp_path)
    written = json.loads((tmp_path / ".pochade" / "report.json").read_text())
    assert [entry["name"] for entry in written["skipped_files"]] == [*(f"{i}.psd" for i in range(6)), "p007.png"]


def test_identities_are_of_the_bytes_alone(tmp_path: Path):
    one, other = fill(tmp_path / "a", 5), fill(tmp_path / "b" / "c", 5)
    first, second = opened(one), opened(other)
    assert [first.identity(i) for i in range(5)] == [second.identity(i) for i in range(5)]
    assert first.fingerprint() == second.fingerprint()
    assert len({first.identity(i) for i in range(5)}) == 5
    save_picture(one / "p002.png", (9, 9, 9))
    changed = opened(one)
    assert [changed.identity(i) == first.identity(i) for i in range(5)] == [True, True, False, True, True]
    assert changed.fingerprint() != first.fingerprint()
    (other / "p003.txt").write_text("another caption")
    recaptioned = opened(other)
    assert [recaptioned.identity(i) for i in range(5)] == [first.identity(i) for i in range(5)]
    assert recaptioned.fingerprint() != first.fingerprint()


def test_what_is_transparent_stands_on_the_background(tmp_path: Path):
    for i in range(3):
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"nothing {i}")

    def colours(background: str) -> list[object]:
        data = open_folder(tmp_path, "all", reading=Reading(background, progress=False))
        return [data.image(i, 8).getpixel((0, 0)) for i in range(3)]

    assert colours("white") == [(255, 255, 255)] * 3
    assert colours("#ff8800") == [(255, 136, 0)] * 3
    random = colours("random")
    assert len(set(random)) == 3
    assert random == colours("random")


def test_names_of_odd_bytes_are_read(tmp_path: Path):
    fill(tmp_path, 2)
    odd = tmp_path.joinpath(b"caf\xe9.png".decode("utf-8", "surrogateescape"))
    try:
        save_picture(odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    odd.with_suffix(".txt").write_text("a cup")
    data = opened(tmp_path)
    assert data.item(0).name == "caf\ufffd.png"
    assert data.image(0, 8).size == (8, 8)
    assert data.fingerprint() == opened(tmp_path).fingerprint()


def test_links_are_followed_once(tmp_path: Path):
    fill(tmp_path / "real", 3)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert names(opened(tmp_path / "in")) == [f"link/p{i:03d}.png" for i in range(3)]


def test_dimensions_are_those_of_the_upright_picture(tmp_path: Path):
    wide = Image.new("RGB", (600, 400), "teal")
    turned = Image.Exif()
    turned[0x0112] = 6
    wide.save(tmp_path / "a.jpg")
    wide.save(tmp_path / "b.jpg", exif=turned)
    wide.save(tmp_path / "c.png", exif=turned)
    Image.new("RGB", (7, 31)).save(tmp_path / "d.png")
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(name)
    for _ in range(2):  # decoded, then remembered
        data = opened(tmp_path)
        assert [data.dimensions(i) for i in range(4)] == [(600, 400), (400, 600), (400, 600), (7, 31)]
