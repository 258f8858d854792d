import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.data.dataset import Dataset
from pochade.data.sources.shards import Record, ShardDataset, write_shards
from pochade.errors import FailureError, PochadeError


def png(value: int, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, format)
    return buffer.getvalue()


def records(count: int) -> list[Record]:
    return [Record(png(i), ".png", [f"grey {i}", f"shade {i}"], f"k{i:04d}") for i in range(count)]


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def level(sample: dict) -> int:
    return round((float(sample["image"].mean()) + 1) * 127.5)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_what_is_written_is_read(tmp_path: Path):
    index = write_shards(records(25), tmp_path, samples_per_shard=10)
    assert [s["samples"] for s in index["shards"]] == [10, 10, 5]
    assert json.loads((tmp_path / "index.json").read_text()) == index
    for shard in index["shards"]:
        data = (tmp_path / shard["file"]).read_bytes()
        assert len(data) == shard["bytes"]
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
    data = ShardDataset(tmp_path, 8)
    assert isinstance(data, Dataset)
    assert len(data) == 25
    for i in (24, 0, 13):
        sample = data.sample(i, rng())
        assert level(sample) == i
        assert sample["caption"] in (f"grey {i}", f"shade {i}")
    assert data.items[13].name == "000001.tar/k0013.png"
    assert {data.sample(3, rng(s))["caption"] for s in range(20)} == {"grey 3", "shade 3"}
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
    assert samples[7]["txt"] == b"grey 7\nshade 7"


def test_we_read_what_webdataset_wrote(tmp_path: Path, webdataset):
    for shard in range(3):
        path = tmp_path / f"data-{shard:06d}.tar"
        with path.open("wb") as stream, webdataset.TarWriter(stream) as writer:
            for i in range(4 * shard, min(10, 4 * shard + 4)):
                image = Image.new("RGB", (8, 8), (i, i, i))
                text = {"txt": f"grey {i}"} if i % 2 else {"json": {"caption": f"grey {i}", "width": 8}}
                writer.write({"__key__": f"dir/s{i:03d}", "png": image, "cls": i, **text})
    data = ShardDataset(f"{tmp_path}/data-{{000000..000002}}.tar", 8)
    assert [level(data.sample(i, rng())) for i in range(10)] == list(range(10))
    assert [data.caption(i) for i in range(10)] == [f"grey {i}" for i in range(10)]
    assert len(ShardDataset(f"{tmp_path}/data-*.tar", 8)) == 10
    assert len(ShardDataset(tmp_path / "data-000002.tar", 8)) == 2


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
    data = ShardDataset(folder, 8)
    assert len(data) == 1
    data.sample(0, rng())
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "x/../../a.png"])
def test_member_names_that_leave_the_folder_are_refused(tmp_path: Path, name):
    make_tar(tmp_path / "0.tar", {"b.png": png(1), "b.txt": b"b", name: png(1)})
    with pytest.raises(PochadeError, match=r"0.tar: the member name .* leaves the folder"):
        ShardDataset(tmp_path, 8)


def test_links_are_not_followed(tmp_path: Path):
    make_tar(tmp_path / "0.tar", {"a.png": png(1), "a.txt": b"a"})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "b.txt"), (tarfile.LNKTYPE, "c.txt")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/hostname"
            tar.addfile(link)
    assert [p.captions for p in ShardDataset(tmp_path, 8).items] == [("a",)]


def test_pairs_that_are_incomplete_are_named(tmp_path: Path):
    members: dict[str, bytes] = {}
    for i in range(100):
        members |= {f"{i}.png": png(i), f"{i}.txt": f"grey {i}".encode()}
    del members["7.txt"]
    members["8.txt"] = b"\xff\xfe"
    members |= {"9.jpg": png(9, "JPEG"), "10.png": png(10)[:50], "11.png": b""}
    make_tar(tmp_path / "0.tar", members)
    data = ShardDataset(tmp_path, 8)
    assert len(data) == 96
    skipped = {entry["name"]: entry["reason"] for entry in data.report.skipped}
    assert skipped == {
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
        "within a picture": (member_end(path, "k0023.txt") + 520, 4),
        "within a caption": (member_end(path, "k0023.png") + 515, 3),
        "between samples": (member_end(path, "k0023.txt"), 4),
        "between pairs": (member_end(path, "k0023.png"), 3),
        "empty": (0, 0),
    }[cut]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(FailureError, match=r"000002.tar: truncated shard.*report.json"):
        ShardDataset(tmp_path, 8)
    data = ShardDataset(tmp_path, 8, max_skipped=0.3)
    assert len(data) == 30 + left
    [entry] = data.report.skipped
    assert entry["name"] == "000002.tar"
    assert entry["samples"] == 10 - left
    assert f"lost {10 - left} of 10 samples" in entry["detail"]


@pytest.mark.parametrize("end", ["between samples", "within a picture"])
def test_a_truncated_shard_without_an_index_is_noticed(tmp_path: Path, end):
    write_shards(records(10), tmp_path)
    path = tmp_path / "000000.tar"
    path.write_bytes(path.read_bytes()[: member_end(path, "k0005.txt") + (520 if end == "within a picture" else 0)])
    (tmp_path / "index.json").unlink()
    data = ShardDataset(tmp_path, 8)
    assert len(data) == 6
    assert [entry["reason"] for entry in data.report.skipped] == ["truncated shard"]


def test_a_changed_byte_is_found_by_the_hash(tmp_path: Path):
    write_shards(records(40), tmp_path, samples_per_shard=10)
    path = tmp_path / "000001.tar"
    data = bytearray(path.read_bytes())
    data[member_end(path, "k0012.png") + 512] ^= 1  # a letter of a caption, which nothing else would notice
    path.write_bytes(data)
    with pytest.raises(FailureError, match=r"000001.tar: damaged shard"):
        ShardDataset(tmp_path, 8)
    survivors = ShardDataset(tmp_path, 8, max_skipped=0.25)
    assert len(survivors) == 30
    assert "10 samples lost" in survivors.report.skipped[0]["detail"]


def test_a_missing_shard_is_noticed(tmp_path: Path):
    write_shards(records(40), tmp_path, samples_per_shard=10)
    (tmp_path / "000003.tar").unlink()
    with pytest.raises(FailureError, match=r"000003.tar: missing shard"):
        ShardDataset(tmp_path, 8)
    assert len(ShardDataset(tmp_path, 8, max_skipped=0.25)) == 30
    assert len(ShardDataset(f"{tmp_path}/00000[01].tar", 8)) == 20


def test_the_second_start_hashes_nothing(tmp_path: Path, monkeypatch):
    write_shards(records(20), tmp_path, samples_per_shard=10)
    first = ShardDataset(tmp_path, 8)
    import pochade.data.sources.shards as module

    monkeypatch.setattr(module, "_hash", lambda path: pytest.fail("hashed again"))
    monkeypatch.setattr(module, "_members", lambda path: pytest.fail("listed again"))
    again = ShardDataset(tmp_path, 8)
    assert again.items == first.items
    assert torch.equal(again.sample(5, rng())["image"], first.sample(5, rng())["image"])


def test_compressed_shards_are_refused(tmp_path: Path):
    import gzip

    make_tar(tmp_path / "plain.tar", {"a.png": png(1), "a.txt": b"a"})
    (tmp_path / "0.tar").write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(PochadeError, match=r"0.tar: compressed"):
        ShardDataset(tmp_path, 8)


@pytest.mark.parametrize("given", ["", "absent", "x-*.tar", "{000..003}.tar", "pipe:echo hello"])
def test_no_shards(tmp_path: Path, given):
    with pytest.raises(PochadeError, match=r"shards: "):
        ShardDataset(f"{tmp_path}/{given}", 8)


def test_shards_without_captions(tmp_path: Path):
    make_tar(tmp_path / "0.tar", {"a.bin": b"x"})
    with pytest.raises(PochadeError, match=r"holds no captioned pictures"):
        ShardDataset(tmp_path, 8)


@pytest.mark.parametrize("index", ["{", "[]", '{"shards": [{"file": "0.tar"}]}'])
def test_a_damaged_index_is_named(tmp_path: Path, index):
    write_shards(records(2), tmp_path)
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(PochadeError, match=r"index.json: not an index"):
        ShardDataset(tmp_path, 8)


@pytest.mark.parametrize(
    "record",
    [
        Record(b"x", ".png", ["a"], "a.b"),
        Record(b"x", ".png", ["a"], "../a"),
        Record(b"x", ".png", ["a"], ""),
        Record(b"x", ".gif", ["a"], "a"),
        Record(b"x", ".png", [" "], "a"),
        Record(b"x", ".png", ["a"], "k0000"),
    ],
)
def test_bad_records_are_refused_and_leave_no_half_shard(tmp_path: Path, record):
    with pytest.raises(PochadeError, match=r"key: |suffix: |captions: "):
        write_shards([*records(3), record], tmp_path, samples_per_shard=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.tar"]


def test_an_interrupt_leaves_whole_shards_only(tmp_path: Path):
    def interrupted():
        yield from records(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(interrupted(), tmp_path, samples_per_shard=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.tar", "000001.tar"]
    assert len(ShardDataset(tmp_path, 8)) == 4
    with pytest.raises(PochadeError, match=r"already holds shards"):
        write_shards(records(1), tmp_path)
