"""Which files are pictures by their names, how captions are decoded, and what a list may hold of a picture."""

import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from PIL import features

from pochade.data.dataset import Scores, Split
from pochade.errors import PochadeError
from pochade.files import IMAGE_SUFFIXES

LIST = "metadata.jsonl"
"""The list of the pictures in a folder, as it is written."""
INDEX = "index.json"
"""The list of the shards in a folder."""
PREPARED = ("report.json", "preview.png", "README.md")
"""What `pochade data prepare` writes beside the pictures."""
READABLE = (
    *(*IMAGE_SUFFIXES, ".jfif", ".jpe", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif"),
)
"""Suffixes of pictures that are read, the last four where Pillow does or ``pi-heif`` is installed."""
READERS = features.check("avif"), find_spec("pi_heif") is not None
"""What is installed here to read pictures with."""
PICTURES = {
    *READABLE,
    *(".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heics", ".ico", ".j2k", ".jp2", ".jpf", ".jpx"),
    *(".jxl", ".nef", ".orf", ".pbm", ".pcx", ".pgm", ".ppm", ".psd", ".qoi", ".raf", ".raw", ".rw2", ".svg"),
    *(".tga", ".xcf"),
}
"""Suffixes that suggest a picture, read or not."""
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "held_out": "held_out",
    "composed": "held_out",
    "test": "held_out",
    "validation": "held_out",
    "val": "held_out",
    "valid": "held_out",
    "dev": "held_out",
    "eval": "held_out",
}
"""What folders and lists call the two sides, in letters of any case."""
CAPTION_SUFFIXES = (".txt", ".caption")
"""Of files that hold the captions of the picture of that name, a line each; of two for one picture the first counts."""
CAPTION_KEYS = ("text", "caption", "captions", "prompt")
"""What a list may call the captions of a picture, the first that there is."""


_NO_SCORES = {*CAPTION_KEYS, "file_name", "image", "group", "split", "licence", "license", "label"}


class Facts(NamedTuple):
    """What a line of a list, or a .json in a shard, holds of a picture; empty where it holds nothing."""

    captions: tuple[str, ...]
    group: str
    split: str
    licence: str | None
    scores: Scores = ()


def read_facts(row: Any, where: str) -> Facts:
    """The captions, group, split, licence and scores, which are its other numbers, in a JSON object at ``where``.

    Raises:
        TypeError: no object, or captions that are no text.
        PochadeError: as ``stored_split``.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"an object expected, {type(row).__name__} found")
    row = lowered(row)
    key = known_key(row, CAPTION_KEYS)
    value = () if key is None else row[key]
    if not isinstance(value, str | list | tuple) or not all(isinstance(text, str) for text in value):
        raise TypeError("captions are a text or a list of texts")
    captions = clean([value] if isinstance(value, str) else value)
    group = row.get("group")
    licence = row.get("licence", row.get("license"))
    return Facts(
        captions,
        group if isinstance(group, str) else "",
        stored_split(row.get("split"), where),
        licence if isinstance(licence, str) else None,
        tuple((key, number) for key in sorted(row.keys() - _NO_SCORES) if (number := _number(row[key])) is not None),
    )


def _number(value: Any) -> float | None:
    """What a list without types holds as text is a number too; None for anything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def lowered(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with its keys in lower case; of several that are the same then, the first."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        found.setdefault(str(key).strip().casefold(), value)
    return found


def known_key(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The first of ``keys`` that a row has a value for."""
    return next((key for key in keys if row.get(key) is not None), None)


def clean(captions: Iterable[str]) -> tuple[str, ...]:
    """Captions with single blanks, without empty ones and repetitions."""
    return tuple(dict.fromkeys(words for words in (" ".join(c.split()) for c in captions) if words))


def decode_text(data: bytes) -> tuple[str, str]:
    """The text in a caption file, and what to note of its encoding ("" for UTF-8).

    Raises:
        ValueError: it is no text in UTF-8, UTF-16 or Windows' Latin-1.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text, note = data.decode("utf-16"), "caption in UTF-16"
    else:
        try:
            text, note = data.decode("utf-8-sig"), ""
        except UnicodeDecodeError:
            text, note = data.decode("cp1252"), "caption in Latin-1, not UTF-8"
    if any(ord(c) < 32 and not c.isspace() for c in text):
        raise ValueError("it holds control characters: no text")
    return text, note


def side_of(name: str) -> Split | None:
    """The side that a name stands for (``SPLIT_NAMES``), letter case and blanks around it aside; None for neither."""
    return SPLIT_NAMES.get(name.strip().casefold())


def stored_split(value: Any, where: str) -> Split | Literal[""]:
    """The side that is stored with a picture; "" where none is.

    Raises PochadeError, which names the place ``where`` it is stored, for what stands for neither: a picture that was
    kept out of training would be trained on. Tables write a missing value as NaN.
    """
    missing = isinstance(value, float) and math.isnan(value)
    if value is None or missing or (isinstance(value, str) and not value.strip()):
        return ""
    side = side_of(value) if isinstance(value, str) else None
    if side is None:
        raise PochadeError(f"{where}: split {value!r} given, allowed are {', '.join(SPLIT_NAMES)}, or none")
    return side


def split_folders(names: Iterable[str]) -> dict[str, Split]:
    """The side that each of the top folders of a data set stands for; empty where they are no sides.

    They are when all are called so (``SPLIT_NAMES``), one of them train. One folder alone is divided like any other.
    """
    tops = set(names)
    sides: dict[str, Split] = {name: side for name in tops if (side := side_of(name)) is not None}
    if len(sides) < len(tops) or set(sides.values()) != {"train", "held_out"}:
        sides.clear()
    return sides


def split_name(name: str) -> tuple[str, str]:
    """The name without its last suffix, and that in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    return (folder + slash + stem, f".{suffix.lower()}") if dot else (name, "")
