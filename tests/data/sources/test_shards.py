import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pochade.data.dataset import Split
from pochade.data.prepare.writer import Record, picture_record, write_shards
from pochade.data.sources import open_source
from pochade.data.sources.image_files import ImageFiles, Reading
from pochade.data.sources.shards import NO_GROUP, open_shards
from pochade.errors import FailureError, PochadeError


def png(value: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, format)
    return buffer.getvalue()


def records(count: int) -> list[Record]:
    return [picture_record(f"k{i:04d}", png(i), ".png", [f"grey {i}", f"shade {i}"]) for i in range(count)]


def opened(path: Path | str, split: Split = "all", classes: bool | None = None, **limits: float) -> ImageFiles:
    return open_shards(Path(path), split, classes=classes, reading=Reading(progress=False, **limits))


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def level(data: ImageFiles, index: int) -> int:
    """The grey of a picture of one grey."""
    return int(np.asarray(data.image(index, 8)).mean().round())


def captions(data: ImageFiles) -> list[tuple[str, ...]]:
    return [data.item(i).captions for i in range(len(data))]


def reasons(data: ImageFiles) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in data.report.skipped}


def test_what_is_written_is_read(tmp_path: Path):
    index = write_shards(records(25), tmp_path, samples_per_shard=10)
    assert [s["samples"] for s in index["shards"]] == [10, 10, 5]
    assert json.loads((tmp_path / "index.json").read_text()) == index
    for shard in index["shards"]:
        data = (tmp_path / shard["file"]).read_bytes()
        assert len(data) == shard["bytes"]
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
    data = opened(tmp_path)
    assert len(data) == 25
    for i in (24, 0, 13):
        assert level(data, i) == i
        assert data.item(i).captions == (f"grey {i}", f"shade {i}")
    assert data.item(13).name == "000001.tar/k0013.png"
    assert data.dimensions(13) == (8, 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".pochade",
        "000000.tar",
        "000001.tar",
        "000002.tar",
        "index.json",
    ]


def test_equal_records_give_equal_bytes(tmp_path: Path):
    assert write_shards(records(5), tmp_path / "a") == write_shards(records(5), tmp_path / "b")


@pytest.fixture
def webdataset(monkeypatch):
    """The library as WDS_SECURE=1 sets it up: it then opens no address by itself, only open files."""
    monkeypatch.setenv("WDS_SECURE", "1")
    module = pytest.importorskip("webdataset")
    monkeypatch.setattr(module.utils, "enforce_security", True)
    return module


def test_webdataset_reads_what_we_wrote(tmp_path: Path, webdataset):
    write_shards(records(12), tmp_path, samples_per_shard=5)
    samples = []
    for path in sorted(tmp_path.glob("*.tar")):
        with path.open("rb") as stream:
            files = webdataset.tariterators.tar_file_expander([{"url": path.name, "stream": stream}])
            samples += list(webdataset.tariterators.group_by_keys(files))
    assert [s["__key__"] for s in samples] == [f"k{i:04d}" for i in range(12)]
    assert samples[7]["png"] == png(7)
    assert json.loads(samples[7]["json"]) == {"text": ["grey 7", "shade 7"]}


def test_we_read_what_webdataset_wrote(tmp_path: Path, webdataset):
    for shard in range(3):
        path = tmp_path / f"data-{shard:06d}.tar"
        with path.open("wb") as stream, webdataset.TarWriter(stream) as writer:
            for i in range(4 * shard, min(10, 4 * shard + 4)):
                image = Image.new("RGB", (8, 8), (i, i, i))
                text = {"txt": f"grey {i}"} if i % 2 else {"json": {"caption": f"grey {i}", "width": 8}}
                writer.write({"__key__": f"dir/s{i:03d}", "png": image, "cls": i, **text})
    data = opened(f"{tmp_path}/data-{{000000..000002}}.tar")
    assert [level(data, i) for i in range(10)] == list(range(10))
    assert captions(data) == [(f"grey {i}",) for i in range(10)]
    assert len(opened(f"{tmp_path}/data-*.tar")) == 10
    assert len(opened(tmp_path / "data-000002.tar")) == 2


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_and_other_members_are_never_opened(tmp_path: Path):
    canary = tmp_path / "executed"
    bad = pickle.dumps(Payload(canary))
    folder = tmp_path / "shards"
    folder.mkdir()
    members = {"a.png": png(1), "a.txt": b"one", "a.pkl": bad, "a.pyd": bad, "a.pth": bad, "b.pkl": bad}
    make_tar(folder / "0.tar", members)
    data = opened(folder)
    assert len(data) == 1
    data.image(0, 8)
    assert data.report.notes == {
        f"other members (.{suffix})": n for suffix, n in (("pkl", 2), ("pyd", 1), ("pth", 1))
    } | {NO_GROUP: 1}
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "x/../../a.png"])
def test_member_names_that_leave_the_folder_are_refused(tmp_path: Path, name):
    make_tar(tmp_path / "0.tar", {"b.png": png(1), "b.txt": b"b", name: png(1)})
    with pytest.raises(PochadeError, match=r"0.tar: the member name .* leaves the folder"):
        opened(tmp_path)


def test_links_are_not_followed(tmp_path: Path):
    make_tar(tmp_path / "0.tar", {"a.png": png(1), "a.txt": b"a"})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "b.txt"), (tarfile.LNKTYPE, "c.txt")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/hostname"
            tar.addfile(link)
    assert captions(opened(tmp_path)) == [("a",)]


def test_pairs_that_are_incomplete_are_named(tmp_path: Path):
    members: dict[str, bytes] = {}
    for i in range(100):
        members |= {f"{i}.png": png(i), f"{i}.txt": f"grey {i}".encode()}
    del members["7.txt"]
    members["8.txt"] = b"\x00\x01"
    members |= {"9.jpg": png(9, "JPEG"), "10.png": png(10)[:50], "11.png": b""}
    make_tar(tmp_path / "0.tar", members)
    data = opened(tmp_path)
    assert len(data) == 96
    assert reasons(data) == {
        "0.tar/7.png": "no caption",
        "0.tar/8.png": "no caption",
        "0.tar/9.jpg": "second picture of a sample",
        "0.tar/10.png": "corrupt or truncated",
        "0.tar/11.png": "empty file",
    }


def member_end(path: Path, name: str) -> int:
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
        return member.offset_data + -(-member.size // 512) * 512


@pytest.mark.parametrize("cut", ["within a picture", "within a caption", "between samples", "between pairs", "empty"])
def test_a_truncated_shard_is_named_with_the_samples_lost(tmp_path: Path, cut):
    write_shards(records(40), tmp_path, samples_per_shard=10)
    path = tmp_path / "000002.tar"
    end, left = {
        "within a picture": (member_end(path, "k0023.json") + 520, 4),
        "within a caption": (member_end(path, "k0023.png") + 515, 3),
        "between samples": (member_end(path, "k0023.json"), 4),
        "between pairs": (member_end(path, "k0023.png"), 3),
        "empty": (0, 0),
    }[cut]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(FailureError, match=r"truncated shard \(000002.tar: .*report.json"):
        opened(tmp_path)
    data = opened(tmp_path, max_skipped=0.3)
    assert len(data) == 30 + left
    [entry] = data.report.skipped
    assert entry["name"] == "000002.tar"
    assert entry["samples"] == 10 - left
    assert f"lost {10 - left} of 10 samples" in entry["detail"]


@pytest.mark.parametrize("end", ["between samples", "within a picture"])
def test_a_truncated_shard_without_an_index_is_noticed(tmp_path: Path, end):
    write_shards(records(10), tmp_path)
    path = tmp_path / "000000.tar"
    path.write_bytes(path.read_bytes()[: member_end(path, "k0005.json") + (520 if end == "within a picture" else 0)])
    (tmp_path / "index.json").unlink()
    data = opened(tmp_path)
    assert len(data) == 6
    assert [entry["reason"] for entry in data.report.skipped] == ["truncated shard"]


def test_a_changed_byte_is_found_by_the_hash(tmp_path: Path):
    write_shards(records(40), tmp_path, samples_per_shard=10)
    path = tmp_path / "000001.tar"
    data = bytearray(path.read_bytes())
    data[member_end(path, "k0012.png") + 512 + 12] ^= 1  # a letter of a caption, which nothing else would notice
    path.write_bytes(data)
    with pytest.raises(FailureError, match=r"damaged shard \(000001.tar: "):
        opened(tmp_path)
    survivors = opened(tmp_path, max_skipped=0.25)
    assert len(survivors) == 30
    assert "10 samples lost" in survivors.report.skipped[0]["detail"]


def test_a_missing_shard_is_noticed(tmp_path: Path):
    write_shards(records(40), tmp_path, samples_per_shard=10)
    (tmp_path / "000003.tar").unlink()
    with pytest.raises(FailureError, match=r"missing shard \(000003.tar: 10 samples\)"):
        opened(tmp_path)
    assert len(opened(tmp_path, max_skipped=0.25)) == 30
    assert len(opened(f"{tmp_path}/00000[01].tar")) == 20


def test_all_shards_of_a_folder_may_be_missing(tmp_path: Path):
    for side in ("train", "held_out"):
        write_shards(records(10), tmp_path / side)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.json").write_text("[1]")  # of something else
    assert len(opened(tmp_path)) == 20
    (tmp_path / "train" / "000000.tar").unlink()
    with pytest.raises(FailureError, match=r"missing shard \(train/000000.tar: 10 samples\)"):
        opened(tmp_path)


def test_the_second_start_hashes_nothing(tmp_path: Path, monkeypatch):
    write_shards(records(20), tmp_path, samples_per_shard=10)
    first = opened(tmp_path)
    import pochade.data.sources.tars as module

    monkeypatch.setattr(module, "sha256", lambda path: pytest.fail("hashed again"))
    monkeypatch.setattr(module, "_members", lambda path: pytest.fail("listed again"))
    again = opened(tmp_path)
    assert [again.picture(i) for i in range(20)] == [first.picture(i) for i in range(20)]
    assert again.fingerprint() == first.fingerprint()


def test_compressed_shards_are_refused(tmp_path: Path):
    import gzip

    make_tar(tmp_path / "plain.tar", {"a.png": png(1), "a.txt": b"a"})
    (tmp_path / "0.tar").write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(PochadeError, match=r"0.tar: compressed"):
        opened(tmp_path)


@pytest.mark.parametrize("given", ["", "absent", "x-*.tar", "{000..003}.tar", "pipe:echo hello"])
def test_no_shards(tmp_path: Path, given):
    with pytest.raises(PochadeError, match=r"shards: "):
        opened(f"{tmp_path}/{given}")


def test_shards_without_captions(tmp_path: Path):
    make_tar(tmp_path / "0.tar", {"a.bin": b"x"})
    with pytest.raises(PochadeError, match=r"holds no captioned pictures"):
        opened(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", '{"shards": [{"file": "0.tar"}]}'])
def test_a_damaged_index_is_named(tmp_path: Path, index):
    write_shards(records(2), tmp_path)
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(PochadeError, match=r"index.json: not an index"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        Record("a.b", {".png": b"x"}, {}),
        Record("../a", {".png": b"x"}, {}),
        Record("", {".png": b"x"}, {}),
        Record("a", {".gif": b"x"}, {}),
        Record("a", {".png": b"x"}, {}, label=-1),
        Record("k0000", {".png": b"x"}, {}),
    ],
)
def test_bad_records_are_refused_and_leave_no_half_shard(tmp_path: Path, record):
    with pytest.raises(PochadeError, match=r"key: |suffix: |label: "):
        write_shards([*records(3), record], tmp_path, samples_per_shard=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.tar"]


def test_an_interrupt_leaves_whole_shards_only(tmp_path: Path):
    def interrupted():
        yield from records(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(interrupted(), tmp_path, samples_per_shard=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.tar", "000001.tar"]
    assert len(opened(tmp_path)) == 4
    with pytest.raises(PochadeError, match=r"already holds shards"):
        write_shards(records(1), tmp_path)


@pytest.mark.parametrize("text", [".txt", ".json"])
def test_dots_in_names_belong_to_the_name(tmp_path: Path, text: str):
    members: dict[str, bytes] = {}
    for i in range(3):
        stem, words = f"x/IMG_2024.05.0{i}", f"grey {i}"
        members[f"{stem}.png"] = png(i)
        members[f"{stem}{text}"] = words.encode() if text == ".txt" else json.dumps({"caption": words}).encode()
    make_tar(tmp_path / "0.tar", members)
    data = opened(tmp_path)
    assert [(level(data, i), data.item(i).captions) for i in range(3)] == [(i, (f"grey {i}",)) for i in range(3)]


def test_captions_are_read_from_any_member_that_can_hold_them(tmp_path: Path):
    members: dict[str, bytes] = {f"{i}.png": png(i) for i in range(5)}
    members |= {"0.caption": b"zero\nnought", "1.txt": b"one", "1.caption": b"uno", "2.json": b'{"caption": "two"}'}
    members |= {"3.txt": b"\x00\x01", "3.caption": b"three", "4.txt": b"\x00", "4.json": b'{"text": "four"}'}
    make_tar(tmp_path / "0.tar", members)
    data = opened(tmp_path)
    assert captions(data) == [("zero", "nought"), ("one",), ("two",), ("three",), ("four",)]
    assert data.report.captions == {".caption members": 2, ".txt members": 1, ".json members": 2}
    notes = data.report.to_dict()["notes"]
    assert notes["second caption member of a sample"]["names"] == ["0.tar/1.caption"]
    assert notes["a member that cannot be read: .txt"]["files"] == 2
    again = opened(tmp_path)
    assert (captions(again), again.report.notes) == (captions(data), data.report.notes)


def test_a_caption_goes_with_the_longest_name_that_it_starts(tmp_path: Path):
    members = {"a.v2.png": png(1), "a.txt": b"one", "b.png": png(2), "b.seg.png": png(3), "b.txt": b"two"}
    make_tar(tmp_path / "0.tar", members)
    data = opened(tmp_path)
    assert [(data.item(i).name, data.item(i).captions) for i in range(2)] == [
        ("0.tar/a.v2.png", ("one",)),
        ("0.tar/b.png", ("two",)),
    ]
    assert reasons(data) == {"0.tar/b.seg.png": "no caption"}


def test_every_member_is_used_or_named(tmp_path: Path):
    members = {f"{i}.png": png(i) for i in range(40)} | {f"{i}.txt": b"grey" for i in range(40)}
    members |= {"a.psd": b"x", "a.txt": b"x", "b.txt": b"a caption", "3.npy": b"x", "4.jpeg.bin": b"x", "README": b"x"}
    members["5.txt"] = "caf\xe9".encode("latin-1")
    make_tar(tmp_path / "0.tar", members)
    data = opened(tmp_path)
    assert reasons(data) == {"0.tar/a.psd": "unsupported format"}
    assert data.item(5).captions == ("caf\xe9",)
    notes = data.report.to_dict()["notes"]
    assert notes.pop(NO_GROUP)["files"] == 40
    assert {what: note["names"] for what, note in notes.items()} == {
        ".txt members without a picture": ["0.tar/b.txt"],
        "other members (.npy)": ["0.tar/3.npy"],
        "other members (.bin)": ["0.tar/4.jpeg.bin"],
        "other members (no suffix)": ["0.tar/README"],
        "caption in Latin-1, not UTF-8": ["0.tar/5.png"],
    }


def test_members_that_are_passed_over_are_noted(tmp_path: Path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("a.png", png(1)), ("a.txt", b"one"), ("._a.png", b"AppleDouble"), ("a.txt", b"two")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.png"
            tar.addfile(member)
    for name in ("stats.json", "classes.txt", ".DS_Store", "cover.jpg"):
        (tmp_path / name).write_text("x")
    data = opened(tmp_path)
    assert captions(data) == [("one",)]
    notes = data.report.to_dict()["notes"]
    assert notes.pop(NO_GROUP)["files"] == 1
    assert {what: note["names"] for what, note in notes.items()} == {
        "hidden member": ["0.tar/._a.png"],
        "member whose name comes twice": ["0.tar/a.txt"],
        "member that is no plain file": ["0.tar/link.png"],
        "file beside shards, which alone are read": ["stats.json"],
        "picture beside shards, which alone are read": ["cover.jpg"],
        "hidden file": [".DS_Store"],
    }
    assert data.report.captions == {".txt members": 1}


def test_groups_splits_and_licences_are_kept(tmp_path: Path):
    facts = {"group": "cups", "split": "held_out", "licence": "CC0-1.0"}
    both = [
        picture_record("a", png(1), ".png", ["a cup"], **facts),
        picture_record("b", png(2), ".png", ["b"], group="c"),
    ]
    write_shards(both, tmp_path)
    data = opened(tmp_path)
    assert (data.item(0).group, data.item(0).split, data.item(0).licence) == ("cups", "held_out", "CC0-1.0")
    assert data.item(1).group == "c"
    assert not data.report.notes


def test_an_unknown_split_is_an_error_and_its_letter_case_does_not_matter(tmp_path: Path):
    facts = [json.dumps({"text": f"grey {i}", "split": side}).encode() for i, side in enumerate(["Test", "TRAIN"])]
    members = {f"{i}{suffix}": data for i in range(2) for suffix, data in ((".png", png(i)), (".json", facts[i]))}
    path = make_tar(tmp_path / "a.tar", members)
    assert (captions(opened(path, "train")), captions(opened(path, "held_out"))) == ([("grey 1",)], [("grey 0",)])
    make_tar(path, {**members, "1.json": json.dumps({"text": "grey", "split": 1}).encode()})
    with pytest.raises(PochadeError, match=r"a\.tar: 1\.json: split 1 given, allowed are train, "):
        opened(path)


def test_shards_without_groups_name_what_stands_for_them(tmp_path: Path):
    write_shards(records(4), tmp_path)
    data = opened(tmp_path)
    assert data.item(2).group == "grey 2"
    assert (data.report.used, data.report.skipped_count) == (4, 0)
    assert data.report.notes == {"without a stored group, which the first caption (or the name) stands for": 4}


def test_shards_in_subfolders_are_the_sides_of_the_split(tmp_path: Path):
    for side, count in (("train", 6), ("test", 2)):
        write_shards(records(count), tmp_path / side)
    assert (len(opened(tmp_path, "train")), len(opened(tmp_path, "held_out")), len(opened(tmp_path))) == (6, 2, 8)


def test_identities_are_of_the_bytes(tmp_path: Path):
    write_shards(records(6), tmp_path / "a", samples_per_shard=2)
    write_shards(records(6), tmp_path / "b", samples_per_shard=2)
    write_shards([picture_record("k0000", png(99), ".png", ["grey 0"]), *records(6)[1:]], tmp_path / "c", 2)
    a, b, c = (opened(tmp_path / name) for name in "abc")
    assert [a.identity(i) for i in range(6)] == [b.identity(i) for i in range(6)]
    assert len({a.identity(i) for i in range(6)}) == 6
    assert a.identity(0) != c.identity(0)
    assert a.identity(5) == c.identity(5)
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()


def test_the_index_of_another_library_is_passed_over(tmp_path: Path):
    write_shards(records(2), tmp_path)
    (tmp_path / "index.json").write_text('{"__kind__": "wids-shard-index-v1", "shardlist": []}')
    assert len(opened(tmp_path)) == 2


def test_pictures_beside_shards_are_noted(tmp_path: Path):
    write_shards(records(2), tmp_path / "deep" / "er")
    (tmp_path / "x.jpg").write_bytes(png(1, "JPEG"))
    data = open_source(tmp_path, "all")
    assert len(data) == 2
    assert data.report is not None
    assert data.report.to_dict()["notes"]["picture beside shards, which alone are read"]["names"] == ["x.jpg"]
