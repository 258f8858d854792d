"""Files written whole or not at all, and names from archives that cannot leave their folder."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@contextmanager
def atomic_file(path: Path) -> Generator[IO[bytes]]:
    """A binary file that takes the name ``path`` once the block has ended well; otherwise nothing is left."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """``value`` as JSON in ``path``, atomically."""
    with atomic_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n")


def is_safe_name(name: str) -> bool:
    """Whether ``name``, read from an archive or a list, stays inside the folder it is joined to."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        return False
    return "\\" not in name and "\0" not in name and name[1:2] != ":"
