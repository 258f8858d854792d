"""What a folder of pictures and a set of shards share: every picture is checked once, its bytes are its identity."""

import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from pochade.arguments import is_number, plain, shown
from pochade.data.dataset import Dataset, Item, Scores, Shape, Split, check_size, check_split, split_of
from pochade.data.progress import each
from pochade.data.report import MAX_SKIPPED, Report, readable
from pochade.data.sources.formats import READERS
from pochade.data.store import read_store, stamp
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.files import write_json
from pochade.images.decode import MAX_MEGAPIXELS, UNSUPPORTED, BadImage, dimensions, fitted, load_image

CHECKED = "checked.json"
CHECK = 3
"""Changes with the form of what is remembered of a check."""
CHECKED_SIDE = 32
"""Pixels: at a small size a JPEG is read to its end, which finds truncation, in a fraction of the time."""


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Attributes:
        background: what transparent pictures stand on: a colour by its name or as #rrggbb, or "random", a plain colour
            of its own for each picture.
        max_megapixels: larger pictures are refused before they are decoded.
        max_skipped: the fraction of pictures in [0, 1] that may be unusable before the whole source is refused.
        progress: show it on the error stream during the first check.

    Raises:
        PochadeError: no colour, or a value out of range.
    """

    background: str = "white"
    max_megapixels: float = MAX_MEGAPIXELS
    max_skipped: float = MAX_SKIPPED
    progress: bool = True

    def __post_init__(self) -> None:
        allowed = "a colour (white, #ff8800) and random"
        if not isinstance(self.background, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PochadeError(f"background: {shown(self.background)} given, allowed are {allowed}")
        if self.background != "random":
            try:
                ImageColor.getrgb(self.background)
            except ValueError:
                raise PochadeError(f"background: {self.background!r} given, allowed are {allowed}") from None
        for name in ("max_megapixels", "max_skipped"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if not is_number(self.max_megapixels) or not self.max_megapixels > 0:
            raise PochadeError(f"max_megapixels: {shown(self.max_megapixels)} given, more than 0 expected")
        if not is_number(self.max_skipped) or not 0 <= self.max_skipped <= 1:
            raise PochadeError(f"max_skipped: {shown(self.max_skipped)} given, a fraction from 0 to 1 expected")

    def colour(self, name: str) -> tuple[int, int, int]:
        """What the picture of that name stands on."""
        if self.background == "random":
            red, green, blue = sha256(name.encode("utf-8", "surrogateescape")).digest()[:3]
        else:
            red, green, blue = ImageColor.getrgb(self.background)[:3]
        return red, green, blue


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the bytes of one picture lie, and what is stored of it; ``length`` None: the whole of ``file``.

    ``group`` and ``split`` are empty where none are stored; ``origin`` is what the captions were read from.
    """

    name: str
    file: Path
    captions: tuple[str, ...] = ()
    label: int | None = None
    group: str = ""
    split: str = ""
    licence: str | None = None
    offset: int = 0
    length: int | None = None
    origin: str = ""
    scores: Scores = ()

    def read(self) -> bytes:
        """The picture's bytes; raises `BadImage`."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read() if self.length is None else file.read(self.length)
        except OSError as error:
            raise BadImage(self.name, "unreadable", error.strerror or str(error)) from error

    def load(self, data: bytes, size: int, reading: Reading) -> tuple[Image.Image, tuple[str, ...]]:
        """The RGB picture in its bytes, for a square of ``size``, and the conversions it took; raises `BadImage`."""
        colour = reading.colour(self.name)
        limit = reading.max_megapixels
        return load_image(data, size=size, max_megapixels=limit, background=colour, name=self.name)

    def pixels(self, data: bytes) -> Shape | None:
        """Columns and rows as they lie in its bytes; None where it is drawn, square, at any size. Raises `BadImage`."""
        return dimensions(data, self.name)

    def examine(self, data: bytes, reading: Reading) -> tuple[tuple[str, ...], Shape | None]:
        """Decodes all of it: the conversions it took, and its width and height upright; raises `BadImage`."""
        image, conversions = self.load(data, CHECKED_SIDE, reading)
        lying = self.pixels(data)
        if lying is None:
            return conversions, None
        width, height = lying
        turned = "rotated" in conversions and (width > height) != (image.width > image.height)
        return conversions, (height, width) if turned else (width, height)

    @property
    def own_group(self) -> str:
        """The group that is stored, else the first caption, else the name."""
        return self.group or (self.captions[0].casefold() if self.captions else self.name)

    @property
    def held_out(self) -> bool:
        """The side that is stored, else that of the group."""
        return (self.split or split_of(self.own_group)) != "train"


class Records(ABC):
    """The usable pictures of a source, of all splits and with all that is stored of them.

    Attributes:
        labels: [n], their classes, -1 for none.
        captioned: [n] bool, whether they have captions.
        held_out: [n] bool, the side of the split that they are on.
    """

    labels: np.ndarray
    captioned: np.ndarray
    held_out: np.ndarray

    @abstractmethod
    def picture(self, index: int) -> Picture: ...

    @abstractmethod
    def digest(self, index: int) -> str:
        """The SHA-256 of the bytes of a picture."""

    @abstractmethod
    def dimensions(self, index: int) -> Shape | None:
        """Width and height in pixels of a picture, upright; None where it is drawn, square, at any size."""

    def different(self, rows: np.ndarray) -> int | None:
        """How many digests the pictures ``rows`` [m] have; None where that is not at hand."""
        del rows
        return None

    def chosen(self, split: Split) -> np.ndarray:
        """Which pictures are of a split, [n] bool."""
        return np.ones(len(self.labels), bool) if split == "all" else self.held_out == (split == "held_out")

    def side(self, index: int) -> str:
        """The split that a picture is of, never "all"."""
        return "held_out" if self.held_out[index] else "train"

    @abstractmethod
    def fingerprint(self) -> str:
        """A hexadecimal text that changes with the bytes of any picture, with what is stored of it, and the order."""


class ImageFiles(Dataset):
    """Pictures in files, all of which have been decoded once, so that training meets none that is broken.

    Args:
        records: of every split.
        class_names: what the labels of the pictures index; None: they are called by their numbers.
        report: holds what was skipped already; it is completed, and written.
        classes: whether the data set is one of classes; None: where there are no captions. Among captions, a picture
            with a class alone goes by the name of that class.

    Raises:
        PochadeError: classes are wanted and there are none.
        EmptySplitError: no picture is of the split.
        FailureError: too many pictures cannot be used, or all.
    """

    def __init__(
        self,
        records: Records,
        class_names: Sequence[str] | None,
        report: Report,
        *,
        split: Split,
        classes: bool | None,
        reading: Reading,
    ) -> None:
        check_split(split)
        self.records, self._report, self.reading = records, report, reading
        usable = self._name_classes(class_names, classes)
        report.check()
        report.write()
        if not usable.any():
            raise FailureError(f"{report.source}: no usable picture; see {report.path}")
        chosen = usable & records.chosen(split)
        self._rows = np.flatnonzero(chosen)
        if not len(self._rows):
            groups = {records.picture(int(row)).own_group for row in np.flatnonzero(usable)}
            alone = readable(groups.pop()) if len(groups) == 1 else None
            raise EmptySplitError(split, report.source, int(usable.sum()), alone)
        self._fingerprint: str | None = None

    def _name_classes(self, names: Sequence[str] | None, wanted: bool | None) -> np.ndarray:
        """Settles the classes, and whether the data set is one of them; [n] bool, what has what it needs."""
        labels = self.records.labels
        labelled = labels >= 0
        if wanted and not labelled.any():
            raise PochadeError(f"classes: {self.report.source} holds none")
        self._class_names: tuple[str, ...] = ()
        if labelled.any():
            self._class_names = tuple(map(str, range(int(labels.max()) + 1)) if names is None else names)
        if labelled.any() and (wanted or (wanted is None and not self.records.captioned.any())):
            self.classes = self._class_names
        unknown = labels >= len(self._class_names)
        for index in np.flatnonzero(unknown & labelled):
            named = f"{labels[index]} of {len(self._class_names)} named ones"
            self.report.skip(self.records.picture(int(index)).name, "unknown class", named)
        lacking = ~labelled if self.classes else np.zeros_like(labelled)
        for index in np.flatnonzero(lacking):
            self.report.skip(self.records.picture(int(index)).name, "no class")
        left_out = (unknown & labelled) | lacking
        self.report.used -= int(left_out.sum())
        return ~left_out

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @property
    def report(self) -> Report:
        return self._report

    def picture(self, index: int) -> Picture:
        """Where picture ``index`` lies, and what is stored of it."""
        return self.records.picture(int(self._rows[index]))

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int) -> Item:
        picture, split = self._known(index)
        captions, label = picture.captions, picture.label
        if self.classes:
            captions = ()
        else:
            captions, label = captions or (() if label is None else (self._class_names[label],)), None
        return Item(
            readable(picture.name), captions, label, readable(picture.own_group), split, picture.licence, picture.scores
        )

    def stored(self, index: int) -> Item:
        picture, split = self._known(index)
        name, group = readable(picture.name), readable(picture.own_group)
        return Item(name, picture.captions, picture.label, group, split, picture.licence, picture.scores)

    def _known(self, index: int) -> tuple[Picture, str]:
        row = int(self._rows[index])
        return self.records.picture(row), self.records.side(row)

    def image(self, index: int, size: int) -> Image.Image:
        return self.fitted(index, size, size)

    def fitted(self, index: int, width: int, height: int) -> Image.Image:
        check_size(width)
        check_size(height)
        size = max(width, height)
        picture = self.picture(index)
        return fitted(picture.load(picture.read(), size, self.reading)[0], width, height)

    def dimensions(self, index: int) -> Shape | None:
        return self.records.dimensions(int(self._rows[index]))

    def identity(self, index: int) -> str:
        digest = self.records.digest(int(self._rows[index]))
        if self.reading.background == "white":
            return digest
        return sha256(f"{digest} on {self.reading.background}".encode()).hexdigest()

    def different(self) -> int | None:
        count = self.records.different(self._rows)
        return count if count != len(self) else None

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            facts = [self.classes, self.reading.background, self.records.fingerprint()]
            digest = sha256(json.dumps(facts).encode())
            digest.update(np.ascontiguousarray(self._rows).tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


class CheckedPictures(Records):
    """Pictures of a list, all of one class, each decoded once at first use.

    They are kept as columns of bytes and numbers, which take a quarter of the memory of objects.

    What is found out is kept in ``checked.json`` of the folder ``store``; a second start reads that. What cannot be
    used goes into ``report``.
    """

    def __init__(self, pictures: Sequence[Picture], report: Report, store: Path, reading: Reading) -> None:
        checked = _check(pictures, report, store / CHECKED, reading)
        self._class = type(pictures[0]) if pictures else Picture
        self._names = [field.name for field in fields(self._class)]
        self._facts, ends = bytearray(), array("q", [0])
        for p, *_ in checked:
            values = {name: getattr(p, name) for name in self._names} | {"file": str(p.file)}
            self._facts += json.dumps([*values.values()]).encode()
            ends.append(len(self._facts))
        self._ends = np.array(ends)
        self._digests = b"".join(bytes.fromhex(digest) for _, digest, _ in checked)
        self._pixels = np.array([pixels or (0, 0) for *_, pixels in checked], np.int32).reshape(-1, 2)
        self.labels = np.array([-1 if p.label is None else p.label for p, *_ in checked], np.int64)
        self.captioned = np.array([bool(picture.captions) for picture, *_ in checked], bool)
        self.held_out = np.array([picture.held_out for picture, *_ in checked], bool)

    def picture(self, index: int) -> Picture:
        start, end = self._ends[index : index + 2].tolist()
        values: dict[str, Any] = dict(zip(self._names, json.loads(self._facts[start:end]), strict=True))
        values |= {"file": Path(values["file"]), "captions": tuple(values["captions"])}
        values["scores"] = tuple(map(tuple, values["scores"]))
        return self._class(**values)

    def dimensions(self, index: int) -> Shape | None:
        width, height = self._pixels[index].tolist()
        return (width, height) if width else None

    def digest(self, index: int) -> str:
        return self._digests[32 * index : 32 * index + 32].hex()

    def different(self, rows: np.ndarray) -> int | None:
        return len(np.unique(np.frombuffer(self._digests, "S32")[rows]))

    def fingerprint(self) -> str:
        digest = sha256()
        for index, held_out in enumerate(self.held_out.tolist()):
            picture = self.picture(index)
            facts = [self.digest(index), picture.captions, picture.label, picture.own_group, held_out]
            digest.update(json.dumps(facts).encode())
        return digest.hexdigest()


def skip_all(report: Report, skipped: Iterable[tuple[str, str, str, int]]) -> None:
    """Enters what a reader could not use: name, reason, detail, samples."""
    for name, reason, detail, samples in skipped:
        report.skip(name, reason, detail, samples=samples)


def _check(
    pictures: Sequence[Picture], report: Report, store: Path, reading: Reading
) -> list[tuple[Picture, str, Shape | None]]:
    """Decodes every picture that ``store`` does not know unchanged; the usable ones with their SHA-256 and dimensions.

    What is not usable goes into the report.
    """
    old = read_store(store)
    same = old.get("form") == CHECK and old.get("max_megapixels") == reading.max_megapixels
    known: dict[str, dict[str, Any]] = old.get("pictures", {}) if same else {}
    same_readers = old.get("readers") == [*READERS]
    stamps: dict[Path, list[int]] = {}
    for path in {picture.file for picture in pictures}:
        try:
            stamps[path] = stamp(path)
        except OSError:
            stamps[path] = [0, 0, 0]

    def examine(picture: Picture) -> dict[str, Any]:
        at = [*stamps[picture.file], picture.offset]
        outcome = known.get(readable(picture.name), {})
        # What reads another format may have been installed since.
        same_outcome = same_readers or outcome.get("bad", [""])[0] != UNSUPPORTED
        if outcome.get("stamp") == at and same_outcome:
            return outcome
        try:
            data = picture.read()
            conversions, pixels = picture.examine(data, reading)
        except BadImage as error:
            return {"stamp": at, "bad": [error.reason, readable(error.detail)]}
        found = {"stamp": at, "converted": list(conversions), "pixels": pixels}
        return {**found, "sha256": sha256(data).hexdigest()}

    outcomes: dict[str, Any] = {}
    usable: list[tuple[Picture, str, Shape | None]] = []
    for picture, outcome in each(examine, pictures, f"checking {report.source}", reading.progress):
        outcomes[readable(picture.name)] = outcome
        if "bad" in outcome:
            report.skip(picture.name, *outcome["bad"])
        else:
            report.use(outcome["converted"], picture.origin)
            usable.append((picture, outcome["sha256"], outcome["pixels"]))
    if outcomes != known or not same_readers:
        about = {"form": CHECK, "max_megapixels": reading.max_megapixels, "readers": READERS}
        write_json(store, {**about, "pictures": outcomes})
    return usable
