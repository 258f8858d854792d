"""Files and folders: whole or absent, whatever happens while they are written."""

import ast
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import pytest

from cli.places import permissions_count
from pochade import files
from pochade.errors import FailureError, PochadeError
from pochade.files import (
    atomic_file,
    atomic_folder,
    atomic_path,
    check_folder,
    check_replaceable,
    is_safe_name,
    remove_folder,
    remove_orphans,
    sha256,
    write_if_absent,
    write_json,
    write_new,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full(path: Path) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"ä": [1]})
    assert path.read_text("utf-8") == '{\n "ä": [\n  1\n ]\n}\n'
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:  # noqa: PT012
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_text("utf-8").startswith("{")
    write_text(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert names(path.parent) == ["x.json"]
    assert sha256(path) == "7aa7a5359173d05b63cfd682e3c38487f3cb4f7f1d60659fe59fab1505977d4c"


def test_a_file_of_a_library_is_readable_to_others(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with atomic_path(tmp_path / "x") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("moment", range(3))
def test_a_full_disk_is_a_failure_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    write_text(tmp_path / "x", "old")
    with atomic_folder(tmp_path / "folder") as folder:
        write_text(folder / "y", "old")
    monkeypatch.setattr(files, "_sync", full)
    writers = (
        lambda: write_text(tmp_path / "x", "new"),
        lambda: write_new(tmp_path, "x", "", lambda file: file.write(b"new")),
        lambda: write_folder(tmp_path / "folder"),
    )
    with pytest.raises(FailureError) as caught:
        writers[moment]()
    place = ("x", "x", "folder")[moment]
    assert str(caught.value) == f"{tmp_path / place}: could not be written (No space left on device)"
    assert names(tmp_path) == ["folder", "x"]
    assert (tmp_path / "x").read_text() == (tmp_path / "folder" / "y").read_text() == "old"


def write_folder(path: Path) -> None:
    with atomic_folder(path, replace=True) as folder:
        write_text(folder / "y", "new")


def test_what_cannot_be_read_on_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"x: could not be written \(No such file or directory: '.*source'\)"):
        copy(tmp_path / "source", tmp_path / "x")
    assert not names(tmp_path)


def copy(source: Path, target: Path) -> None:
    with atomic_file(target) as file:
        file.write(source.read_bytes())


def test_a_folder_is_new_replaced_or_completed(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model"
    with atomic_folder(path) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "x").write_text("1")
        assert not path.exists()
    assert path.stat().st_mode == path.parent.stat().st_mode
    with pytest.raises(PochadeError, match="exists already"), atomic_folder(path):
        pass
    (path / "other").write_text("kept")
    with atomic_folder(path, replace="files") as folder:
        (folder / "part").mkdir()
        (folder / "part" / "x").write_text("2")
        write_text(folder / "part" / "y.data", "2")
        write_text(folder / "part" / "y", "2")
        assert names(path) == sorted([folder.name, "other", "part"])  # what holds ``path`` may be read-only
    assert names(path) == ["other", "part"]
    assert (path / "part" / "x").read_text() == "2"
    assert (path / "other").read_text() == "kept"
    with atomic_folder(path, replace=True) as folder:
        (folder / "y").write_text("3")
    assert names(path) == ["y"]
    with pytest.raises(KeyError), atomic_folder(path, replace=True) as folder:  # noqa: PT012
        (folder / "z").write_text("4")
        raise KeyError
    assert names(path) == ["y"]
    assert names(path.parent) == ["model"]
    with pytest.raises(PochadeError, match="is a file"), atomic_folder(path / "y", replace=True):
        pass


@pytest.mark.parametrize("replace", [False, True, "files"])
@pytest.mark.parametrize("target", ["empty", "missing", "full"])
def test_a_folder_goes_to_where_a_link_leads(tmp_path: Path, target: str, replace: bool | Literal["files"]) -> None:
    link, real = tmp_path / "link", tmp_path / "disk" / "real"
    link.symlink_to(real)
    real.parent.mkdir()
    if target != "missing":
        real.mkdir()
    if target == "full":
        (real / "before").touch()
    if target == "full" and not replace:
        with pytest.raises(PochadeError, match="link: exists already"), atomic_folder(link):
            pass
        return
    with atomic_folder(link, replace=replace) as folder:
        (folder / "x").touch()
    assert link.is_symlink()
    assert names(link) == (["before", "x"] if target == "full" and replace == "files" else ["x"])
    assert (names(tmp_path), names(real.parent)) == (["disk", "link"], ["real"])


def test_a_folder_that_no_other_can_replace_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "in")
    (tmp_path / "link").symlink_to(".")
    for given in (Path(), Path("../in"), tmp_path / "link" / "in", Path("..")):
        with pytest.raises(PochadeError, match=rf"^out: '{given}' given, the working folder or above it: allowed is"):
            check_replaceable("out", given)
    with pytest.raises(PochadeError, match=r"path: '\.' given, the working folder"), atomic_folder(Path()):
        pass
    with pytest.raises(PochadeError, match=r"out: '/' given, where a disk is mounted: allowed is a new folder in it"):
        check_replaceable("out", Path("/"))
    with pytest.raises(PochadeError, match=r"out: '.*file' is a file, so '.*file' cannot be a folder"):
        check_replaceable("out", tmp_path / "file" / "new")
    with pytest.raises(PochadeError, match=r"^out: s3://a/b given"):
        check_replaceable("out", Path("s3://a/b"))
    check_replaceable("out", Path("new"))
    with atomic_folder(Path(), replace="files") as folder:
        (folder / "x").touch()
    assert names(tmp_path / "in") == ["x"]


def test_a_folder_that_cannot_be_made_or_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "shut" / "run").mkdir(parents=True)
    with pytest.raises(PochadeError, match=r"^out: '.*link' is a link that leads nowhere, so '.*/x' cannot be a fold"):
        check_folder("out", tmp_path / "link" / "x")
    (tmp_path / "shut").chmod(0o555)
    with permissions_count():
        with pytest.raises(PochadeError, match=r"^out: '.*/a/b' cannot be written to: '.*shut' is read-only, or anoth"):
            check_folder("out", tmp_path / "shut" / "a" / "b")
        check_folder("out", tmp_path / "shut" / "run")
        with pytest.raises(PochadeError, match=r"^out: '.*shut' cannot be written to: it is read-only, or another's$"):
            check_replaceable("out", tmp_path / "shut" / "run")
        (tmp_path / "shut").chmod(0o000)  # what is in it cannot be looked at
        with pytest.raises(PochadeError, match=r"^out: '.*/run/b' cannot be written to"):
            check_folder("out", tmp_path / "shut" / "run" / "b")
    (tmp_path / "shut").chmod(0o755)


@pytest.mark.parametrize("empty", [True, False])
def test_of_two_folders_of_one_name_the_first_stays(tmp_path: Path, empty: bool) -> None:
    """Where both processes found none, or an empty one, when they began."""
    path = tmp_path / "out"
    if empty:
        path.mkdir()
    with pytest.raises(FailureError, match="out: could not be written"), atomic_folder(path) as folder:  # noqa: PT012
        (folder / "x").write_text("second")
        with atomic_folder(path) as first:
            (first / "x").write_text("first")
    assert (path / "x").read_text() == "first"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: full(tmp_path))

    def write(file: BinaryIO) -> None:
        file.write(threading.current_thread().name.encode())

    threads = [threading.Thread(target=write_new, args=(tmp_path, "a", ".txt", write)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == sorted(["a.txt", *(f"a-{i}.txt" for i in range(2, 9))])
    assert {p.read_text() for p in tmp_path.iterdir()} == {thread.name for thread in threads}


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_writes_what_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: full(tmp_path))
    first: list[str] = []

    def write(text: str) -> None:
        if write_if_absent(tmp_path / "claim", text):
            first.append(text)

    threads = [threading.Thread(target=write, args=(f"ä{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "claim").read_text("utf-8")] == first
    assert names(tmp_path) == ["claim"]


def test_orphans_are_removed_and_what_was_being_replaced_comes_back(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    for name in (".x.12-3.tmp", ".y.safetensors.1-0.tmp", ".hidden", ".other.tmp"):
        (tmp_path / name).write_text("half")
    for name in (".run.12-3.old.tmp", ".run.12-3.tmp", ".done.1-1.old.tmp", "done"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "z").write_text(name)
    assert remove_orphans(tmp_path, "y.*") == [".y.safetensors.1-0.tmp"]
    removed = remove_orphans(tmp_path)
    assert removed == [".done.1-1.old.tmp", ".run.12-3.old.tmp", ".run.12-3.tmp", ".x.12-3.tmp"]
    assert names(tmp_path) == [".hidden", ".other.tmp", "done", "run", "x"]
    assert (tmp_path / "run" / "z").read_text() == ".run.12-3.old.tmp"
    assert (tmp_path / "done" / "z").read_text() == "done"
    assert remove_orphans(tmp_path / "nowhere") == []


def test_a_folder_goes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    remove_folder(tmp_path / "a")
    assert not names(tmp_path)
    with pytest.raises(FailureError, match="a: could not be deleted"):
        remove_folder(tmp_path / "a")


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "./a.png", "a..b.png", "ä.png", "..png"])
def test_safe_names(name: str) -> None:
    assert is_safe_name(name)


@pytest.mark.parametrize("name", ["", "../a", "a/../../b", "/etc/passwd", "..", "C:/a", "a\\..\\b", "a\0b"])
def test_unsafe_names(name: str) -> None:
    assert not is_safe_name(name)


WRITES = {"write_text", "write_bytes", "rename", "hardlink_to", "touch", "mkstemp", "mkdtemp"}
WRITES |= {"TemporaryFile", "NamedTemporaryFile", "fsync", "save_file", "SummaryWriter"}
ELSEWHERE = {
    ("cli/common.py", "TemporaryFile"): "tests whether a folder can be written to",
    ("cli/data_options.py", "mkdtemp"): "what is sent to a URL, and kept where it cannot be",
    ("cli/data_options.py", "rename"): "a folder that is whole, to be sent to a URL",
    ("data/cache/build.py", "hardlink_to"): "a second name of a part that is whole",
    ("data/cache/claims.py", "touch"): "reads the time of a file system",
    ("data/prepare/curate.py", "rename"): "a folder that is whole",
    ("evaluation/profile/__init__.py", "write_text"): "resets a counter of the kernel",
    ("tensors.py", "save_file"): "within atomic_path",
    ("training/checkpoint.py", "rename"): "into a folder that is not there yet",
    ("training/metrics.py", "SummaryWriter"): "a log that grows",
    ("training/metrics.py", "open"): "a log that grows",
}
"""Where else something is written that stays, and why."""


def writes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        ours = name in ("write_text", "write_bytes") and isinstance(node.func, ast.Name)
        if name in WRITES and not ours:
            yield name
        if name == "open" and any(set(mode) <= set("wxabt+") and set(mode) & set("wxa+") for mode in modes):
            yield name


def test_nothing_else_writes() -> None:
    root = Path(files.__file__).parent
    found = {
        (path.relative_to(root).as_posix(), name)
        for path in root.rglob("*.py")
        if path.name != "files.py"
        for name in writes(ast.parse(path.read_text("utf-8")))
    }
    assert found == set(ELSEWHERE)
