"""All files below a folder, through links, once each."""

import os
from pathlib import Path
from typing import NamedTuple


class Files(NamedTuple):
    """Names in a folder, with slashes: its files in order, hidden ones apart, hidden folders, and folders that cannot
    be read, with the reason."""

    names: list[str]
    hidden: list[str]
    hidden_folders: list[str]
    unreadable: list[tuple[str, str]]

    def notes(self) -> list[tuple[str, str]]:
        """What is passed over (what, name)."""
        hidden = [("hidden folder", name) for name in self.hidden_folders]
        hidden += [("hidden file", name) for name in self.hidden]
        return [*hidden, *(("folder that cannot be read", name) for name, _ in self.unreadable)]


def files_below(folder: Path) -> Files:
    """The files of a folder and its subfolders. Folders that links lead to are followed, none twice."""
    found = Files([], [], [], [])
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        found.unreadable.append((name, error.strerror or str(error)))

    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        inside = Path(place).relative_to(folder)
        # The store of what is remembered is nobody's data.
        hidden = [name for name in sorted(folders) if name.startswith(".") and name != ".pochade"]
        found.hidden_folders.extend((inside / name).as_posix() for name in hidden)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            (found.hidden if name.startswith(".") else found.names).append((inside / name).as_posix())
    found.names.sort(key=lambda name: name.split("/"))
    found.hidden.sort()
    return found
