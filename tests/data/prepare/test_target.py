from pathlib import Path
from typing import Any

import pytest

from pochade.data.prepare.target import Target, evenly_spaced
from pochade.errors import PochadeError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size: 0"),
        ({"split": "test"}, "split: 'test'"),
        ({"format": "shard"}, "format: 'shard' given, allowed are shards, folder .did you mean 'shards'"),
        ({"limit": 0}, "limit: 0"),
        ({"samples_per_shard": 0}, "samples_per_shard: 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        Target(out=tmp_path / "out", **arguments)


def test_what_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PochadeError, match="is a file"):
        Target(out=tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(PochadeError, match="out: "):
            Target(out=tmp_path / "mine", overwrite=overwrite)
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "report.json").touch()
    monkeypatch.chdir(tmp_path / "set" / "train")
    for out in (Path(), Path("..")):
        with pytest.raises(PochadeError, match=rf"^out: '{out}' given, the working folder or above it"):
            Target(out=out, overwrite=True)
    assert Target(out=Path("new")).skipped == tmp_path / "set" / "train" / "new-skipped.json"


def test_parts(tmp_path: Path) -> None:
    both, whole, one = (Target(out=tmp_path / "x", split=split) for split in ("both", "all", "train"))
    assert [both.part_of(side) for side in ("train", "held_out")] == ["train", "held_out"]
    assert [whole.part_of(side) for side in ("train", "held_out")] == ["all", "all"]
    assert [one.part_of(side) for side in ("train", "held_out")] == ["train", None]


def test_evenly_spaced() -> None:
    assert evenly_spaced(5, None) == evenly_spaced(5, 9) == [0, 1, 2, 3, 4]
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
