import json
from pathlib import Path

import pytest

from pochade.data.dataset import is_held_out
from pochade.data.report import NAMED, Report
from pochade.errors import FailureError, PochadeError
from pochade.images.decode import BadImage


def test_counts_and_names(tmp_path: Path):
    report = Report("pictures", tmp_path / "report.json", total=100)
    for i in range(97):
        report.use(["grey"] if i < 3 else ["alpha", "palette"] if i < 4 else [])
    report.skip_image(BadImage("a.png", "empty file"))
    report.skip("b.tar", "truncated shard", "lost 2 of 50", samples=2)
    report.write()
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == report.to_dict()
    assert written["used"] == 97
    assert written["converted"] == {"alpha": 1, "grey": 3, "palette": 1}
    assert written["skipped"] == 3
    assert written["skipped_by_reason"] == {"empty file": 1, "truncated shard": 2}
    assert [entry["name"] for entry in written["skipped_files"]] == ["a.png", "b.tar"]


@pytest.mark.parametrize("total, share, allowed", [(100, 0.05, 5), (1000, 0.01, 10), (4, 0.05, 1), (4, 0, 0)])
def test_too_many_skipped_is_a_failure_that_names_the_report(tmp_path: Path, total, share, allowed):
    path = tmp_path / "report.json"
    report = Report("pictures", path, total=total, max_skipped=share)
    for i in range(allowed):
        report.skip(f"{i}.png", "empty file")
    report.check()
    report.skip("last.png", "empty file")
    with pytest.raises(FailureError, match=rf"{allowed + 1} of {total} samples cannot be used.*report.json"):
        report.check()
    assert json.loads(path.read_text())["skipped"] == allowed + 1


def test_notes_are_counted_and_the_first_are_named(tmp_path: Path):
    report = Report("pictures", tmp_path / "report.json", total=1, max_skipped=0)
    report.use()
    for i in range(NAMED + 5):
        report.note("hidden file", f".{i}")
    report.note("other file", "caf\udce9.md")
    report.check()
    report.write()
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert notes["hidden file"]["files"] == NAMED + 5
    assert len(notes["hidden file"]["names"]) == NAMED
    assert notes["other file"]["names"] == ["caf\ufffd.md"]


def test_reports_of_several_sources_are_one(tmp_path: Path):
    reports = [Report(name, tmp_path / name, total=10) for name in "ab"]
    for report in reports:
        report.use(["grey"])
        report.skip("x.png", "empty file")
        report.note("hidden file", ".x")
    joined = Report.joined(reports)
    assert joined is not None
    assert (joined.source, joined.total, joined.used, joined.skipped_count) == ("a + b", 20, 2, 2)
    assert joined.to_dict()["notes"] == {"hidden file": {"files": 2, "names": [".x", ".x"]}}
    assert Report.joined([]) is None


def test_the_share_is_a_share(tmp_path: Path):
    with pytest.raises(PochadeError, match=r"max_skipped: 5"):
        Report("pictures", tmp_path / "report.json", total=1, max_skipped=5)


def test_the_held_out_share_is_a_tenth_and_fixed():
    held_out = [is_held_out(f"caption {i}") for i in range(5000)]
    assert 0.085 < sum(held_out) / 5000 < 0.115
    # A golden value: data prepared by earlier versions must keep its split.
    assert [i for i, out in enumerate(held_out[:60]) if out] == [1, 7, 13, 16, 37, 51, 55, 57]
    assert not is_held_out("x", 0.0)
    assert is_held_out("x", 1.0)
