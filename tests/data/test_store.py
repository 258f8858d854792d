import os
import time
from pathlib import Path

import pytest

from pochade.data.store import read_store, stamp, store_for
from pochade.errors import FailureError


def test_what_is_remembered_lies_in_the_folder(tmp_path: Path):
    assert store_for(tmp_path) == tmp_path / ".pochade"


def test_of_a_folder_that_takes_no_files_it_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stores = set()
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / ".pochade").write_text("in the way")
        stores.add(store_for(tmp_path / name))
    assert len(stores) == 2
    assert all(store.is_relative_to(tmp_path / "cache" / "pochade") for store in stores)
    (tmp_path / "cache2").write_text("in the way as well")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache2"))
    with pytest.raises(FailureError, match="can be written, so no report can be kept"):
        store_for(tmp_path / "a")


@pytest.mark.parametrize("content", [None, "{", "[1]", "3"])
def test_a_damaged_store_is_empty(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert read_store(tmp_path / "x.json") == {}


def test_a_stamp_changes_where_size_and_time_are_set_back(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first, times = stamp(path), path.stat()
    time.sleep(0.02)  # a clock of a file system may tick in hundredths
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stamp(path)[::2] == first[::2]
    assert stamp(path) != first


def test_a_stamp_changes_with_size_and_time(tmp_path: Path):
    (tmp_path / "x").write_text("ab")
    first = stamp(tmp_path / "x")
    assert stamp(tmp_path / "x") == first
    os.utime(tmp_path / "x", ns=(first[0], first[0] + 1000))
    assert stamp(tmp_path / "x") != first
