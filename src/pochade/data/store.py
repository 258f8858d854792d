"""What is remembered of a data set between two starts, so that unchanged files are not read again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pochade.errors import FailureError


def store_for(folder: Path) -> Path:
    """Where to remember things about ``folder``: ``.pochade`` in it, or the user's cache if read-only."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    for store in (folder / ".pochade", cache / "pochade" / digest):
        try:
            store.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(store, os.W_OK):
            return store
    raise FailureError(f"{folder}: neither it nor {cache} can be written, so no report can be kept")


def stamp(path: Path) -> list[int]:
    """What changes with a file: the times of the last change of its bytes and of anything, in ns, and its size.

    The second changes also where the first is set back, as copying and unpacking do. Raises OSError.
    """
    status = path.stat()
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size]


def read_store(path: Path) -> dict[str, Any]:
    """A JSON object remembered earlier; empty where there is none or it is damaged: it only saves time."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
