"""InstructPix2Pix's and MagicBrush's data, in the layouts in which they are published.

InstructPix2Pix (2211.09800): a folder of folders, each with ``prompt.json`` ("input", "edit", "output") and pairs
``SEED_0.jpg``, ``SEED_1.jpg``, with ``seeds.json``, a list of [folder, [seeds]]; or the columns "original_image" (or
"input_image"), "edit_prompt" and "edited_image". MagicBrush (2306.10012): ``edit_turns.json`` or
``edit_sessions.json`` with "input", "mask", "output" and "instruction", and the pictures in ``images/ID``; or the
columns "source_img", "mask_img", "instruction" and "target_img". Its masks are the source, transparent where it may
be edited.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pochade.data.sources.formats import clean
from pochade.data.sources.hub import Row, open_stream, undecoded
from pochade.data.sources.image_files import Picture
from pochade.data.sources.pairs.pair import Found, PairFiles, Skipped
from pochade.errors import FailureError, PochadeError
from pochade.files import is_safe_name

Candidates = Iterator[Found | Skipped]


@dataclass(frozen=True)
class InstructPix2Pix(PairFiles):
    """The pairs of a folder in the original layout, or of what ``datasets`` reads."""

    path: str

    def candidates(self, progress: bool = True) -> Candidates:  # noqa: ARG002
        folder = Path(self.path).expanduser()
        if (folder / "seeds.json").is_file() or (folder.is_dir() and any(folder.rglob("prompt.json"))):
            return _by_seeds(folder)
        return _by_columns(
            self.path,
            source=("original_image", "input_image"),
            target=("edited_image",),
            words=("edit_prompt",),
            group=("original_prompt",),
        )

    def paths(self) -> tuple[Path, ...]:
        return (Path(self.path).expanduser(),)

    def __str__(self) -> str:
        return f"instructpix2pix {self.path}"


@dataclass(frozen=True)
class MagicBrush(PairFiles):
    """The pairs of a folder in the original layout, or of what ``datasets`` reads."""

    path: str

    def candidates(self, progress: bool = True) -> Candidates:  # noqa: ARG002
        folder = Path(self.path).expanduser()
        for name in ("edit_turns.json", "edit_sessions.json"):
            if (folder / name).is_file():
                return _by_turns(folder, name)
        return _by_columns(
            self.path,
            source=("source_img",),
            target=("target_img",),
            words=("instruction",),
            group=("img_id",),
            mask=("mask_img",),
        )

    def paths(self) -> tuple[Path, ...]:
        return (Path(self.path).expanduser(),)

    def __str__(self) -> str:
        return f"magicbrush {self.path}"


def _by_seeds(folder: Path) -> Candidates:
    listed = folder / "seeds.json"
    rows: Any = _read(listed) if listed.is_file() else None
    if rows is None:
        prompts = sorted(folder.rglob("prompt.json"))
        names = [prompt.parent.relative_to(folder).as_posix() for prompt in prompts]
        rows = [[n, [p.name[: -len("_0.jpg")] for p in sorted((folder / n).glob("*_0.jpg"))]] for n in names]
    for row in rows:
        try:
            name, seeds = row
            if not is_safe_name(name):
                raise PochadeError(f"{listed}: the folder {name!r} leaves {folder}")
            prompt: Any = json.loads((folder / name / "prompt.json").read_text(encoding="utf-8-sig"))
            words, group = clean([prompt["edit"]]), str(prompt.get("input") or name)
        except PochadeError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield str(row)[:80], "unreadable prompt.json", f"{type(error).__name__}: {error}", 1
            continue
        for seed in seeds:
            key = f"{name}/{seed}"
            if not words:
                yield key, "no instruction", "", 1
            else:
                source, target = (_picture(folder, f"{key}_{n}.jpg") for n in (0, 1))
                yield Found(key, "edit", words, group, source, target)


def _by_turns(folder: Path, name: str) -> Candidates:
    rows: Any = _read(folder / name)
    if isinstance(rows, dict):
        rows = [turn for session in rows.values() for turn in session]
    for number, turn in enumerate(rows):
        try:
            group = str(turn["input"]).partition("-")[0]
            places = {role: f"images/{group}/{turn[key]}" for role, key in _TURN.items() if turn.get(key)}
            words = clean([turn["instruction"]])
            source, target = places["source"], places["target"]
        except (KeyError, TypeError, AttributeError) as error:
            yield f"turn {number}", "unreadable turn", f"{type(error).__name__}: {error}", 1
            continue
        if not words:
            yield f"turn {number}", "no instruction", "", 1
            continue
        mask = _picture(folder, places["mask"]) if "mask" in places else None
        pictures = _picture(folder, source), _picture(folder, target), mask
        yield Found(f"turn {number}", "edit", words, group, *pictures, by_alpha=True)


_TURN = {"source": "input", "mask": "mask", "target": "output"}


def _by_columns(path: str, **columns: tuple[str, ...]) -> Candidates:
    """The rows of a data set. ``columns``: by role the names that a column of it may have; all but "group" and "mask"
    must be there."""
    stream = open_stream(path)
    features: Mapping[str, Any] = stream.features or {}
    chosen = {role: next((n for n in names if n in features), None) for role, names in columns.items()}
    for role in ("source", "target", "words"):
        if chosen[role] is None:
            have = ", ".join(features) or "none that is known"
            raise PochadeError(f"path: {path} has no column {' or '.join(columns[role])}, but {have}")
    pictures = [column for role in ("source", "target", "mask") if (column := chosen.get(role))]
    return _rows(path, undecoded(stream, *pictures), {role: name for role, name in chosen.items() if name})


def _rows(path: str, stream: Any, columns: dict[str, str]) -> Candidates:
    number = 0
    try:
        for number, row in enumerate(stream):
            name = f"row {number}"
            words = row[columns["words"]]
            parts = {r: Row(name, row[columns[r]], (), None) for r in ("source", "target", "mask") if r in columns}
            mask = parts.get("mask")
            instructions = clean([words] if isinstance(words, str) else [])
            if not instructions:
                yield name, "no instruction", "", 1
                continue
            group = str(row[columns["group"]] or name) if "group" in columns else name
            mask = None if mask is None or mask.picture is None else mask
            yield Found(name, "edit", instructions, group, parts["source"], parts["target"], mask, by_alpha=True)
    except PochadeError:
        raise
    # Servers, archives and formats fail in their own ways.
    except (OSError, ValueError, RuntimeError) as error:
        raise FailureError(f"path: {path} could not be read beyond row {number}: {error}") from error


def _picture(folder: Path, name: str) -> Picture:
    if not is_safe_name(name):
        raise PochadeError(f"path: {folder} lists {name!r}, which leaves the folder")
    return Picture(name, folder / name)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise PochadeError(f"{path}: no JSON ({error})") from error
