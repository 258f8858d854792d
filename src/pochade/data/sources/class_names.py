"""The names of classes in a file beside the pictures."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pochade.errors import PochadeError

CLASSES = ("classes.txt", "classes.json")
"""What may name the classes: a name a line, or a list of names."""
MOST_CLASSES = 100_000


def read_class_names(folders: Iterable[Path]) -> list[str] | None:
    """The names in any of the ``folders``, None where there are none.

    Raises:
        PochadeError: a file that holds no list of different names, or folders that differ in them.
    """
    found = {folder: names for folder in sorted(folders) if (names := _names_in(folder)) is not None}
    different = [folder for folder, names in found.items() if names != next(iter(found.values()))]
    if different:
        raise PochadeError(f"{different[0]}: its classes are not those of {next(iter(found))}")
    return next(iter(found.values()), None)


def _names_in(folder: Path) -> list[str] | None:
    path = next((folder / name for name in CLASSES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows: Any = text.splitlines() if path.suffix == ".txt" else json.loads(text)
        if not isinstance(rows, list):
            raise TypeError(f"a list expected, {type(rows).__name__} found")
        names = [" ".join(row.split()) for row in rows]
    except (ValueError, TypeError, AttributeError) as error:
        raise PochadeError(f"{path}: no list of names ({type(error).__name__}: {error})") from error
    lines: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name or name.casefold() in lines:
            was = f"{name!r} is also class {lines[name.casefold()]}" if name else "no name"
            raise PochadeError(f"{path}: class {number}: {was}, but each must have a name of its own")
        lines[name.casefold()] = number
    return names
