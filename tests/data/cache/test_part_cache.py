"""Parts on the disk: what goes in comes out, only what is missing is made, damage is mended, nothing is read early."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from data.cache.toys import Numbers, value
from pochade.data.cache import build, part_cache
from pochade.data.cache.build import build_cache
from pochade.data.cache.part_cache import INDEX, PartCache
from pochade.data.cache.parts import DamagedPart
from pochade.errors import FailureError
from processes import python

NAMES = [f"{'long ' * (number % 3)}name {number}" for number in range(11)]
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "POLL", 0.005)


def made(folder: Path, names: Sequence[str] = NAMES, identity: str = "a") -> tuple[PartCache, Numbers]:
    numbers = Numbers(names, identity)
    return build_cache(numbers.contents(), folder, progress=False), numbers


def check(cache: PartCache, names: list[str] = NAMES) -> None:
    """All rows are as their names give, whichever are read together."""
    assert len(cache) == len(names)
    for rows in (range(len(names)), (5, 0, 9, 5), (2,), (3, 4)):
        chosen = torch.tensor([row % len(names) for row in rows])
        expected = [str(names[row]) for row in chosen.tolist()]
        assert torch.equal(cache.gather(chosen, "value"), torch.stack([value(name) for name in expected]))
        assert torch.equal(cache.gather(chosen, "half"), torch.stack([value(name).half().float() for name in expected]))
        letters, lengths = cache.gather_ragged(chosen, "letters")
        assert lengths.tolist() == [len(name) for name in expected]
        assert letters.shape == (len(expected), max(map(len, expected)), 2)
        assert letters.dtype == torch.float32
        for row, name in zip(letters, expected, strict=True):
            assert row[: len(name), 0].tolist() == [ord(letter) for letter in name]
            assert not row[len(name) :].any()


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    cache, numbers = made(tmp_path)
    assert sorted(numbers.encoded) == sorted(NAMES)
    check(cache)
    assert cache.longest == {"letters": max(map(len, NAMES))}
    assert [len(part) for part in cache.each("value")] == [4, 4, 3]
    inner = torch.tensor([1, 0, 1])
    rows = torch.tensor([8, 2, 0])
    expected = torch.stack([value(NAMES[row])[place] for row, place in zip(rows, inner, strict=True)])
    assert torch.equal(cache.gather(rows, "value", inner), expected)
    assert cache.gather(rows[:0], "value").shape == (0, 2, 3)
    assert cache.gather_ragged(rows[:0], "letters")[0].shape == (0, 0, 2)


def test_few_parts_are_mapped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_cache, "OPEN", 2)
    monkeypatch.setattr(build, "OPEN", 2)
    cache, _ = made(tmp_path)
    check(cache)
    check(cache)
    maps = Path("/proc/self/maps")
    assert not maps.exists() or maps.read_text().count(f"{cache.folder}/part-") <= 2
    again, numbers = made(tmp_path, NAMES[::-1])  # copied from all parts
    assert not numbers.encoded
    check(again, NAMES[::-1])


def test_a_finished_cache_is_opened_and_nothing_is_made(tmp_path: Path) -> None:
    before = state(made(tmp_path)[0].folder)
    cache, numbers = made(tmp_path)
    assert numbers.encoded == []
    assert state(cache.folder) == before
    assert sorted(before) == [INDEX, *(f"part-{number:05d}.safetensors" for number in range(3))]
    assert [path.name for path in tmp_path.iterdir()] == [cache.folder.name]


def test_a_build_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    numbers = Numbers(NAMES)
    numbers.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        build_cache(numbers.contents(), tmp_path / "cut", progress=False)
    (folder,) = (tmp_path / "cut").iterdir()
    assert [path.name for path in folder.iterdir()] == ["part-00000.safetensors"]
    assert PartCache.find(folder) is None
    cache, rest = made(tmp_path / "cut")
    assert sorted(rest.encoded) == sorted(NAMES[4:])
    check(cache)
    whole, _ = made(tmp_path / "whole")
    assert {name: data for name, (_, data) in state(folder).items() if name != INDEX} == {
        name: data for name, (_, data) in state(whole.folder).items() if name != INDEX
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda _: b"",
        lambda _: b"no tensors at all",
        lambda data: data[:-8],
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        lambda data: data + b"more",
    ],
    ids=["cut", "empty", "text", "short", "a bit", "long"],
)
def test_a_damaged_part_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage) -> None:
    cache, _ = made(tmp_path)
    before = state(cache.folder)
    path = cache.folder / "part-00001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    again, numbers = made(tmp_path)
    check(again)
    assert sorted(numbers.encoded) == sorted(NAMES[4:8])
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"{path}: damaged (" in printed
    assert "made again" in printed
    after = state(cache.folder)
    assert after[path.name][1] == before[path.name][1]
    assert after["part-00000.safetensors"] == before["part-00000.safetensors"]
    assert made(tmp_path)[1].encoded == []


def test_a_part_that_is_gone_is_made_again_and_one_that_moved_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, _ = made(tmp_path)
    (cache.folder / "part-00000.safetensors").unlink()
    os.utime(cache.folder / "part-00001.safetensors")  # as after a copy of the folder
    again, numbers = made(tmp_path)
    check(again)
    assert sorted(numbers.encoded) == sorted(NAMES[:4])
    assert capsys.readouterr().err == ""
    assert made(tmp_path)[1].encoded == []


def test_a_part_that_cannot_be_read_back_is_an_error(tmp_path: Path) -> None:
    """As below a name that safetensors cannot open: it was made again without end."""
    with pytest.raises(FailureError, match=r"part-00000\.safetensors: cannot be read after it was written"):
        made(tmp_path / os.fsdecode(b"n\xffme"))


def test_a_damaged_index_is_written_again(tmp_path: Path) -> None:
    cache, _ = made(tmp_path)
    for damaged in (b"", (cache.folder / INDEX).read_bytes()[:200]):
        (cache.folder / INDEX).write_bytes(damaged)
        with pytest.raises(DamagedPart):
            PartCache(cache.folder)
        again, numbers = made(tmp_path)
        check(again)
        assert numbers.encoded == []


def test_a_part_that_is_damaged_in_use_is_named(tmp_path: Path) -> None:
    cache, _ = made(tmp_path)
    path = cache.folder / "part-00002.safetensors"
    path.write_bytes(b"")
    check_early = cache.gather(torch.tensor([0]), "value")
    assert torch.equal(check_early[0], value(NAMES[0]))
    with pytest.raises(FailureError, match=r"part-00002\.safetensors: damaged while in use"):
        cache.gather(torch.tensor([9]), "value")


@pytest.mark.parametrize(
    ("change", "new"),
    [
        (lambda names: [*names, "added"], ["added"]),
        (lambda names: ["first", *names], ["first"]),
        (lambda names: names[:3] + names[4:], []),
        (lambda names: names[::-1], []),
        (lambda names: [*names[:5], "edited", *names[6:]], ["edited"]),
        (lambda names: [*names, *names], []),
    ],
    ids=["added", "put first", "removed", "other order", "edited", "twice"],
)
def test_only_what_changed_is_encoded_again(tmp_path: Path, change, new: list[str]) -> None:
    old, _ = made(tmp_path)
    before = state(old.folder)
    names = change(NAMES)
    cache, numbers = made(tmp_path, names)
    assert numbers.encoded == new
    check(cache, names)
    assert cache.folder != old.folder
    assert state(old.folder) == before  # left alone
    check(old)


def test_parts_without_a_change_take_no_more_disk(tmp_path: Path) -> None:
    old, _ = made(tmp_path)
    cache, _ = made(tmp_path, [*NAMES[:5], "edited", *NAMES[6:]])
    names = [f"part-{number:05d}.safetensors" for number in range(3)]
    shared = [(cache.folder / name).samefile(old.folder / name) for name in names]
    assert shared == [True, False, True]
    # Damage is mended in one of both, by a file of its own.
    path = cache.folder / "part-00000.safetensors"
    path.write_bytes(b"")
    assert made(tmp_path, [*NAMES[:5], "edited", *NAMES[6:]])[1].encoded == NAMES[:4]
    assert not path.samefile(old.folder / path.name)
    assert made(tmp_path)[1].encoded == []


def test_runs_beside_each_other_share_what_is_encoded(tmp_path: Path) -> None:
    first, second = tmp_path / "runs" / "first" / "cache", tmp_path / "runs" / "second" / "cache"
    old, _ = made(first)
    before = state(old.folder)
    names = [*NAMES[:5], "edited", *NAMES[6:]]
    cache, numbers = made(second, names)
    assert numbers.encoded == ["edited"]
    check(cache, names)
    assert state(old.folder) == before
    shutil.rmtree(first)
    check(PartCache(cache.folder), names)
    assert made(tmp_path / "elsewhere" / "run" / "cache")[1].encoded == NAMES


def test_rows_are_copied_from_what_is_unfinished_but_not_from_what_is_damaged(tmp_path: Path) -> None:
    numbers = Numbers(NAMES)
    numbers.stop_at = 9
    with pytest.raises(KeyboardInterrupt):
        build_cache(numbers.contents(), tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["part-00000.safetensors", "part-00001.safetensors"]
    path = folder / "part-00001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    before = state(folder)
    cache, rest = made(tmp_path, NAMES[1:])
    assert sorted(rest.encoded) == sorted(NAMES[4:])
    check(cache, NAMES[1:])
    assert state(folder) == before


def test_another_identity_shares_nothing(tmp_path: Path) -> None:
    made(tmp_path)
    cache, numbers = made(tmp_path, identity="b")
    assert len(numbers.encoded) == len(NAMES)
    check(cache)


def test_processes_share_the_work_and_survive_each_other(tmp_path: Path) -> None:
    done = python(HERE / "share.py", tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    names = [f"row {number}" for number in range(40)]
    encoded = {name: [row for log in logs for row in log] for name, logs in report["logs"].items()}
    assert report["shared"] == [0, 0, 0]
    assert sorted(encoded["shared"]) == sorted(names)  # each row once
    assert len(report["logs"]["shared"]) == 3  # all had something to do
    assert report["killed"] == [9, 0, 0]
    assert set(encoded["killed"]) == set(names)
    assert len(encoded["killed"]) <= len(names) + 4  # the part that it died in, again
    assert report["resumed"] == [9, 0]
    assert len(encoded["resumed"]) <= len(names) + 4
    for name in ("shared", "killed", "resumed"):
        cache, numbers = made(tmp_path / name, names)
        assert numbers.encoded == []
        check(cache, names)
        left = [path.name for path in cache.folder.iterdir() if not path.name.endswith(".safetensors")]
        assert left == [], name
