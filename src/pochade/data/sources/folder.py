"""A folder of pictures with captions: ``name.jpg`` beside ``name.txt``, or a ``metadata.jsonl``; or with classes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pochade.data.report import MAX_SKIPPED, Report
from pochade.data.sources.captioned import CaptionedImages, Picture, store_for
from pochade.errors import PochadeError
from pochade.files import IMAGE_SUFFIXES, is_safe_name
from pochade.images.decode import MAX_MEGAPIXELS

METADATA = "metadata.jsonl"
OTHER_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".svg")
EXPECTED = (
    f"expected name.txt beside each picture (a caption a line), or {METADATA} with a line "
    '{"file_name": "name.jpg", "text": "a caption"} for each, or a subfolder for each class'
)


class ImageFolder(CaptionedImages):
    """The captioned PNG, JPEG and WebP pictures of a folder and its subfolders.

    Captions: ``name.txt`` beside ``name.jpg``, each line an alternative of which a sample draws one; or,
    where the folder holds ``metadata.jsonl``, its lines ``{"file_name": ..., "text": a string or a list
    of alternatives}``, which then are the list of pictures. Where there is no caption at all and every picture lies
    directly in one of several subfolders, these are classes, in the order of their names. At first use every picture
    is decoded once; what cannot be used is named in ``report``.

    Args:
        path: the folder.
        size: rows and columns of the samples in pixels (centre crop).
        split: "train", "held_out" (about a tenth, by a hash of the first caption) or "all".
        background: shown where a picture is transparent.
        max_megapixels: larger pictures are refused before they are decoded.
        max_skipped: the share of pictures that may be unusable before the whole folder is refused.
        progress: show a bar during the first check, where the error stream is a terminal.
        classes: whether samples hold the subfolders as classes; None: where there are no captions.

    Raises:
        PochadeError: no such folder, no pictures, neither captions nor classes, a listed name that leaves the folder.
        FailureError: more than ``max_skipped`` unusable; the report's file is named.
    """

    def __init__(
        self,
        path: Path | str,
        size: int,
        *,
        split: str = "all",
        background: str | tuple[int, int, int] = "white",
        max_megapixels: float = MAX_MEGAPIXELS,
        max_skipped: float = MAX_SKIPPED,
        progress: bool = True,
        classes: bool | None = None,
    ) -> None:
        super().__init__(size, split=split, background=background, max_megapixels=max_megapixels)
        self.path = Path(path)
        if not self.path.is_dir():
            raise PochadeError(f"folder: {path} is no folder")
        listed = (self.path / METADATA).is_file()
        candidates = _from_metadata(self.path) if listed else _from_text_files(self.path)
        found = [c for c in candidates if isinstance(c, Picture)]
        names: list[str] | None = None
        if not listed and (classes or not found) and (labelled := _from_subfolders(self.path, bool(classes))):
            candidates, names = labelled
            found = [c for c in candidates if isinstance(c, Picture)]
        if not found:
            what = f"{len(candidates)} pictures but no captions" if candidates else "no pictures"
            raise PochadeError(f"folder: {path} holds {what}: {EXPECTED}")
        store = store_for(self.path)
        self.report = Report(str(self.path), store / "report.json", total=len(candidates), max_skipped=max_skipped)
        for candidate in candidates:
            if not isinstance(candidate, Picture):
                self.report.skip(*candidate)
        self._keep_usable(self._name_classes(found, names, classes), store, progress)


_Skipped = tuple[str, str, str]
"""Name, reason, detail."""


def _pictures(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of each picture below the folder, in order, of whatever format."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in IMAGE_SUFFIXES + OTHER_SUFFIXES and "/." not in f"/{name}" and path.is_file():
            yield name, path


def _from_subfolders(folder: Path, wanted: bool) -> tuple[list[Picture | _Skipped], list[str]] | None:
    """The pictures with their subfolder as class, and the names; None where these are no classes.

    Unless classes are ``wanted``, there must be several of them, and no picture elsewhere.
    """
    pictures = list(_pictures(folder))
    tops = [name.partition("/")[0] if name.count("/") == 1 else "" for name, _ in pictures]
    names = sorted(set(tops) - {""})
    if not names or (not wanted and ("" in tops or len(names) == 1)):
        return None
    numbers = {name: number for number, name in enumerate(names)}
    candidates: list[Picture | _Skipped] = []
    for top, (name, path) in zip(tops, pictures, strict=True):
        if path.suffix.lower() in OTHER_SUFFIXES:
            candidates.append((name, "unsupported format", path.suffix))
        else:
            candidates.append(
                Picture(name, (), path, label=numbers[top])
                if top
                else (name, "no class", "not directly in a subfolder")
            )
    return candidates, names


def _from_text_files(folder: Path) -> list[Picture | _Skipped]:
    candidates: list[Picture | _Skipped] = []
    for name, path in _pictures(folder):
        if path.suffix.lower() in OTHER_SUFFIXES:
            candidates.append((name, "unsupported format", path.suffix.lower()))
            continue
        try:
            text = path.with_suffix(".txt").read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            candidates.append((name, "no caption", f"no {path.with_suffix('.txt').name}"))
        except (OSError, UnicodeDecodeError) as error:
            candidates.append((name, "unreadable caption", str(error)))
        else:
            captions = clean(text.splitlines())
            candidates.append(Picture(name, captions, path) if captions else (name, "empty caption", ""))
    return candidates


def _from_metadata(folder: Path) -> list[Picture | _Skipped]:
    candidates: list[Picture | _Skipped] = []
    seen: set[str] = set()
    with (folder / METADATA).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{METADATA} line {number}"
            try:
                row: Any = json.loads(line.decode("utf-8-sig"))
                name, text = row["file_name"], row["text"]
                if not isinstance(name, str):
                    raise TypeError("file_name is no string")
                captions = clean([text] if isinstance(text, str) else text)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                candidates.append((where, "unreadable line", f"{type(error).__name__}: {error}"))
                continue
            if not is_safe_name(name):
                raise PochadeError(f"{folder / METADATA} line {number}: file_name {name!r} leaves the folder")
            path = folder / name
            if not captions:
                candidates.append((name, "empty caption", where))
            elif name in seen:
                candidates.append((where, "listed twice", name))
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                candidates.append((name, "unsupported format", path.suffix))
            elif not path.is_file():
                candidates.append((name, "missing file", where))
            else:
                candidates.append(Picture(name, captions, path))
            seen.add(name)
    return candidates


def clean(captions: list[str]) -> tuple[str, ...]:
    """Captions with single blanks, without empty ones and repetitions."""
    return tuple(dict.fromkeys(words for words in (" ".join(c.split()) for c in captions) if words))
