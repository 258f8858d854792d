"""Which process works on what, without a lock: a small file per piece of work, touched while its process lives.

Any number of processes, on any number of machines that see one folder, share work by it. A claim of a process that is
gone is taken over: at once where the system tells that it is, else when it has given no sign of life for a while. Two
processes may end up with one piece in rare races, which is to be harmless: what they write takes its name whole.
"""

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from pochade.files import write_if_absent

HEARTBEAT = 10.0
"""Seconds between two signs of life."""
STALE_AFTER = 60.0
"""Seconds without one after which a process is taken for dead, where the system does not tell."""


class Claim:
    """A piece of work that is this process's until the block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="pochade-claim", daemon=True)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with suppress(OSError):  # taken over, or the disk is away: the work itself will raise an error
                os.utime(self._path)

    def __enter__(self) -> "Claim":
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()
        with suppress(OSError):
            self._path.unlink()


def take(path: Path) -> Claim | None:
    """The claim ``path``, or None where a process that lives has it.

    Raises:
        FailureError: it cannot be written.
    """
    me = _describe(os.getpid())
    if write_if_absent(path, me):
        return Claim(path)
    if not _is_stale(path):
        return None
    with suppress(OSError):
        path.unlink()
    return Claim(path) if write_if_absent(path, me) else None


def holder(path: Path) -> str | None:
    """Who has the claim ``path``, as "process 12 on NAME"; None where it is free. Writes nothing that stays."""
    try:
        words = path.read_text().split()
    except OSError:
        return None
    return None if _is_stale(path) else f"process {words[1]} on {words[0]}" if len(words) > 1 else "a process"


def _describe(process: int) -> str:
    """A process by its machine and number and, where the system tells, the time since which it has the number, and
    which of a machine's containers count that way."""
    return " ".join((socket.gethostname(), str(process), *_since(process)))


def _since(process: int) -> tuple[str, ...]:
    """Of a process on Linux its start in ticks, and the space of its number; nothing elsewhere, or of none."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        space = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return ()
    return () if after_name[0] == "Z" else (after_name[19], space)


def _is_stale(path: Path) -> bool:
    try:
        words = path.read_text().split()
        touched = path.stat().st_mtime
    except OSError:
        return False  # it has just ended: the next check shows it
    if len(words) > 1 and words[0] == socket.gethostname() and words[1].isdecimal():
        mine = _since(os.getpid())
        if mine and words[3:] == [mine[1]]:
            return _describe(int(words[1])).split() != words
        if not mine and not _is_alive(int(words[1])):
            return True
    return _now(path) - touched > STALE_AFTER


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there a signal of 0 is one that ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without this information
        return True
    return True


def _now(path: Path) -> float:
    """The time by the clock that stamps the files beside ``path``, which may be another machine's."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()
