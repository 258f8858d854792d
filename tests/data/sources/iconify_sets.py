"""Small icon sets in the form of the npm packages ``@iconify-json/NAME``."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DISC = '<circle cx="{x}" cy="8" r="6" fill="#{colour}"/>'
LICENCES = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0"}


def disc(colour: str = "f00", x: float = 8, **fields: Any) -> dict[str, Any]:
    """One drawing of a set."""
    return {"body": DISC.format(x=x, colour=colour), **fields}


def files_of(prefix: str, icons: Mapping[str, Any], **sizes: Any) -> dict[str, bytes]:
    """The two files of a package that are read."""
    licence = LICENCES.get(prefix, "MIT")
    info = {
        "prefix": prefix,
        "name": prefix.replace("-", " ").title(),
        "total": len(icons),
        "author": {"name": "Jane Doe", "url": "https://example.org"},
        "license": {"title": licence.replace("-", " "), "spdx": licence, "url": "https://example.org/licence"},
    }
    values = {"prefix": prefix, "icons": dict(icons), "aliases": {}, "lastModified": 1754901253, **sizes}
    return {"icons.json": json.dumps(values).encode(), "info.json": json.dumps(info).encode()}


def write_folder(folder: Path, prefix: str, icons: Mapping[str, Any], **sizes: Any) -> Path:
    """The package as ``npm install`` leaves it below ``folder``."""
    place = folder / "node_modules" / "@iconify-json" / prefix
    place.mkdir(parents=True)
    for name, data in files_of(prefix, icons, **sizes).items():
        (place / name).write_bytes(data)
    return place


def write_packed(folder: Path, prefix: str, icons: Mapping[str, Any], version: str = "1.2.3", **sizes: Any) -> Path:
    """The package as ``npm pack`` leaves it in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"iconify-json-{prefix}-{version}.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files_of(prefix, icons, **sizes).items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
