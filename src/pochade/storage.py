"""Files and folders by URL: fetched whole or not at all, sent likewise, again after a failure of the network.

``s3://``, ``gs://``, ``http://``, ``https://`` and ``memory://``, through fsspec. What is fetched lies in the user's
cache below a key of the URL and of the sizes and ETags there: what has its name is whole, and what changes at its
source gets another key. Credentials are those that s3fs and gcsfs find by themselves (environment, configuration files,
role of the machine).
"""

import base64
import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from uuid import uuid4

from pochade.errors import FailureError, PochadeError, missing_extra, name_copy
from pochade.files import atomic_path, cache_folder, is_safe_name, write_json

T = TypeVar("T")
Stamp = tuple[int, str]
"""Bytes of a file at its source, and what else changes with it (its ETag), "" where nothing is known."""
State = tuple[int, int]
"""What changes with a file here: the time of its last change in ns, and its bytes."""

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "memory": "fsspec"}
"""Of each scheme, the library that fsspec needs for it."""
READ_ONLY = ("http", "https")
PUT_IS_WHOLE = ("s3", "gs")
"""Stores of objects: a file that is sent is not there before it is whole, elsewhere it is sent under another name and
renamed; and a listing has the ETags."""
ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds before the second attempt; each further one waits twice as long."""
SILENCE = 20.0
"""Seconds without a byte after which a request has failed; a library may repeat it a few times within an attempt."""
PATIENCE = 120.0
"""Seconds of attempts that met with silence, after which there is no further one."""
UNREACHED = 30.0
"""The same of attempts that found no host or no connection: gcsfs alone repeats one for 35 seconds."""
NOTICE = 10.0
"""Seconds without an answer after which it is said that one is waited for."""
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, ImportError)
SETTINGS = ("ConfigParseError", "InvalidRegionError", "ParamValidationError", "ProfileNotFound", "ValueError")
"""Types of errors, by their names, that are of what is set or named here (a profile, a region, a bucket): no further
attempt is made. ValueError is what botocore makes of an endpoint that is no URL."""
MEMORY = ".mirror.json"
"""In a folder with a copy elsewhere: what is the same in both."""
LAST = ("index.json", "model_index.json", "manifest.json", "latest")
"""Are sent after all others: what lists files is there when these are."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):(/*)(.*)", re.DOTALL | re.IGNORECASE)
_BRACE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?|([A-Za-z0-9+/]{22}==)')
"""As an ETag of S3, and as the hash of GCS."""
GONE = (404, 410)
DENIED = (401, 403)


def url_of(name: str, place: str | os.PathLike[str]) -> str | None:
    """The URL that a text or a path, which has one slash of two, stands for; None for what is none.

    Raises PochadeError, with the argument ``name``, for a scheme that is not served, and for a URL without a host or
    bucket.
    """
    found = _URL.fullmatch(os.fspath(place))
    scheme, slashes, rest = ("", "", "") if found is None else (found[1].lower(), found[2], found[3])
    if scheme in LIBRARIES:
        if len(slashes) not in (1, 2) or not rest:
            first = "HOST" if scheme in READ_ONLY else "BUCKET"
            raise PochadeError(f"{name}: {os.fspath(place)!r} given, allowed is {scheme}://{first}/NAME")
        return f"{scheme}://{PurePosixPath(rest)}"
    if slashes:
        known = "s3://, gs:// and, to read alone, http:// and https://"
        raise PochadeError(
            f"{name}: {scheme}://{rest} given, allowed are a path on this machine, and URLs with {known}"
        )
    return None


def fetch(url: str, keep: Callable[[str], bool] = lambda _: True) -> Path:
    """A local copy of a file, of the files below a folder that ``keep`` by name, or of a pattern such as
    ``a-{000..007}.tar``, of which it is the pattern; nothing is fetched twice.

    Raises:
        PochadeError: there is no such thing, access is denied, or the library for its scheme is not installed.
        FailureError: it cannot be fetched, or is another one whenever it is read.
    """
    brace = _BRACE.search(url)
    if brace is not None:
        numbers = range(int(brace[1]), int(brace[2]) + 1)
        urls = [url.replace(brace[0], str(n).zfill(len(brace[1]))) for n in numbers]
        listed = {one.rpartition("/")[2]: _Remote(one) for one in urls}
        found = {name: (remote, _retried(remote.url, remote.stamp)) for name, remote in listed.items()}
        folder = _copy(url, found, url.rpartition("/")[0])
        return folder / url.rpartition("/")[2]
    remote = _Remote(url)
    below = _retried(url, remote.below)
    wanted = {name: (_Remote(f"{url.rstrip('/')}/{name}"), s) for name, s in below.items() if name and keep(name)}
    if "" in below:  # a file
        name = url.rpartition("/")[2]
        return _copy(url, {name: (remote, below[""])}, url.rpartition("/")[0]) / name
    if not wanted:
        raise PochadeError(f"{url}: there is nothing of use")
    return _copy(url, wanted, url.rstrip("/"))


def fetch_if_any(url: str) -> Path | None:
    """A local copy of a file, None where there is none. Raises as ``fetch``."""
    remote = _Remote(url)

    def is_there() -> bool:
        try:
            remote.stamp()
        except FileNotFoundError:
            return False
        return True

    return fetch(url) if _retried(url, is_there) else None


def fetch_file(url: str, path: Path, check: Callable[[Path], None], size: int) -> None:
    """Fetches a file of ``size`` bytes to ``path``, whole or not at all; ``check`` raises OSError for a copy that is to
    be fetched again.

    Raises PochadeError where it has another size, and as ``fetch``.
    """
    remote = _Remote(url)
    stamp = _retried(url, remote.stamp)
    if stamp[0] != size:
        raise PochadeError(f"{url}: {stamp[0]:,} bytes, its index says {size:,}")
    _fetch(remote, stamp, path, check)


def check_empty(name: str, url: str) -> None:
    """As ``check_writable``; also raises PochadeError where something lies at the URL."""
    remote = _Remote(url)
    with _given_as(name):
        there = remote.scheme not in READ_ONLY and _retried(url, remote.exists)
    if there:
        raise PochadeError(f"{name}: {url} holds something already, and nothing is overwritten; choose another place")
    check_writable(name, url)


def check_writable(name: str, url: str) -> None:
    """Writes a small file below a URL and deletes it again.

    Raises:
        PochadeError: with the argument ``name``: the scheme can be read alone, access is denied, or there is no such
            bucket.
        FailureError: it cannot be written.
    """
    probe = _Remote(f"{url.rstrip('/')}/.pochade-{uuid4().hex}.tmp")
    if probe.scheme in READ_ONLY:
        raise PochadeError(f"{name}: {url} given, which can be read alone; allowed are s3:// and gs://")

    def write() -> None:
        probe.fs.pipe_file(probe.path, b"0")
        probe.delete()

    with _given_as(name):
        _retried(url, write)


@contextmanager
def _given_as(name: str) -> Generator[None]:
    """Within it an error begins with the name of the argument."""
    try:
        yield
    except PochadeError as error:
        error.args = (f"{name}: {error}",)
        raise


def send(folder: Path, url: str) -> None:
    """Sends the files of a folder; what lists others, such as an index, comes last.

    Raises PochadeError where access is denied or there is no such bucket, FailureError where it cannot be sent.
    """
    for file in _files(folder):
        _send(file, f"{url.rstrip('/')}/{file.relative_to(folder).as_posix()}")


@dataclass
class Mirror:
    """A folder here and its copy at a URL, which is the one that counts."""

    folder: Path
    url: str
    but: tuple[str, ...] = ()
    """Names of files that stay here."""
    _known: dict[str, tuple[State, Stamp]] = field(default_factory=dict)
    """The files that are the same here and there, by name, and how they were here and there when they were."""

    def pull(self) -> None:
        """Fetches what is not here, or not as it is there. Raises as ``fetch``, but not where there is nothing yet."""
        remote = _Remote(self.url)
        memory = self.folder / MEMORY
        remembered = json.loads(memory.read_bytes()) if memory.is_file() else {}
        known = {name: ((s[0], s[1]), (t[0], t[1])) for name, (s, t) in remembered.items()}
        self._known = {}
        for name, stamp in (_retried(self.url, remote.below) if _retried(self.url, remote.exists) else {}).items():
            path = self.folder / name
            if not is_safe_name(name):
                raise PochadeError(f"{self.url}: the name {name!r} leaves the folder")
            if not path.exists() or known.get(name) != (_state(path), stamp):
                _fetch(_Remote(f"{self.url}/{name}"), stamp, path)
            self._known[name] = _state(path), stamp
        if self._known:
            write_json(memory, self._known)

    def push(self) -> None:
        """Sends what is new here or has changed, and deletes there what is gone here since. Raises as ``send``."""
        there = {p.relative_to(self.folder).as_posix(): p for p in _files(self.folder) if p.name not in self.but}
        for name, path in there.items():
            state = _state(path)
            if name not in self._known or self._known[name][0] != state:
                self._known[name] = state, _send(path, f"{self.url}/{name}")
        for name in [name for name in self._known if name not in there]:
            remote = _Remote(f"{self.url}/{name}")
            _retried(remote.url, remote.delete)
            del self._known[name]
        write_json(self.folder / MEMORY, self._known)


class _Remote:
    """A URL and the file system that it lies on."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url, self.scheme = url, url.partition("://")[0]
        try:
            self.fs: Any = fsspec.filesystem(self.scheme, **_options(self.scheme))
        except ImportError as error:
            raise missing_extra(LIBRARIES[self.scheme], "scale") from error
        self.path: str = self.fs._strip_protocol(url)
        self.fs.invalidate_cache()  # what another process wrote since is to be seen

    def exists(self) -> bool:
        """Whether it is a file, or a folder or bucket with one."""
        return bool(self.fs.exists(self.path)) and self._holds_file(self.path)

    def _holds_file(self, path: str) -> bool:
        for info in self.fs.ls(path, detail=True):
            if info["type"] != "directory":
                if not info["name"].endswith("/"):  # as of `below`
                    return True
            elif info["name"].strip("/") != path.strip("/") and self._holds_file(info["name"]):
                return True
        return False

    def stamp(self) -> Stamp:
        return _stamp(self._info(self.path))

    def _info(self, path: str) -> Mapping[str, Any]:
        try:
            return self.fs.info(path)
        except FileNotFoundError as error:  # so fsspec calls whatever a web server answers, and that it does not
            if error.__cause__ is None or _status(error.__cause__) in GONE:
                raise
            raise error.__cause__ from None

    def below(self) -> dict[str, Stamp]:
        """The files below it by their names, "" for itself where it is one. Raises FileNotFoundError for nothing."""
        base = self.path.rstrip("/")
        found: Mapping[str, Any] = self.fs.find(self.path if self.scheme in READ_ONLY else base, detail=True)
        if self.scheme not in PUT_IS_WHOLE:  # their listings do not have what is known of each file
            found = {name: self._info(name) for name in found or {self.path: None}}
        else:  # an object of a name that ends so stands for an empty folder; web pages of S3 make it
            found = {name: info for name, info in found.items() if not name.endswith("/")}
        if not found:
            raise FileNotFoundError(self.url)
        return {name.removeprefix(base).lstrip("/"): _stamp(info) for name, info in found.items()}

    def delete(self) -> None:
        self.fs.rm_file(self.path)

    def get(self, path: Path, stamp: Stamp) -> None:
        """Raises OSError where what came is not what was there, before and after."""
        self.fs.get_file(self.path, str(path))
        size = path.stat().st_size
        if size != stamp[0]:
            raise OSError(f"{size:,} of {stamp[0]:,} bytes came")
        if self.scheme in PUT_IS_WHOLE and not _has_md5(path, stamp[1]) and not self._encrypted():
            raise OSError("its MD5 is another one at its source")
        if self.stamp() != stamp:
            raise OSError("it changed while it was read")

    def _encrypted(self) -> bool:
        """Whether it lies on S3 under a key of its own, and its ETag is not its MD5."""
        if self.scheme != "s3":
            return False
        bucket, key, _ = self.fs.split_path(self.path)
        head: Mapping[str, Any] = self.fs.call_s3("head_object", Bucket=bucket, Key=key)
        return head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head

    def put(self, path: Path) -> Stamp:
        """The file as it is there then. Raises OSError where less arrived."""
        target = self.path if self.scheme in PUT_IS_WHOLE else f"{self.path}.{os.getpid()}.tmp"
        self.fs.put_file(str(path), target)
        if target != self.path:
            self.fs.mv(target, self.path)
        size, stamp = path.stat().st_size, self.stamp()
        if stamp[0] != size:
            raise OSError(f"{stamp[0]:,} of {size:,} bytes arrived")
        return stamp


def _options(scheme: str) -> dict[str, Any]:
    """Of a file system, such that no request waits for ever, however long a transfer takes that goes on."""
    match scheme:
        case "http" | "https" | "gs":
            from aiohttp import ClientTimeout

            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what fails is said here, in one line
            limits = ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
            return {"requests_timeout": limits} if scheme == "gs" else {"client_kwargs": {"timeout": limits}}
        case "s3":  # which repeats requests itself, around what botocore would repeat
            return {"config_kwargs": {"read_timeout": SILENCE, "retries": {"total_max_attempts": 1}}}
        case _:
            return {}


def _stamp(info: Mapping[str, Any]) -> Stamp:
    tag = next((info[key] for key in ("ETag", "md5Hash", "etag", "Content-MD5", "Last-Modified") if info.get(key)), "")
    if info.get("size") is None:
        given = f"{info.get('name')}: the server does not tell its size (Content-Length)"
        raise PochadeError(f"{given}, by which a copy is known to be whole; a copy of it on this machine is taken")
    return int(info["size"]), str(tag or info.get("LastModified") or info.get("created") or "")


def _has_md5(path: Path, tag: str) -> bool:
    """Whether a file has the MD5 that a tag is; also where the tag is none."""
    found = _MD5.fullmatch(tag)
    if found is None:
        return True
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").digest()
    return digest == (bytes.fromhex(found[1]) if found[1] else base64.b64decode(found[2]))


def _state(path: Path) -> State:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _files(folder: Path) -> list[Path]:
    """The files below a folder, those that list others last."""
    below = (p for p in folder.rglob("*") if p.is_file() and p.name != MEMORY)
    found = [p for p in below if not any(part.endswith(".tmp") for part in p.relative_to(folder).parts)]
    return sorted(found, key=lambda p: (p.name in LAST and 1 + LAST.index(p.name), p.as_posix()))


def _copy(url: str, files: Mapping[str, "tuple[_Remote, Stamp]"], base: str) -> Path:
    """The folder with all of the files, by name; ``base`` is the URL that their names are below."""
    facts = json.dumps([url, sorted((name, *stamp) for name, (_, stamp) in files.items())])
    folder = cache_folder("remote") / hashlib.sha256(facts.encode()).hexdigest()[:16]
    for name, (remote, stamp) in files.items():
        if not is_safe_name(name):
            raise PochadeError(f"{url}: the name {name!r} leaves the folder")
        if not (folder / name).exists():
            _fetch(remote, stamp, folder / name)
    name_copy(str(folder), base)
    return folder


def _fetch(remote: _Remote, stamp: Stamp, path: Path, check: Callable[[Path], None] = lambda _: None) -> None:
    def once() -> None:
        with atomic_path(path) as temporary:
            try:
                remote.get(temporary, stamp)
                check(temporary)
            except OSError as error:
                raise _Again(error) from error

    _retried(remote.url, once, transfer=True)


def _send(path: Path, url: str) -> Stamp:
    remote = _Remote(url)
    if remote.scheme in READ_ONLY:
        raise PochadeError(f"{url}: it can be read alone; allowed are s3:// and gs://")
    return _retried(url, lambda: remote.put(path), transfer=True)


class _Again(Exception):  # noqa: N818 - carries an error of the network through what names errors of the disk
    """An error on the way from elsewhere."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _retried(url: str, work: Callable[[], T], *, transfer: bool = False) -> T:
    """What ``work`` gives, at the last of ``ATTEMPTS`` at most; an error that stays is one line.

    ``transfer``: whether it may well last, and is not said to wait.
    """
    first, silent, unreached = time.monotonic(), 0.0, 0.0
    for attempt in range(1, ATTEMPTS + 1):
        begin = time.monotonic()
        try:
            with nullcontext() if transfer else _noticed(url):
                return work()
        except PochadeError:
            raise
        except Exception as failure:  # each library has kinds of its own
            error = failure.error if isinstance(failure, _Again) else failure
            reason = _reason(error)
            if isinstance(error, PERMANENT) or _is_denied(error) or type(error).__name__ in SETTINGS:
                raise PochadeError(f"{url}: {reason}") from error
            now = time.monotonic()
            silent += now - begin if _is_silence(error) else 0.0
            unreached += now - begin if _is_unreached(error) else 0.0
            if attempt == ATTEMPTS or silent >= PATIENCE or unreached >= UNREACHED:
                often = f"{attempt} times" if attempt > 1 else "once"
                raise FailureError(f"{url}: {reason}, {often} in {now - first:.0f} s") from error
            print(f"{url}: {reason}; attempt {attempt + 1} of {ATTEMPTS}", file=sys.stderr, flush=True)
            time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
    raise AssertionError


@contextmanager
def _noticed(url: str) -> Generator[None]:
    """Says that an answer is waited for, where that lasts."""
    message = f"{url}: no answer after {NOTICE:g} s, waiting"
    timer = threading.Timer(NOTICE, lambda: print(message, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_silence(error: BaseException | None) -> bool:
    return error is not None and ("Timeout" in type(error).__name__ or _is_silence(error.__cause__))


def _is_unreached(error: BaseException | None) -> bool:
    """Whether there was no connection: of aiohttp ClientConnector..., of botocore EndpointConnectionError."""
    names = ("ClientConnector", "EndpointConnection")
    return error is not None and (type(error).__name__.startswith(names) or _is_unreached(error.__cause__))


def _status(error: BaseException) -> int:
    """Of the answer that an error of aiohttp or gcsfs stands for; 0 for any other."""
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):  # of gcsfs
        return 403
    found = getattr(error, "status", None) or getattr(error, "code", None)
    return int(found) if isinstance(found, int | str) and str(found).isdecimal() else 0


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or _status(error) in DENIED or "Credentials" in type(error).__name__


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    match error:
        case _ if _is_silence(error):
            return f"no answer within {SILENCE:g} s"
        case _ if "Credentials" in type(error).__name__:
            return "no credentials were found (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a configuration file)"
        case FileNotFoundError() if "bucket" in words.lower():
            return "there is no such bucket"
        case FileNotFoundError():
            return "there is nothing"
        case _ if _is_denied(error):
            return f"access is denied ({words})"
        case _:
            return f"{type(error).__name__}: {words}" if words else type(error).__name__
