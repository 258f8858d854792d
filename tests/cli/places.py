"""Places where a file cannot be read or written: real ones, also for root."""

import ctypes
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DAC = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def permissions_count() -> Iterator[None]:
    """Within it permissions hold for this thread, and those that it starts, also where it is root's."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then those above 31
    assert libc.capget(head, sets) == 0, os.strerror(ctypes.get_errno())
    before = sets[0]
    sets[0] = before & ~_DAC
    assert libc.capset(head, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(head, sets) == 0, os.strerror(ctypes.get_errno())


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Within it nothing more can be written into ``folder``, an empty one; where no disk can be mounted there, no file
    of this process can grow beyond a few bytes."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        try:
            (folder / "filler").write_bytes(bytes(4096))
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
