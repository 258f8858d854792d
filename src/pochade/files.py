"""The one way to write: a file or a folder is there whole or not at all, whatever happens on the way.

What is written gets a temporary name beside its place (hidden, ending in ``.tmp``), is synced to the disk, and only
then takes its name. Folders above it are created. After an error nothing new is left and what was there before is as it
was; after a kill a temporary name may be left, which `remove_orphans` deletes. An `OSError` on the way, such as a full
disk, becomes a `FailureError` that names the path and the reason.
"""

import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from .errors import FailureError, PochadeError  # relative: it is installed under another name, too

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_TEMPORARY = ".tmp"
_REPLACED = ".old.tmp"
_ORPHAN = re.compile(r"\.(.+)\.\d+-\d+(\.old)?\.tmp", re.DOTALL)
_SYNCED_AT_ONCE = 8
"""What a disk is asked to write together takes it about as long as one file."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):(?:/+(.*))?", re.DOTALL | re.IGNORECASE)
"""As a path it has one slash of two, and none where nothing follows."""
_ZEROS = bytes(1 << 20)
_numbers = count()


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """A temporary path for a library that opens files by name; it becomes ``path`` when the block ends well.

    The file is readable to whoever may read other new files, even where the library writes for its owner alone.
    """
    with _failures(path):
        temporary = _temporary(path)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)
            if _is_pending(path.parent):  # synced with the folder
                temporary.replace(path)
                return
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            _delete(temporary)
            raise


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """A binary file, open for writing, that becomes ``path`` when the block ends well."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def atomic_folder(path: Path, *, replace: bool | Literal["files"] = False) -> Generator[Path]:
    """A new empty folder that becomes ``path`` when the block ends well; all in it is synced to the disk.

    Args:
        path: where the folder will be; of a link, that which it leads to.
        replace: what becomes of a folder at ``path`` that is not empty: False refuses it, True replaces it as a whole,
            "files" keeps it, and those of its files that the new folder has not, and replaces the others one by one.

    Raises:
        PochadeError: ``path`` is a file, or there and not to be replaced, or as of ``check_replaceable``; before the
            block.
        FailureError: something could not be written.
    """
    check_here("path", path)
    if not (replace and path.is_dir()):
        check_new_folder(path)
    if path.exists() and not replace:
        check_replaceable("path", path)
    # Into a folder that stays, files come from within it: what holds it may be read-only, or another disk.
    place = path.resolve()  # a folder replaces no link
    near = place / "new" if replace == "files" and place.exists() else place
    with _failures(path):
        temporary = _temporary(near)
        try:
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            if near is not place:
                _merge(temporary, place)
            elif replace:
                _exchange(temporary, place)
            else:
                if os.name == "nt" and place.exists():  # elsewhere a rename replaces an empty folder
                    place.rmdir()
                temporary.rename(place)  # fails where another process has put something there
                _sync(place.parent)
        except FailureError as error:
            error.args = (str(error).replace(str(temporary), str(path)),)
            raise
        finally:
            _delete(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """``data`` as the file ``path``."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """``text`` in UTF-8 as the file ``path``; bytes of names that are no UTF-8 as in JSON, ``\\udcff``."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """``value`` as JSON in ``path``, one value a line."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_new(folder: Path, stem: str, suffix: str, write: Callable[[BinaryIO], object]) -> Path:
    """What ``write`` puts into a binary file as ``<stem><suffix>`` in ``folder``; the path.

    Never replaces a file: where the name is taken, also by another process in this moment, the file is
    ``<stem>-2<suffix>`` and so on.
    """
    first = folder / f"{stem}{suffix}"
    with _failures(first):
        temporary = _temporary(first)
        try:
            with temporary.open("wb") as file:
                write(file)
            _sync(temporary)
            target = next(t for t in _names(folder, stem, suffix) if _place(temporary, t))
            _sync(folder)
            return target
        finally:
            _delete(temporary)


def write_if_absent(path: Path, text: str) -> bool:
    """``text`` as the file ``path`` where there is none; False where there is one, which stays as it is.

    Of several processes that try at once one has True.
    """
    with _failures(path):
        temporary = _temporary(path)
        try:
            temporary.write_bytes(text.encode())
            _sync(temporary)
            return _place(temporary, path)
        finally:
            _delete(temporary)


def mapped_file(folder: Path, size: int) -> mmap.mmap:
    """``size`` zero bytes of a file without a name in ``folder``, mapped into memory; gone when nothing refers to them.

    The system can drop them from memory and read them again.
    """
    with _failures(folder), tempfile.TemporaryFile(dir=folder) as file:
        # Written, not left as a hole: where the disk is full, a write to a mapped hole kills the process (SIGBUS).
        for start in range(0, size, len(_ZEROS)):
            file.write(_ZEROS[: size - start])
        file.flush()
        return mmap.mmap(file.fileno(), size)


def remove_folder(path: Path) -> None:
    """Deletes a folder; a kill on the way leaves no folder of that name with files missing."""
    with _failures(path, "deleted"):
        going = _temporary(path)
        path.rename(going)
        _delete(going)


def remove_orphans(folder: Path, name: str = "*") -> list[str]:
    """Deletes what killed processes left half written of ``name`` in ``folder``; the names of what is deleted.

    A folder that was just being replaced gets its name back. Only for a process that knows that no other one writes
    this name now: a temporary file of a living process looks the same.
    """
    found = {path: _ORPHAN.fullmatch(path.name) for path in sorted(folder.glob(f".{name}.*{_TEMPORARY}"))}
    orphans = {path: match for path, match in found.items() if match is not None}
    for path, match in orphans.items():
        place = path.with_name(match[1])
        if match[2] and not place.exists():
            path.rename(place)
        _delete(path)
    return [path.name for path in orphans]


def cache_folder(name: str) -> Path:
    """Where things of the kind ``name`` are kept that can be had again; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pochade" / name


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_safe_name(name: str) -> bool:
    """Whether ``name``, read from an archive or a list, stays inside the folder it is joined to."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        return False
    return "\\" not in name and "\0" not in name and name[1:2] != ":"


def check_here(name: str, path: Path) -> None:
    """Raises PochadeError, with the argument ``name``, for a URL: a path on this machine is needed."""
    url = _URL.fullmatch(os.fspath(path))
    if url is not None:
        raise PochadeError(f"{name}: {url[1]}://{url[2] or ''} given, allowed is a path on this machine")


def check_absent(name: str, folder: Path, files: Iterable[str]) -> None:
    """Raises PochadeError, with the argument ``name`` that gave ``folder``, for a URL, and where one of ``files`` is in
    it."""
    check_here(name, folder)
    there = [file for file in files if (folder / file).exists()]
    if there:
        raise PochadeError(
            f"{name}: {folder} holds {', '.join(there)} already, and no file is overwritten; choose another folder"
        )


def check_new_folder(path: Path) -> None:
    """Raises PochadeError where there is a file, or a folder that is not empty."""
    if path.is_dir() and any(path.iterdir()):
        raise PochadeError(f"{path}: exists already, allowed is a new folder or an empty one")
    if path.exists() and not path.is_dir():
        raise PochadeError(f"{path}: is a file, a folder is needed")


def check_folder(name: str, place: Path) -> None:
    """Raises PochadeError where ``place`` is a URL, or no folder that can be made and written to; creates nothing."""
    check_here(name, place)
    first = next(p for p in (place, *place.absolute().parents) if os.path.lexists(p))
    if not os.path.isdir(first):  # noqa: PTH112 - Path.is_dir raises for what may not be looked at
        what = "a file" if first.exists() else "a link that leads nowhere"
        raise PochadeError(f"{name}: {str(first)!r} is {what}, so {str(place)!r} cannot be a folder")
    if not os.access(first, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        shut = "it" if first == place.absolute() else repr(str(first))
        raise PochadeError(f"{name}: {str(place)!r} cannot be written to: {shut} is read-only, or another's")


def check_replaceable(name: str, path: Path) -> None:
    """Raises PochadeError, with the argument ``name``, where no new folder can take the name ``path``; creates nothing.

    That is so of a URL, below a file, beside what cannot be written to, and of a folder that the process works in or
    that a disk is mounted at.
    """
    check_here(name, path)
    place = path.resolve()
    if path.exists() and (os.path.ismount(place) or Path.cwd().is_relative_to(place)):
        what = "where a disk is mounted" if os.path.ismount(place) else "the working folder or above it"
        raise PochadeError(f"{name}: {str(path)!r} given, {what}: allowed is a new folder in it, or another one")
    check_folder(name, place.parent)


def check_tensor_folder(name: str, path: Path) -> None:
    """Raises PochadeError as ``check_folder``, and for a path not in UTF-8, by which safetensors opens nothing."""
    check_folder(name, path)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise PochadeError(
            f"{name}: {str(path)!r} given, allowed are names in UTF-8, by which weights are kept"
        ) from None


def describe_error(error: OSError) -> str:
    """The path that an error is about, where it says so, and the reason."""
    named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{named}{error.strerror or str(error) or type(error).__name__}"


@contextmanager
def _failures(path: Path, done: str = "written") -> Generator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        named = "" if error.filename is None else str(error.filename)
        if named and not _is_pending(Path(named)):
            reason = f"{reason}: {named!r}"
        raise FailureError(f"{path}: could not be {done} ({reason})") from error


def _temporary(path: Path) -> Path:
    """A free hidden name beside ``path``, the folder of which is made. Raises PochadeError for a URL."""
    check_here("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}{_TEMPORARY}")
    _delete(temporary)  # of a killed process that had the same number
    return temporary


def _is_pending(path: Path) -> bool:
    """Whether ``path`` is, or lies in, something that has not got its name yet."""
    return any(_ORPHAN.fullmatch(part) for part in path.parts)


def _delete(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if os.name == "nt":  # it opens no folders, and syncs no file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    with ThreadPoolExecutor(_SYNCED_AT_ONCE) as pool:
        for _ in pool.map(_sync, (*folder.rglob("*"), folder)):
            pass


def _exchange(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        _sync(path.parent)
        return
    before = temporary.with_name(temporary.name.removesuffix(_TEMPORARY) + _REPLACED)
    path.rename(before)
    try:
        temporary.rename(path)
    except BaseException:
        before.rename(path)
        raise
    _sync(path.parent)
    _delete(before)


def _merge(temporary: Path, path: Path) -> None:
    folders = {path}
    # Backwards, so that weights beside a graph, x.onnx.data, come before the graph, x.onnx.
    for file in sorted((p for p in temporary.rglob("*") if p.is_file()), reverse=True):
        place = path / file.relative_to(temporary)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
        folders.add(place.parent)
    for folder in folders:
        _sync(folder)


def _names(folder: Path, stem: str, suffix: str) -> Generator[Path]:
    yield folder / f"{stem}{suffix}"
    for number in count(2):
        yield folder / f"{stem}-{number}{suffix}"


def _place(temporary: Path, target: Path) -> bool:
    """Whether ``temporary`` could take the free name ``target``; a rename would replace what has it."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: an empty file takes the name first
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            return False
        temporary.replace(target)
    return True
