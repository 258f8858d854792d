import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.run import cli
from pochade.data.dataset import is_held_out
from pochade.data.prepare.pairs import open_pairs, prepare_pairs, read_kinds
from pochade.data.sources.openmoji import OpenMoji
from pochade.errors import PochadeError


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_openmoji_comes_back_as_it_was_made(tmp_path: Path, format: str):
    from pochade.data.prepare.pictures import spread
    from pochade.data.sources.pairs.openmoji import OpenMojiPairs

    report = prepare_pairs("openmoji", tmp_path / "out", size=16, format=format, limit=12)
    assert report["samples"] == {"train": 12, "held_out": 12}
    assert sum(report["tasks"].values()) == 24
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["held_out", "preview.png", "report.json", "train"]
    for split in ("train", "held_out"):
        stored, made = open_pairs(tmp_path / "out", 16, split), OpenMojiPairs(16, split)
        assert stored.report.skipped_count == 0
        for number, index in enumerate(spread(len(made), 12)):
            one, other = stored.pair(number), made.pair(index, np.random.default_rng([0, number]))
            assert (one.task, one.instruction, one.group) == (other.task, other.instruction, other.group)
            assert one.source.tobytes() == other.source.tobytes()
            assert one.target.tobytes() == other.target.tobytes()
            assert (one.mask is None) == (other.mask is None)
            assert one.mask is None or other.mask is None or one.mask.tobytes() == other.mask.tobytes()


def test_there_is_no_end_of_pairs(tmp_path: Path):
    count = len(OpenMoji(8, "held_out"))
    weights = {"inpaint": 1.0}
    report = prepare_pairs(
        "openmoji", tmp_path / "out", size=8, split="held_out", weights=weights, limit=count + 20, format="shards"
    )
    assert report["samples"] == {"held_out": count + 20}
    assert report["tasks"] == {"inpaint": count + 20}
    data = open_pairs(tmp_path / "out", 8, "held_out")
    assert len(data) == count + 20
    assert len({data.pair(i).target.tobytes() + data.pair(i).source.tobytes() for i in range(count + 20)}) > count


def test_what_is_prepared_as_one_is_divided_by_concepts(tmp_path: Path):
    prepare_pairs("openmoji", tmp_path / "out", size=8, split="all", limit=60)
    train, held_out = (open_pairs(tmp_path / "out", 8, split) for split in ("train", "held_out"))
    assert len(train) + len(held_out) == 60
    assert all(is_held_out(item.group) for item in held_out.items)


def test_a_folder_is_prepared_with_its_groups(tmp_path: Path):
    prepare_pairs("openmoji", tmp_path / "one", size=16, split="train", limit=8, format="folder")
    report = prepare_pairs("folder", tmp_path / "two", size=8, path=tmp_path / "one" / "train", split="all")
    assert report["samples"] == {"all": 8}
    one, two = open_pairs(tmp_path / "one", 8, "train"), open_pairs(tmp_path / "two", 8)
    assert [item.group for item in one.items] == [item.group for item in two.items]
    assert [one.pair(i).target.tobytes() for i in range(8)] == [two.pair(i).target.tobytes() for i in range(8)]
    again = prepare_pairs("folder", tmp_path / "two", size=8, path=tmp_path / "one" / "train", overwrite=True)
    assert again["samples"]["train"] == 8
    with pytest.raises(PochadeError, match=r"split: 'all' given, .* prepared with train and held_out"):
        open_pairs(tmp_path / "two", 8)


def test_the_sheet_shows_source_mask_and_target(tmp_path: Path):
    prepare_pairs("openmoji", tmp_path / "out", size=16, split="train", limit=6, weights={"inpaint": 1.0})
    with Image.open(tmp_path / "out/preview.png") as preview:
        assert preview.width == 9 * 120 + 8
        assert np.asarray(preview).std() > 20


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("openmojis", {}, "source: 'openmojis' given.*did you mean 'openmoji'"),
        ("folder", {}, "path: folder needs one"),
        ("openmoji", {"path": "x"}, "path: openmoji takes none"),
        ("openmoji", {"size": 0}, "size: 0"),
        ("openmoji", {"size": 4}, "size: 4"),
        ("openmoji", {"split": "test"}, "split: 'test'"),
        ("openmoji", {"format": "zip"}, "format: 'zip'"),
        ("openmoji", {"limit": 0}, "limit: 0"),
        ("openmoji", {"weights": {"mirrors": 1.0}}, "did you mean 'mirror'"),
        ("folder", {"path": "absent"}, "absent is neither a folder"),
        ("folder", {"path": "absent", "weights": {"mirror": 1.0}}, "weights: given, but go with the source openmoji"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, source: str, arguments: dict[str, Any], message: str):
    with pytest.raises(PochadeError, match=message):
        prepare_pairs(source, tmp_path / "out", **{"size": 8, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_filled_folder_is_left_alone(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(PochadeError, match=r"out: "):
            prepare_pairs("openmoji", tmp_path / "out", size=8, limit=1, overwrite=overwrite)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import pochade.data.prepare.pairs as module

    def stop(*_: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "png", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_pairs("openmoji", tmp_path / "out", size=8, limit=2)
    assert list(tmp_path.iterdir()) == []


def test_kinds():
    assert read_kinds("inpaint, mirror = 0.5") == {"inpaint": 1.0, "mirror": 0.5}
    with pytest.raises(PochadeError, match=r"kinds: 'mirror=often' given"):
        read_kinds("inpaint,mirror=often")


def test_the_command(capsys: Any, tmp_path: Path):
    out = tmp_path / "out"
    arguments = ("data", "pairs", "openmoji", str(out), "--size", "16", "--limit", "3", "--kinds", "recolour,skin=2")
    report = json.loads(cli(capsys, *arguments, "--split", "train", "--format", "folder", "--json").out)
    assert report["tasks"] == {"edit": 3}
    assert (out / "train" / "pairs.jsonl").is_file()
    assert cli(capsys, *arguments, "--overwrite").out == f"{out}: 3 train, 3 held_out\n"
    assert "out: " in cli(capsys, *arguments, code=2).error
    assert "Usage: pochade data pairs" in cli(capsys, "data", "pairs", "--help").out
