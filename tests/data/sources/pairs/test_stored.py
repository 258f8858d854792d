import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.sources.test_shards import make_tar
from pochade.data.dataset import is_held_out
from pochade.data.prepare.writer import Record, ShardWriter
from pochade.data.sources.image_files import Reading
from pochade.data.sources.pairs.pair import HOLE, PAIR_TASKS
from pochade.data.sources.pairs.stored import StoredPairs
from pochade.errors import EmptySplitError, FailureError, PochadeError
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


def opened(path: Path, split: Any = "all", tasks: Any = PAIR_TASKS, **limits: float) -> StoredPairs:
    return StoredPairs(path, 8, split, tasks=tasks, reading=Reading(progress=False, **limits))


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
    data = opened(tmp_path)
    assert data.tasks == PAIR_TASKS
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
    assert (data.report.used, data.report.skipped_count, dict(data.report.notes)) == (4, 0, {})


def test_a_hole_does_not_shrink(tmp_path: Path):
    mask = Image.new("L", (64, 64))
    mask.putpixel((9, 33), 255)
    mask.save(tmp_path / "mask.png")
    plain(tmp_path / "a.png", "red", (64, 64))
    listed(tmp_path, {"source": "a.png", "target": "a.png", "mask": "mask.png", "task": "inpaint"})
    sample = opened(tmp_path).sample(0, rng())
    assert sample["mask"].nonzero().tolist() == [[0, 4, 1]]


def test_shards_of_pairs(tmp_path: Path):
    plain(tmp_path / "a.png", "red")
    plain(tmp_path / "b.jpg", "lime")
    plain(tmp_path / "m.png", 255, mode="L")
    red, green, mask = ((tmp_path / name).read_bytes() for name in ("a.png", "b.jpg", "m.png"))
    facts = {"instruction": "make it green", "group": "apple", "split": "held_out"}
    hole = {"task": "inpaint"}
    with ShardWriter(tmp_path / "shards") as writer:
        writer.add(Record("one", {".source.png": red, ".target.jpg": green}, facts))
        writer.add(Record("x/two", {".source.png": red, ".mask.png": mask, ".target.png": red}, hole))
        writer.add(Record("four", {".source.png": red}, facts))
        writer.add(Record("five", {".source.png": red, ".target.png": red}, hole))
        writer.add(Record("six", {".source.png": red, ".target.png": red}, {"task": "paint"}))
    make_tar(
        tmp_path / "shards" / "more.tar",
        {"three.source.png": red, "three.target.png": green, "x.md": b"x", "y.json": b"{}"},
    )
    dotted = {"IMG.1.5.source.png": red, "IMG.1.5.target.jpg": green, "IMG.1.5.json": json.dumps(facts).encode()}
    make_tar(tmp_path / "shards" / "dotted.tar", dotted)
    data = opened(tmp_path / "shards", max_skipped=1)
    assert [(item.name, item.task, item.group, item.split) for item in data.items] == [
        ("000000.tar/one", "edit", "apple", "held_out"),
        ("000000.tar/x/two", "inpaint", "000000.tar/x/two", ""),
        ("dotted.tar/IMG.1.5", "edit", "apple", "held_out"),
    ]
    assert data.pair(0).split == "held_out"
    assert dict(data.report.notes) == {"other members (.md)": 1, ".json members without pictures": 1}
    assert data.sample(0, rng())["source"][:, 0, 0].tolist() == [1, -1, -1]
    assert data.sample(1, rng())["mask"].all()
    reasons = {entry["name"]: entry["reason"] for entry in data.report.skipped}
    assert reasons == {
        "more.tar/three": "no .json",
        "000000.tar/four": "no target",
        "000000.tar/five": "no mask",
        "000000.tar/six": "unreadable .json",
    }
    assert len(opened(tmp_path / "shards" / "*.tar", max_skipped=1)) == 3


def test_a_damaged_shard_is_counted(tmp_path: Path):
    plain(tmp_path / "a.png", "red")
    red = (tmp_path / "a.png").read_bytes()
    with ShardWriter(tmp_path / "shards", samples_per_shard=2) as writer:
        for key in "abcd":
            writer.add(Record(key, {".source.png": red, ".target.png": red}, {"instruction": "nothing"}))
    shard = tmp_path / "shards" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    data = opened(tmp_path / "shards", max_skipped=0.9)
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
    data = opened(tmp_path, max_skipped=0.5)
    assert len(data) == 30
    reasons = {entry["name"]: entry["reason"] for entry in data.report.skipped}
    assert reasons == {f"pairs.jsonl line {31 + i}": reason for i, (_, reason) in enumerate(bad)}
    assert json.loads((tmp_path / ".pochade/report.json").read_text())["used"] == 30
    with pytest.raises(FailureError, match=r"14 of 44 samples cannot be used"):
        opened(tmp_path, max_skipped=0.03)


def test_a_second_start_decodes_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = many(tmp_path, 5)
    opened(folder)
    import pochade.data.sources.pairs.pair as module

    plain(folder / "3-b.png", "white")
    loaded, true_load = [], module.load_image

    def counting(data: Any, **options: Any) -> Any:
        loaded.append(options["name"])
        return true_load(data, **options)

    monkeypatch.setattr(module, "load_image", counting)
    assert len(opened(folder)) == 5
    assert sorted(set(loaded)) == ["3-a.png", "3-b.png"]


def test_splits_are_of_groups(tmp_path: Path):
    folder = many(tmp_path)
    parts = {split: opened(folder, split) for split in ("train", "held_out", "all")}
    names = {split: {item.name for item in data.items} for split, data in parts.items()}
    assert names["train"] | names["held_out"] == names["all"]
    assert not names["train"] & names["held_out"]
    assert names["held_out"]
    assert all(is_held_out(item.group) for item in parts["held_out"].items)
    rows = [json.loads(line) | {"group": "one"} for line in (folder / "pairs.jsonl").read_text().splitlines()]
    listed(folder, *rows)
    side, other = ("held_out", "train") if is_held_out("one") else ("train", "held_out")
    assert len(opened(folder, side)) == 40
    with pytest.raises(EmptySplitError, match=rf"split: '{other}' of .* is empty \(40 samples in all\)"):
        opened(folder, other)


def test_another_pair_stands_in_for_one_that_breaks(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = many(tmp_path, 8)
    data = opened(folder)
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
        opened(listed(tmp_path, row))


def test_wrong_use_is_named(tmp_path: Path):
    for path, message in ((tmp_path, "holds no pairs: expected pairs.jsonl"), (tmp_path / "x", "neither a folder")):
        with pytest.raises(PochadeError, match=message):
            opened(path)
    with pytest.raises(PochadeError, match="holds no pairs"):
        opened(listed(tmp_path))
    with pytest.raises(PochadeError, match="size: 0"):
        StoredPairs(many(tmp_path, 1), 0)
    with pytest.raises(PochadeError, match="split: 'test'"):
        opened(tmp_path, "test")
    (tmp_path / "0-a.png").write_bytes(b"")
    with pytest.raises(FailureError, match="no usable pair"):
        opened(tmp_path)


def test_an_unknown_split_is_an_error_and_its_letter_case_does_not_matter(tmp_path: Path):
    rows = [json.loads(line) for line in (many(tmp_path, 4) / "pairs.jsonl").read_text().splitlines()]
    sides = ["Test", "EVAL", " Train", "held_out"]
    listed(tmp_path, *({**row, "split": side} for row, side in zip(rows, sides, strict=True)))
    assert (len(opened(tmp_path, "train")), len(opened(tmp_path, "held_out"))) == (1, 3)
    listed(tmp_path, *rows[:3], {**rows[3], "split": "tset"})
    with pytest.raises(PochadeError, match=r"pairs\.jsonl line 4: split 'tset' given, allowed are train, "):
        opened(tmp_path)
    picture = (tmp_path / "0-a.png").read_bytes()
    facts = json.dumps({"instruction": "turn", "split": "tset"}).encode()
    path = make_tar(tmp_path / "a.tar", {"x.source.png": picture, "x.target.png": picture, "x.json": facts})
    with pytest.raises(PochadeError, match=r"a\.tar: x\.json: split 'tset' given, allowed are train, "):
        opened(path)


def test_stored_splits_and_those_of_subfolders_win(tmp_path: Path):
    for side in ("train", "validation"):
        many(tmp_path / side, 6)
    rows = [json.loads(line) for line in (tmp_path / "train" / "pairs.jsonl").read_text().splitlines()]
    listed(tmp_path / "train", {**rows[0], "split": "held_out"}, *rows[1:])
    sides = {split: opened(tmp_path, split) for split in ("train", "held_out", "all")}
    assert {split: len(data) for split, data in sides.items()} == {"train": 5, "held_out": 7, "all": 12}
    assert sides["held_out"].items[0].name == "train/pairs.jsonl line 1"


def test_only_the_pairs_of_the_tasks_that_are_wanted(tmp_path: Path):
    many(tmp_path, 3)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    listed(tmp_path, *rows, {**rows[0], "task": "super_resolution"})
    assert opened(tmp_path).tasks == ("edit", "super_resolution")
    assert [item.task for item in opened(tmp_path, tasks=("super_resolution",)).items] == ["super_resolution"]
    with pytest.raises(PochadeError, match=r"tasks: inpaint given, but .* has pairs for edit"):
        opened(tmp_path, tasks=("inpaint",))


def test_pictures_that_no_list_names_are_noted(tmp_path: Path):
    many(tmp_path, 2)
    plain(tmp_path / "x.png", "red")
    assert opened(tmp_path).report.to_dict()["notes"] == {
        "picture that no list names": {"files": 1, "names": ["x.png"]}
    }


def test_identities_are_of_bytes_and_words(tmp_path: Path):
    one, other = opened(many(tmp_path / "a", 4)), opened(many(tmp_path / "b", 4))
    assert [one.identity(i) for i in range(4)] == [other.identity(i) for i in range(4)]
    assert len({one.identity(i) for i in range(4)}) == 4
    assert one.fingerprint() == other.fingerprint() != StoredPairs(tmp_path / "a", 16).fingerprint()
    plain(tmp_path / "a" / "2-b.png", "white")
    changed = opened(tmp_path / "a")
    assert [changed.identity(i) == one.identity(i) for i in range(4)] == [True, True, False, True]
