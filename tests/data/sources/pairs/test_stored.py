import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.data.dataset import is_held_out
from pochade.data.sources.pairs.pair import HOLE, PairDataset
from pochade.data.sources.pairs.stored import StoredPairs
from pochade.data.sources.shards import ShardWriter
from pochade.errors import FailureError, PochadeError
from pochade.types import TASKS


def plain(path: Path, colour: Any, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path.name


def listed(folder: Path, *rows: Any) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder


def many(folder: Path, count: int = 40) -> Path:
    rows = []
    for i in range(count):
        plain(folder / f"{i}-a.png", (i, 0, 0))
        plain(folder / f"{i}-b.png", (0, i, 0))
        rows.append({"source": f"{i}-a.png", "target": f"{i}-b.png", "instruction": f"turn {i}"})
    return listed(folder, *rows)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_folder_of_pairs(tmp_path: Path):
    mask = Image.new("L", (32, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.save(tmp_path / "mask.png")
    for name, colour in (("a", "red"), ("b", "lime"), ("c", "blue")):
        plain(tmp_path / "sub" / f"{name}.png", colour, (32, 16))
    plain(tmp_path / "small.png", "blue", (4, 2))
    listed(
        tmp_path,
        {"source": "sub/a.png", "target": "sub/b.png", "instruction": ["make it  green", "green"]},
        "",
        {"source": "sub/a.png", "target": "sub/a.png", "mask": "mask.png", "task": "inpaint"},
        {"source": "small.png", "target": "sub/c.png", "task": "super_resolution", "instruction": "a lake"},
        {"source": "sub/a.png", "target": "sub/b.png", "mask": "mask.png", "instruction": "make it green"},
    )
    data = StoredPairs(tmp_path, 8)
    assert isinstance(data, PairDataset)
    assert len(data) == 4
    edit, inpaint, large, masked = (data.sample(i, rng()) for i in range(4))
    assert [TASKS[s["task"]] for s in (edit, inpaint, large, masked)] == [
        "edit",
        "inpaint",
        "super_resolution",
        "edit",
    ]
    assert edit["source"][:, 0, 0].tolist() == [1, -1, -1]
    assert edit["target"][:, 0, 0].tolist() == [-1, 1, -1]
    assert not edit["mask"].any()
    assert {data.sample(0, rng(seed))["instruction"] for seed in range(9)} == {"make it green", "green"}
    assert data.pair(0).instruction == "make it green"
    assert inpaint["instruction"] == ""
    # The square in the middle is columns 8 to 24, the hole its first half.
    half = torch.zeros(1, 8, 8)
    half[..., :4] = 1
    assert torch.equal(inpaint["mask"], half)
    assert torch.equal(masked["mask"], half)
    grey = torch.tensor(HOLE) / 127.5 - 1
    assert torch.allclose(inpaint["source"][:, :, :4], grey[:, None, None].expand(3, 8, 4))
    assert torch.equal(inpaint["source"][:, :, 4:], inpaint["target"][:, :, 4:])
    assert torch.equal(large["source"], large["target"])
    assert masked["source"][:, 0, 0].tolist() == [1, -1, -1]
    assert data.report.summary() == "4 used, 0 skipped"


def test_a_hole_does_not_shrink(tmp_path: Path):
    mask = Image.new("L", (64, 64))
    mask.putpixel((9, 33), 255)
    mask.save(tmp_path / "mask.png")
    plain(tmp_path / "a.png", "red", (64, 64))
    listed(tmp_path, {"source": "a.png", "target": "a.png", "mask": "mask.png", "task": "inpaint"})
    sample = StoredPairs(tmp_path, 8).sample(0, rng())
    assert sample["mask"].nonzero().tolist() == [[0, 4, 1]]


def test_shards_of_pairs(tmp_path: Path):
    plain(tmp_path / "a.png", "red")
    plain(tmp_path / "b.jpg", "lime")
    plain(tmp_path / "m.png", 255, mode="L")
    red, green, mask = ((tmp_path / name).read_bytes() for name in ("a.png", "b.jpg", "m.png"))
    told = json.dumps({"instruction": "make it green", "group": "apple"}).encode()
    hole = json.dumps({"task": "inpaint"}).encode()
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write("one", {".source.png": red, ".target.jpg": green, ".json": told, ".note.txt": b"x"})
        writer.write("x/two", {".source.png": red, ".mask.png": mask, ".target.png": red, ".json": hole})
        writer.write("three", {".source.png": red, ".target.png": green})
        writer.write("four", {".source.png": red, ".json": told})
        writer.write("five", {".source.png": red, ".target.png": red, ".json": hole})
        writer.write("six", {".source.png": red, ".target.png": red, ".json": b"{"})
    data = StoredPairs(tmp_path / "shards", 8, max_skipped=1)
    assert [(item.name, item.task, item.group) for item in data.items] == [
        ("000000.tar/one", "edit", "apple"),
        ("000000.tar/x/two", "inpaint", "000000.tar/x/two"),
    ]
    assert data.sample(0, rng())["source"][:, 0, 0].tolist() == [1, -1, -1]
    assert data.sample(1, rng())["mask"].all()
    reasons = {entry["name"]: entry["reason"] for entry in data.report.skipped}
    assert reasons == {
        "000000.tar/three": "no .json",
        "000000.tar/four": "no target",
        "000000.tar/five": "no mask",
        "000000.tar/six": "unreadable .json",
    }
    assert len(StoredPairs(tmp_path / "shards" / "*.tar", 8, max_skipped=1)) == 2


def test_a_damaged_shard_is_counted(tmp_path: Path):
    plain(tmp_path / "a.png", "red")
    red = (tmp_path / "a.png").read_bytes()
    told = json.dumps({"instruction": "nothing"}).encode()
    with ShardWriter(tmp_path / "shards", 2) as writer:
        for key in "abcd":
            writer.write(key, {".source.png": red, ".target.png": red, ".json": told})
    shard = tmp_path / "shards" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    data = StoredPairs(tmp_path / "shards", 8, max_skipped=0.9)
    assert data.report.skipped[0]["reason"] == "truncated shard"
    assert len(data) + data.report.skipped_count == 4


def test_what_cannot_be_used_is_named(tmp_path: Path):
    good = {"source": "0-a.png", "target": "0-b.png", "instruction": "go"}
    rows = [json.loads(line) for line in (many(tmp_path, 30) / "pairs.jsonl").read_text().splitlines()]
    (tmp_path / "broken.png").write_bytes((tmp_path / "0-a.png").read_bytes()[:40])
    plain(tmp_path / "wide.png", "red", (64, 16))
    plain(tmp_path / "black.png", 0, mode="L")
    bad: list[tuple[Any, str]] = [
        ("{", "unreadable line"),
        ({"target": "0-b.png", "instruction": "go"}, "unreadable line"),
        ({"source": "0-a.png", "target": "0-b.png"}, "unreadable line"),
        (good | {"task": "generate"}, "unreadable line"),
        (good | {"instruction": 3}, "unreadable line"),
        (good | {"source": 3}, "unreadable line"),
        (good | {"group": 3}, "unreadable line"),
        ([1], "unreadable line"),
        (good | {"target": "absent.png"}, "missing file"),
        (good | {"task": "inpaint"}, "no mask"),
        (good | {"task": "inpaint", "mask": "black.png"}, "empty mask"),
        (good | {"target": "broken.png"}, "corrupt or truncated"),
        (good | {"target": "wide.png"}, "other shape"),
        (good | {"mask": "wide.png"}, "other shape"),
    ]
    listed(tmp_path, *rows, *(row for row, _ in bad))
    data = StoredPairs(tmp_path, 8, max_skipped=0.5)
    assert len(data) == 30
    told = {entry["name"]: entry["reason"] for entry in data.report.skipped}
    assert told == {f"pairs.jsonl line {31 + i}": reason for i, (_, reason) in enumerate(bad)}
    assert json.loads((tmp_path / ".pochade/report.json").read_text())["used"] == 30
    with pytest.raises(FailureError, match=r"2 of 44 samples cannot be used"):
        StoredPairs(tmp_path, 8, max_skipped=0.03)


def test_a_second_start_decodes_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = many(tmp_path, 5)
    StoredPairs(folder, 8)
    import pochade.data.sources.pairs.pair as module

    plain(folder / "3-b.png", "white")
    loaded, true_load = [], module.load_image

    def counting(data: Any, **options: Any) -> Any:
        loaded.append(options["name"])
        return true_load(data, **options)

    monkeypatch.setattr(module, "load_image", counting)
    assert len(StoredPairs(folder, 8)) == 5
    assert loaded == ["3-a.png", "3-b.png"]


def test_splits_are_of_groups(tmp_path: Path):
    folder = many(tmp_path)
    parts = {split: StoredPairs(folder, 8, split=split) for split in ("train", "held_out", "all")}
    names = {split: {item.name for item in data.items} for split, data in parts.items()}
    assert names["train"] | names["held_out"] == names["all"]
    assert not names["train"] & names["held_out"]
    assert names["held_out"]
    assert all(is_held_out(item.group) for item in parts["held_out"].items)
    rows = [json.loads(line) | {"group": "one"} for line in (folder / "pairs.jsonl").read_text().splitlines()]
    listed(folder, *rows)
    side, other = ("held_out", "train") if is_held_out("one") else ("train", "held_out")
    assert len(StoredPairs(folder, 8, split=side)) == 40
    with pytest.raises(PochadeError, match=rf"split: '{other}' of .* is empty \(40 pairs in all\)"):
        StoredPairs(folder, 8, split=other)


def test_another_pair_stands_in_for_one_that_breaks(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = many(tmp_path, 8)
    data = StoredPairs(folder, 8)
    (folder / "2-b.png").write_bytes(b"")
    sample = data.sample(2, rng())
    assert sample["name"] != "pairs.jsonl line 3"
    assert "skipped: 2-b.png: empty file" in caplog.text
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(FailureError, match="10 unreadable pairs in a row"):
        data.sample(2, rng())


@pytest.mark.parametrize("role", ["source", "target", "mask"])
@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png"])
def test_no_path_leaves_the_folder(tmp_path: Path, role: str, name: str):
    plain(tmp_path / "a.png", "red")
    row = {"source": "a.png", "target": "a.png", "instruction": "go", role: name}
    with pytest.raises(PochadeError, match=rf"line 1: {role} '.*' leaves the folder"):
        StoredPairs(listed(tmp_path, row), 8)


def test_wrong_use_is_named(tmp_path: Path):
    for path, message in ((tmp_path, "holds no pairs: expected pairs.jsonl"), (tmp_path / "x", "neither a folder")):
        with pytest.raises(PochadeError, match=message):
            StoredPairs(path, 8)
    with pytest.raises(PochadeError, match="holds no pairs"):
        StoredPairs(listed(tmp_path), 8)
    with pytest.raises(PochadeError, match="size: 0"):
        StoredPairs(many(tmp_path, 1), 0)
    with pytest.raises(PochadeError, match="split: 'test'"):
        StoredPairs(tmp_path, 8, split="test")
    (tmp_path / "0-a.png").write_bytes(b"")
    with pytest.raises(FailureError, match="no usable pair"):
        StoredPairs(tmp_path, 8)
