"""Copies of shards on the disk of this machine, of which there are never more than a number of bytes.

All processes of the machine share them: each copy is fetched by one of them, which holds a claim on it meanwhile, and
takes its name when it is whole and has the SHA-256 of the index.
"""

import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pochade.data.cache.claims import take
from pochade.files import cache_folder, remove_orphans, sha256
from pochade.storage import fetch_file

WORKERS = 8
"""Threads that fetch what is expected."""
POLL = 0.05
"""Seconds from one check of what other processes are fetching to the next."""


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """A shard at a URL, as an index lists it; ``name`` is that below the URL of the data set."""

    name: str
    samples: int
    bytes: int
    sha256: str

    @property
    def key(self) -> str:
        """The name of its copy, without suffix; it ends in the bytes."""
        return f"{self.sha256[:32]}-{self.bytes}"


_Expected = tuple[RemoteShard, Future[None], Callable[[RemoteShard], object]]


class ShardCache:
    """Copies of the shards of one data set. Where there is no room for another one, the oldest are deleted, those last
    that ``expect`` has named.

    Args:
        url: of the data set, to which the names of shards are relative.
        limit: bytes of all copies, those under way included.
    """

    def __init__(self, url: str, limit: int) -> None:
        self.url, self.limit = url.rstrip("/"), limit
        self.folder = cache_folder("shards") / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        for claim in self.folder.glob("*.claim"):  # of processes that were killed
            if (mine := take(claim)) is not None:
                with mine:
                    remove_orphans(self.folder, f"{claim.stem}.tar")
        self._coming: dict[RemoteShard, Future[None]] = {}
        self._work: queue.SimpleQueue[_Expected] = queue.SimpleQueue()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()

    def path(self, shard: RemoteShard) -> Path:
        """The copy of a shard, which is fetched where it is not there, or waited for.

        Raises:
            PochadeError: there is no such shard, or one of another size than the index says.
            FailureError: it cannot be fetched.
        """
        path = self._path(shard)
        while not path.exists():
            coming = self._coming.get(shard)
            if coming is not None and not coming.done():
                with suppress(CancelledError):  # it was expected, and is no longer
                    coming.result()
            else:
                with self._lock:
                    self._fetch(shard)
        return path

    def expect(self, shards: Sequence[RemoteShard], then: Callable[[RemoteShard], object]) -> None:
        """Fetches shards in the background, in this order, in place of those that were named before.

        ``then`` is called with each.

        Raises as ``path`` where one of those named before could not be fetched.
        """
        for future in self._coming.values() if shards else ():
            if future.done():
                future.result()
        if list(self._coming) == list(shards):
            return
        before = self._coming
        self._coming = {shard: before.get(shard) or Future[None]() for shard in shards}
        for shard in before.keys() - self._coming.keys():
            before[shard].cancel()
        while len(self._workers) < min(WORKERS, len(shards)):
            self._workers.append(threading.Thread(target=self._fetch_expected, name="pochade-shards", daemon=True))
            self._workers[-1].start()
        for shard, future in self._coming.items():
            if shard not in before:
                self._work.put((shard, future, then))

    def _fetch_expected(self) -> None:
        while True:
            shard, future, then = self._work.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._fetch(shard)
                then(shard)
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)

    def _path(self, shard: RemoteShard) -> Path:
        return self.folder / f"{shard.key}.tar"

    def _fetch(self, shard: RemoteShard) -> None:
        path = self._path(shard)
        while not path.exists():
            claim = take(path.with_suffix(".claim"))
            if claim is not None:
                with claim:
                    if path.exists():
                        return
                    remove_orphans(self.folder, path.name)
                    if self._has_room(shard):
                        fetch_file(f"{self.url}/{shard.name}", path, lambda copy: _check(shard, copy), shard.bytes)
                        return
            time.sleep(POLL * (1 + random.random()))

    def _has_room(self, shard: RemoteShard) -> bool:
        """Whether there is room for a shard that this process has the claim on; makes some where it can."""
        while True:
            copies: dict[str, tuple[float, int]] = {}
            for path in self.folder.glob("*.tar"):
                with suppress(OSError):  # which another process deletes
                    copies[path.stem] = path.stat().st_mtime, path.stat().st_size
            coming = {path.stem for path in self.folder.glob("*.claim")} | {shard.key}
            used = sum(size for _, size in copies.values())
            used += sum(int(key.rpartition("-")[2]) for key in coming if key not in copies)
            if used <= self.limit:
                return True
            expected = {one.key for one in self._coming}
            oldest = min(copies, key=lambda key: (key in expected, copies[key][0]), default=None)
            # What is expected gives way to what is needed now, never to what is expected itself.
            if oldest is None or (oldest in expected and shard in self._coming):
                return False
            (self.folder / f"{oldest}.tar").unlink(missing_ok=True)


def _check(shard: RemoteShard, copy: Path) -> None:
    if sha256(copy) != shard.sha256:
        raise OSError("its SHA-256 is not that of the index")
