"""What a folder of pictures and a set of shards share: every picture is checked once, its bytes are its identity."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from pochade.data.dataset import Dataset, Item, Split, check_size, check_split, split_of
from pochade.data.progress import each
from pochade.data.report import MAX_SKIPPED, Report, readable
from pochade.data.store import read_store, stamp
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.files import write_json
from pochade.images.decode import MAX_MEGAPIXELS, BadImage, load_image, square

CHECKED = "checked.json"
CHECK = 2
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
        max_skipped: the share of pictures in [0, 1] that may be unusable before the whole source is refused.
        progress: show a bar during the first check, where the error stream is a terminal.

    Raises:
        PochadeError: no colour, or a value out of range.
    """

    background: str = "white"
    max_megapixels: float = MAX_MEGAPIXELS
    max_skipped: float = MAX_SKIPPED
    progress: bool = True

    def __post_init__(self) -> None:
        if self.background != "random":
            try:
                ImageColor.getrgb(self.background)
            except ValueError:
                raise PochadeError(
                    f"background: {self.background!r} given, allowed are a colour (white, #ff8800) and random"
                ) from None
        if not self.max_megapixels > 0:
            raise PochadeError(f"max_megapixels: {self.max_megapixels} given, more than 0 expected")
        if not 0 <= self.max_skipped <= 1:
            raise PochadeError(f"max_skipped: {self.max_skipped} given, a share from 0 to 1 expected")

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

    ``group`` and ``split`` are empty where none are stored.
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

    def in_group(self) -> "Picture":
        """With a group and a split: those that are stored, else by the first caption, else by the name."""
        group = self.group or (self.captions[0].casefold() if self.captions else self.name)
        return replace(self, group=group, split=self.split or split_of(group))


class ImageFiles(Dataset):
    """Pictures in files, each decoded once at first use, so that training meets none that is broken.

    What is found out is kept in ``checked.json`` of the ``store``; a second start reads that.

    Args:
        pictures: all that were found, of every split.
        class_names: what the labels of the pictures index; None: they are called by their numbers.
        report: holds what was skipped already; its path is in the store.
        store: the folder to remember things in.
        classes: whether the data set is one of classes; None: where there are no captions. Among captions, a picture
            with a class alone goes by the name of that class.

    Raises:
        PochadeError: classes are wanted and there are none.
        EmptySplitError: no picture is of the split.
        FailureError: too many pictures cannot be used, or all.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        class_names: Sequence[str] | None,
        report: Report,
        store: Path,
        *,
        split: Split,
        classes: bool | None,
        reading: Reading,
    ) -> None:
        check_split(split)
        self.report: Report = report
        self.reading = reading
        labelled = self._name_classes(pictures, class_names, classes)
        report.check()
        checked = _check(labelled, report, store / CHECKED, reading)
        report.check()
        report.write()
        if not checked:
            raise FailureError(f"{report.source}: no usable picture; see {report.path}")
        self.pictures: list[Picture] = []
        self._digests: list[str] = []
        for picture, digest in checked:
            one = picture.in_group()
            if split in ("all", one.split):
                self.pictures.append(one)
                self._digests.append(digest)
        if not self.pictures:
            raise EmptySplitError(split, report.source, len(checked))

    def _name_classes(
        self, pictures: Sequence[Picture], names: Sequence[str] | None, wanted: bool | None
    ) -> list[Picture]:
        """Settles the classes, and whether the data set is one of them; what lacks what it needs is skipped."""
        labels = [picture.label for picture in pictures if picture.label is not None]
        if wanted and not labels:
            raise PochadeError(f"classes: {self.report.source} holds none")
        self._class_names: tuple[str, ...] = ()
        if labels:
            self._class_names = tuple(map(str, range(max(labels) + 1)) if names is None else names)
        if labels and (wanted or (wanted is None and not any(picture.captions for picture in pictures))):
            self.classes = self._class_names
        kept: list[Picture] = []
        for picture in pictures:
            if picture.label is not None and picture.label >= len(self._class_names):
                named = f"{picture.label} of {len(self._class_names)} named ones"
                self.report.skip(picture.name, "unknown class", named)
            elif picture.label is None and self.classes:
                self.report.skip(picture.name, "no class")
            else:
                kept.append(picture)
        return kept

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    def __len__(self) -> int:
        return len(self.pictures)

    def item(self, index: int) -> Item:
        picture = self.pictures[index]
        name = readable(picture.name)
        if self.classes:
            return Item(name, (), picture.label, picture.group, picture.split, picture.licence)
        return Item(name, self._words(picture), None, picture.group, picture.split, picture.licence)

    def stored(self, index: int) -> Item:
        picture = self.pictures[index]
        name = readable(picture.name)
        return Item(name, picture.captions, picture.label, picture.group, picture.split, picture.licence)

    def _words(self, picture: Picture) -> tuple[str, ...]:
        if picture.captions or picture.label is None:
            return picture.captions
        return (self._class_names[picture.label],)

    def image(self, index: int, size: int) -> Image.Image:
        check_size(size)
        picture = self.pictures[index]
        return square(picture.load(picture.read(), size, self.reading)[0], size)

    def identity(self, index: int) -> str:
        digest = self._digests[index]
        if self.reading.background == "white":
            return digest
        return sha256(f"{digest} on {self.reading.background}".encode()).hexdigest()


def skip_all(report: Report, skipped: Iterable[tuple[str, str, str, int]]) -> None:
    """Enters what a reader could not use: name, reason, detail, samples."""
    for name, reason, detail, samples in skipped:
        report.skip(name, reason, detail, samples=samples)


def _check(pictures: Sequence[Picture], report: Report, store: Path, reading: Reading) -> list[tuple[Picture, str]]:
    """Decodes every picture that ``store`` does not know unchanged; the usable ones with their SHA-256.

    What is not usable goes into the report.
    """
    old = read_store(store)
    same = old.get("form") == CHECK and old.get("max_megapixels") == reading.max_megapixels
    known: dict[str, Any] = old.get("pictures", {}) if same else {}
    stamps: dict[Path, list[int]] = {}
    for path in {picture.file for picture in pictures}:
        try:
            stamps[path] = stamp(path)
        except OSError:
            stamps[path] = [0, 0]

    def examine(picture: Picture) -> dict[str, Any]:
        at = [*stamps[picture.file], picture.offset]
        outcome = known.get(readable(picture.name))
        if isinstance(outcome, dict) and outcome.get("stamp") == at:
            return outcome
        try:
            data = picture.read()
            _, conversions = picture.load(data, CHECKED_SIDE, reading)
        except BadImage as error:
            return {"stamp": at, "bad": [error.reason, readable(error.detail)]}
        return {"stamp": at, "converted": list(conversions), "sha256": sha256(data).hexdigest()}

    outcomes: dict[str, Any] = {}
    usable: list[tuple[Picture, str]] = []
    for picture, outcome in each(examine, pictures, f"checking {report.source}", reading.progress):
        outcomes[readable(picture.name)] = outcome
        if "bad" in outcome:
            report.skip(picture.name, *outcome["bad"])
        else:
            report.use(outcome["converted"])
            usable.append((picture, outcome["sha256"]))
    if outcomes != known:
        write_json(store, {"form": CHECK, "max_megapixels": reading.max_megapixels, "pictures": outcomes})
    return usable
