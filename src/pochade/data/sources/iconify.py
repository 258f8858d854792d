"""Iconify's icon sets, the npm packages ``@iconify-json/NAME``: one JSON file that holds a drawing for each name."""

import json
import re
import shlex
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pochade.errors import PochadeError

SCOPE = "@iconify-json"
MOST_BYTES = 512 * 2**20
"""Of one JSON file; the largest set of drawings has a tenth of it."""
_SPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass(frozen=True)
class IconSet:
    """One set: its title, licence (SPDX) and author as its ``info.json`` has them, and its drawings by name, as SVG.

    ``damaged`` says of others, by name, what is wrong with them.
    """

    prefix: str
    title: str
    licence: str
    author: str
    file: Path
    drawings: dict[str, str]
    damaged: dict[str, str]


def check_name(name: str) -> None:
    """Raises PochadeError for what can be no set's name."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise PochadeError(f"sets: {name!r} given, allowed are names of packages of {SCOPE}, such as noto")


def find_sets(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Where each of the sets lies: a folder with its ``icons.json``, or the package as ``npm pack`` leaves it.

    Looked at are ``NAME``, ``@iconify-json/NAME`` and ``node_modules/@iconify-json/NAME`` in ``folder``, then
    ``iconify-json-NAME-VERSION.tgz``, of several the highest version.

    Raises:
        PochadeError: sets are missing; it names them, and the command that fetches them.
    """
    found: dict[str, Path] = {}
    for name in names:
        check_name(name)
        for place in (folder / name, folder / SCOPE / name, folder / "node_modules" / SCOPE / name):
            if (place / "icons.json").is_file():
                found[name] = place
                break
        else:
            packed = [path for path in folder.glob(f"iconify-json-{name}-*.tgz") if _version(path, name)]
            if packed:
                found[name] = max(packed, key=lambda path: _version(path, name))
    missing = [name for name in names if name not in found]
    if missing:
        packages = " ".join(f"{SCOPE}/{name}" for name in missing)
        raise PochadeError(
            f"path: {folder} lacks {len(missing)} of {len(names)} icon sets; "
            f"npm install --prefix {shlex.quote(str(folder))} {packages} fetches them, "
            "or npm pack, whose .tgz files are read as well"
        )
    return found


def _version(path: Path, name: str) -> tuple[int, ...]:
    """(1, 2, 9) of ``iconify-json-NAME-1.2.9.tgz``; () where another set's name begins with ``name``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)*)", path.name.removeprefix(f"iconify-json-{name}-").removesuffix(".tgz"))
    return tuple(map(int, match[1].split("."))) if match else ()


def read_set(path: Path) -> IconSet:
    """The set in a folder or in a packed package; what is hidden there (withdrawn) is left out.

    A drawing that is not square is centred in a square; one that the set turns or mirrors is drawn so, also where it is
    another drawing that is turned or mirrored. Mere second names of a drawing are left out.

    Raises:
        PochadeError: it cannot be read, or is no icon set.
    """
    try:
        icons, info = _packed(path) if path.is_file() else _unpacked(path)
        licence, author = info["license"], info.get("author", {})
        sizes = {name: icons.get(name, default) for name, default in _DEFAULTS.items()}
        drawings, damaged = dict[str, str](), dict[str, str]()
        for name, icon in {**icons["icons"], **_turned(icons["icons"], icons.get("aliases", {}))}.items():
            try:
                if not icon.get("hidden", False):
                    drawings[name] = _svg({**sizes, **icon})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                damaged[name] = _said(error)
        return IconSet(
            prefix=icons["prefix"],
            title=info["name"],
            licence=licence.get("spdx") or licence["title"],
            author=author.get("name", ""),
            file=path if path.is_file() else path / "icons.json",
            drawings=drawings,
            damaged=damaged,
        )
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PochadeError(f"path: {path} is no icon set of {SCOPE} ({_said(error)})") from error


def _said(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def _turned(icons: dict[str, Any], aliases: dict[str, Any]) -> dict[str, Any]:
    """The drawings among the aliases: those that turn or mirror another one. Flips of both cancel out, turns add up."""
    found: dict[str, Any] = {}
    for name, alias in aliases.items():
        parent = icons.get(alias["parent"])
        if parent and any(alias.get(key) for key in ("rotate", "hFlip", "vFlip")):
            flips = {key: bool(alias.get(key)) != bool(parent.get(key)) for key in ("hFlip", "vFlip")}
            rotate = alias.get("rotate", 0) + parent.get("rotate", 0)
            found[name] = {**parent, **alias, **flips, "rotate": rotate}
    return found


_DEFAULTS = {"left": 0, "top": 0, "width": 16, "height": 16, "rotate": 0, "hFlip": False, "vFlip": False}
"""Iconify's own, where neither a set nor a drawing says otherwise."""


def _unpacked(folder: Path) -> list[Any]:
    return [json.loads((folder / name).read_bytes()) for name in ("icons.json", "info.json")]


def _packed(path: Path) -> list[Any]:
    with tarfile.open(path, "r:gz") as tar:
        values: list[Any] = []
        for name in ("package/icons.json", "package/info.json"):
            member = tar.getmember(name)
            file = tar.extractfile(member)
            if file is None or member.size > MOST_BYTES:
                raise ValueError(f"{name} of {member.size} bytes")
            values.append(json.loads(file.read()))
        return values


def _svg(icon: dict[str, Any]) -> str:
    left, top, width, height = (float(icon[name]) for name in ("left", "top", "width", "height"))
    if not width > 0 or not height > 0:
        raise ValueError(f"a drawing of {width:g} by {height:g}")
    side = max(width, height)
    middle_x, middle_y = left + width / 2, top + height / 2
    body = str(icon["body"])
    turns = [f"rotate({90 * int(icon['rotate'])} {middle_x:g} {middle_y:g})"] if icon["rotate"] else []
    if icon["hFlip"] or icon["vFlip"]:
        across, down = (-1 if icon["hFlip"] else 1), (-1 if icon["vFlip"] else 1)
        moved = f"{middle_x * (1 - across):g} {middle_y * (1 - down):g}"
        turns.append(f"translate({moved}) scale({across} {down})")
    if turns:
        body = f'<g transform="{" ".join(turns)}">{body}</g>'
    box = f"{middle_x - side / 2:g} {middle_y - side / 2:g} {side:g} {side:g}"
    return f'<svg {_SPACES} viewBox="{box}">{body}</svg>'
