import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.run import cli
from pochade.data.dataset import is_held_out
from pochade.data.prepare.pairs import prepare_pairs
from pochade.data.prepare.target import Target, evenly_spaced
from pochade.data.sources import SyntheticSource, open_source
from pochade.data.sources.pairs import (
    OpenMojiPairSource,
    PicturePairSource,
    StoredPairSource,
    open_pairs,
    parse_pairs,
)
from pochade.errors import EmptySplitError, PochadeError


def written(source: str, out: Path, **target: Any) -> dict[str, Any]:
    return prepare_pairs(parse_pairs(source), Target(out=out, **{"size": 8, **target}), progress=False)


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_openmoji_comes_back_as_it_was_made(tmp_path: Path, format: str):
    report = written("openmoji", tmp_path / "out", size=16, format=format, limit=12)
    assert report["samples"] == {"train": 12, "held_out": 12}
    assert sum(report["tasks"].values()) == 24
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["held_out", "preview.png", "report.json", "train"]
    for split in ("train", "held_out"):
        stored, made = open_pairs(tmp_path / "out", 16, split), open_pairs("openmoji", 16, split)
        assert stored.report is not None
        assert (stored.report.skipped_count, dict(stored.report.notes)) == (0, {})
        for number, index in enumerate(evenly_spaced(len(made), 12)):
            one, other = stored.pair(number), made.pair(index, np.random.default_rng([0, number]))
            assert (one.task, one.instruction, one.group, one.split) == (
                other.task,
                other.instruction,
                other.group,
                split,
            )
            assert one.source.tobytes() == other.source.tobytes()
            assert one.target.tobytes() == other.target.tobytes()
            assert (one.mask is None) == (other.mask is None)
            assert one.mask is None or other.mask is None or one.mask.tobytes() == other.mask.tobytes()


def test_there_is_no_end_of_pairs(tmp_path: Path):
    count = len(open_source("openmoji", "held_out").groups())
    report = written("openmoji:inpaint", tmp_path / "out", split="held_out", limit=count + 20)
    assert report["samples"] == {"held_out": count + 20}
    assert report["tasks"] == {"inpaint": count + 20}
    data = open_pairs(tmp_path / "out", 8, "held_out")
    assert len(data) == count + 20
    assert len({data.pair(i).target.tobytes() + data.pair(i).source.tobytes() for i in range(count + 20)}) > count


def test_what_is_prepared_as_one_is_divided_by_concepts(tmp_path: Path):
    written("openmoji", tmp_path / "out", split="all", limit=60)
    train, held_out = (open_pairs(tmp_path / "out", 8, split) for split in ("train", "held_out"))
    assert len(train) + len(held_out) == 60
    assert all(is_held_out(held_out.pair(i).group) for i in range(len(held_out)))


@pytest.mark.parametrize("format", ["shards", "folder"])
def test_groups_and_splits_are_kept_from_folder_to_folder(tmp_path: Path, format: str):
    source = PicturePairSource(SyntheticSource(20))
    prepare_pairs(source, Target(out=tmp_path / "one", size=16, format=format), progress=False)
    stored = StoredPairSource(tmp_path / "one")
    report = prepare_pairs(stored, Target(out=tmp_path / "two", size=16, split="all", format=format), progress=False)
    assert report["samples"] == {"all": 20}
    for split, count in (("train", 18), ("held_out", 2)):
        made, one, two = (open_pairs(data, 16, split) for data in (source, stored, tmp_path / "two"))
        assert len(made) == len(one) == len(two) == count
        groups = [[data.pair(i).group for i in range(count)] for data in (made, one, two)]
        assert groups[0] == groups[1] == groups[2]
        assert [one.pair(i).target.tobytes() for i in range(count)] == [
            two.pair(i).target.tobytes() for i in range(count)
        ]


def test_an_empty_split_is_an_error(tmp_path: Path):
    written("pictures:synthetic:20", tmp_path / "one", split="train")
    with pytest.raises(EmptySplitError, match=r"split: 'held_out' of .* is empty"):
        prepare_pairs(StoredPairSource(tmp_path / "one"), Target(out=tmp_path / "two"), progress=False)
    assert not (tmp_path / "two").exists()


def test_the_sheet_shows_source_mask_and_target(tmp_path: Path):
    written("openmoji:inpaint", tmp_path / "out", size=16, split="train", limit=6)
    with Image.open(tmp_path / "out/preview.png") as preview:
        assert preview.width == 9 * 104 + 8
        assert np.asarray(preview).std() > 20


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("openmoji", {"size": 4}, "size: 4"),
        ("openmoji:mirrors", {}, "did you mean 'mirror'"),
        ("absent", {}, "absent is neither a folder"),
    ],
)
def test_invalid_input_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: dict[str, Any], message: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PochadeError, match=message):
        written(source, tmp_path / "out", **target)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path):
    class Interrupted(OpenMojiPairSource):
        def _open(self, *arguments: Any) -> Any:
            pairs = super()._open(*arguments)

            def stop(*_: Any) -> Any:
                raise KeyboardInterrupt

            pairs.pair = stop  # type: ignore[method-assign]
            return pairs

    with pytest.raises(KeyboardInterrupt):
        prepare_pairs(Interrupted(), Target(out=tmp_path / "out", size=8, limit=2), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command(capsys: Any, tmp_path: Path):
    out = tmp_path / "out"
    arguments = ("data", "pairs", "openmoji", str(out), "--size", "16", "--limit", "3", "--kinds", "recolour,skin=2")
    report = json.loads(cli(capsys, *arguments, "--split", "train", "--format", "folder", "--json").out)
    assert report["tasks"] == {"edit": 3}
    assert report["source"] == "openmoji:recolour,skin=2"
    assert (out / "train" / "pairs.jsonl").is_file()
    assert cli(capsys, *arguments, "--overwrite").out == f"{out}: 3 train, 3 held_out\n"
    assert "out: " in cli(capsys, *arguments, code=2).error
    assert "Usage: pochade data pairs" in cli(capsys, "data", "pairs", "--help").out
    for wrong, message in (
        (("folder",), "path: folder needs one"),
        (("openmoji", "--path", "x"), "path: openmoji takes none"),
        (("folder", "--path", "x", "--kinds", "mirror"), "kinds: given, but goes with the source openmoji only"),
        (("openmoji", "--kinds", "mirrors"), "did you mean 'mirror'"),
        (("openmoji", "--limit", "0"), "limit: 0 given"),
    ):
        source, *options = wrong
        assert message in cli(capsys, "data", "pairs", source, str(tmp_path / "new"), *options, code=2).error
    assert not (tmp_path / "new").exists()
