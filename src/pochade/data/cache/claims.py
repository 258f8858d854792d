"""Which process works on what, without a lock: a small file per piece of work, touched while its process lives.

Any number of processes, on any number of machines that see one folder, share work by it. A claim of a process that is
gone is taken over. Two processes may end up with one piece in rare races, which is to be harmless: what they write is
the same, and takes its name whole.
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
"""Seconds without one after which a process is taken for dead, on another machine or with a number used again."""


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
    me = f"{socket.gethostname()} {os.getpid()}"
    if write_if_absent(path, me):
        return Claim(path)
    if not _is_stale(path):
        return None
    with suppress(OSError):
        path.unlink()
    return Claim(path) if write_if_absent(path, me) else None


def _is_stale(path: Path) -> bool:
    try:
        host, _, number = path.read_text().rpartition(" ")
        touched = path.stat().st_mtime
    except OSError:
        return False  # it has just ended: the next check shows it
    if host == socket.gethostname() and number.isdecimal() and not _is_alive(int(number)):
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
