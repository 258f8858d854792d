"""A folder of pictures with captions: ``name.jpg`` beside ``name.txt``, or a ``metadata.jsonl``."""

import json
from pathlib import Path
from typing import Any

from pochade.data.captioned import CaptionedImages, Picture, store_for
from pochade.data.files import IMAGE_SUFFIXES, is_safe_name
from pochade.data.images import MAX_MEGAPIXELS
from pochade.data.report import MAX_SKIPPED, Report
from pochade.errors import PochadeError

METADATA = "metadata.jsonl"
OTHER_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".svg")
EXPECTED = (
    f"expected name.txt beside each picture (a caption a line), or {METADATA} with a line "
    '{"file_name": "name.jpg", "text": "a caption"} for each'
)


class ImageFolder(CaptionedImages):
    """The captioned PNG, JPEG and WebP pictures of a folder and its subfolders.

    Captions: ``name.txt`` beside ``name.jpg``, each line an alternative of which a sample draws one; or,
    where the folder holds ``metadata.jsonl``, its lines ``{"file_name": ..., "text": a string or a list
    of alternatives}``, which then are the list of pictures. At first use every picture is decoded once;
    what cannot be used is named in ``report``.

    Args:
        path: the folder.
        size: rows and columns of the samples in pixels (centre crop).
        split: "train", "held_out" (about a tenth, by a hash of the first caption) or "all".
        background: shown where a picture is transparent.
        max_megapixels: larger pictures are refused before they are decoded.
        max_skipped: the share of pictures that may be unusable before the whole folder is refused.
        progress: show a bar during the first check, where the error stream is a terminal.

    Raises:
        PochadeError: no such folder, no pictures, no captions at all, a listed name that leaves the folder.
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
    ) -> None:
        super().__init__(size, split=split, background=background, max_megapixels=max_megapixels)
        self.path = Path(path)
        if not self.path.is_dir():
            raise PochadeError(f"folder: {path} is no folder")
        listed = (self.path / METADATA).is_file()
        candidates = _from_metadata(self.path) if listed else _from_text_files(self.path)
        found = [c for c in candidates if isinstance(c, Picture)]
        if not found:
            what = f"{len(candidates)} pictures but no captions" if candidates else "no pictures"
            raise PochadeError(f"folder: {path} holds {what}: {EXPECTED}")
        store = store_for(self.path)
        self.report = Report(str(self.path), store / "report.json", total=len(candidates), max_skipped=max_skipped)
        for candidate in candidates:
            if not isinstance(candidate, Picture):
                self.report.skip(*candidate)
        self._keep_usable(found, store, progress)


_Skipped = tuple[str, str, str]
"""Name, reason, detail."""


def _from_text_files(folder: Path) -> list[Picture | _Skipped]:
    candidates: list[Picture | _Skipped] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        suffix = path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES + OTHER_SUFFIXES or f"/{name}".find("/.") >= 0 or not path.is_file():
            continue
        if suffix in OTHER_SUFFIXES:
            candidates.append((name, "unsupported format", suffix))
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
