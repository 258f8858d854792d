"""What the allocator of the C library does with memory that was freed (glibc; elsewhere nothing is changed)."""

import ctypes
import os
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Of ``mallopt``, as malloc.h numbers them."""
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_MOST = 2**31 - 1
_OF_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables by which a user sets the same: where one of them is there, nothing is changed."""


KEPT = 256 * 2**20
"""What a process with torch keeps that generates pictures."""


def keep_freed_memory(most: int | None) -> None:
    """Has the C library hand out again what was freed, in place of returning it to the system.

    Networks free and take the same large blocks at every call. Taken from the system, a block is filled with zeros page
    by page when it is first touched, which takes up to a third of the time of a call.

    Args:
        most: bytes at the end of the heap that may stay free, and twice the size of the blocks that are kept, up to 32
            MiB. None for 2 GiB and blocks of all sizes: faster where blocks are large, as in training, and holds what
            loading took.
    """
    set_option = _c_function("mallopt")
    if set_option is None or any(name in os.environ for name in _OF_USER):
        return
    if most is None:
        set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, _MOST)
    else:
        set_option(_MMAP_THRESHOLD, min(most // 2, _LARGEST_MMAP_THRESHOLD))
        set_option(_TRIM_THRESHOLD, most)


def release_memory() -> None:
    """Returns to the system what was freed."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def _c_function(name: str) -> Any:
    """A function of glibc; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
