"""Memory that was freed is handed out again, counted in pages that the system had to fill."""

import os
import platform
import sys

import pytest

from processes import started

_COUNT = """
import ctypes, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # pages of 4 KiB alone
from pochade.allocator import keep_freed_memory, release_memory
{before}
def call():
    for size in (3, 12, 48):
        b"x" * (size * 2**20)
call()
{after}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's"
)


TOUCHED = 5 * 63 * 256
"""Pages that the five calls write to."""


def pages(before: str, after: str = "", **environment: str) -> int:
    """Pages that the system had to fill for five calls."""
    unset = {name: None for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))}
    with started("-c", _COUNT.format(before=before, after=after), **{**unset, **environment}) as process:
        out, error = process.communicate()
    assert not process.returncode, error
    return int(out)


def test_freed_memory_is_handed_out_again() -> None:
    assert pages("keep_freed_memory(None)") < 0.01 * TOUCHED


def test_blocks_of_half_a_limit_are_kept() -> None:
    found = pages("keep_freed_memory(16 * 2**20)")  # those of 3 MiB alone
    assert 0.9 * TOUCHED < found < 0.96 * TOUCHED


def test_what_the_user_has_set_stays() -> None:
    assert pages("keep_freed_memory(None)", MALLOC_MMAP_THRESHOLD_="131072") > 0.99 * TOUCHED


def test_what_was_kept_is_released() -> None:
    once = 0.2 * 48 / 63 * TOUCHED
    assert 0.95 * once < pages("keep_freed_memory(None)", "release_memory()") < 1.1 * once
