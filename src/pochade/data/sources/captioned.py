"""What a folder of pictures and a set of shards share: checking every picture once, and drawing samples."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pochade.data.dataset import SPLITS, is_held_out
from pochade.data.report import Report
from pochade.errors import FailureError, PochadeError
from pochade.files import write_json
from pochade.images.decode import MAX_MEGAPIXELS, BadImage, load_image, square, to_tensor

log = logging.getLogger(__name__)
SUBSTITUTES = 10
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the bytes of one picture lie, its captions, its class. ``length`` None: the whole of ``file``."""

    name: str
    captions: tuple[str, ...]
    file: Path
    offset: int = 0
    length: int | None = None
    label: int | None = None

    def read(self) -> bytes:
        """The picture's bytes; raises `BadImage`."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read() if self.length is None else file.read(self.length)
        except OSError as error:
            raise BadImage(self.name, "unreadable", error.strerror or str(error)) from error


class CaptionedImages:
    """Pictures with captions or classes, all decoded once at first use, so that training meets none that is broken.

    A subclass finds the pictures; this class checks them, keeps the outcome in
    ``.pochade/checked.json`` of the folder (a second start reads that), and draws samples. ``items``
    are the usable pictures of the split, ``report`` says what became of the others.

    Samples hold captions where any picture has one, and classes otherwise; ``class_names`` is there only where they
    hold classes. Among captions, a picture with a class alone goes by the name of that class.
    """

    items: list[Picture]
    report: Report
    classes: tuple[str, ...] = ()
    """The names of the classes that pictures are labelled with, whether samples hold them or not."""
    class_names: tuple[str, ...]

    def __init__(
        self,
        size: int,
        *,
        split: str = "all",
        background: str | tuple[int, int, int] = "white",
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        check_size(size)
        check_split(split)
        self.size, self.split = size, split
        self.background, self.max_megapixels = background, max_megapixels

    def _name_classes(
        self, found: Sequence[Picture], names: Sequence[str] | None, wanted: bool | None
    ) -> list[Picture]:
        """Settles ``classes``, and whether samples hold them; what lacks what they hold is skipped.

        ``names`` None: the classes are called by their numbers. ``wanted`` None: classes are given where there are no
        captions. Raises PochadeError where classes are wanted and there are none.
        """
        labels = [picture.label for picture in found if picture.label is not None]
        if wanted and not labels:
            raise PochadeError(f"classes: {self.report.source} holds none")
        if labels:
            self.classes = tuple(str(n) for n in range(max(labels) + 1)) if names is None else tuple(names)
        if labels and (wanted or (wanted is None and not any(picture.captions for picture in found))):
            self.class_names = self.classes
        kept: list[Picture] = []
        for picture in found:
            if picture.label is not None and picture.label >= len(self.classes):
                self.report.skip(picture.name, "unknown class", f"{picture.label} of {len(self.classes)} named ones")
            elif picture.label is None and hasattr(self, "class_names"):
                self.report.skip(picture.name, "no class")
            else:
                kept.append(picture)
        return kept

    def _keep_usable(self, found: Sequence[Picture], store: Path, progress: bool) -> None:
        check(found, self.report, store / "checked.json", self.max_megapixels, progress)
        bad = {entry["name"] for entry in self.report.skipped}
        usable = [picture for picture in found if picture.name not in bad]
        if not usable:
            raise FailureError(f"{self.report.source}: no usable picture; see {self.report.path}")
        self.items = [picture for picture in usable if self._is_in_split(picture)]
        if not self.items:
            raise PochadeError(
                f"split: {self.split!r} of {self.report.source} is empty ({len(usable)} pictures in all)"
            )

    def _is_in_split(self, picture: Picture) -> bool:
        # The first caption decides, so that pictures with the same one stand on the same side; classes are on both.
        held_out = is_held_out(picture.captions[0].casefold() if picture.captions else picture.name)
        return self.split == "all" or held_out == (self.split == "held_out")

    def __len__(self) -> int:
        return len(self.items)

    def keep(self, chosen: Sequence[int]) -> None:
        """Forget all pictures but those at ``chosen``, in that order."""
        self.items = [self.items[index] for index in chosen]

    def image(self, index: int) -> Image.Image:
        """Picture ``index``, RGB, size by size. Raises `BadImage`."""
        picture = self.items[index]
        image, _ = load_image(
            picture.read(),
            size=self.size,
            max_megapixels=self.max_megapixels,
            background=self.background,
            name=picture.name,
        )
        return square(image, self.size)

    def caption(self, index: int) -> str:
        """The first caption of picture ``index``, or the name of its class."""
        return self._words(self.items[index])[0]

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of picture ``index``; empty where samples hold classes."""
        return () if hasattr(self, "class_names") else self._words(self.items[index])

    def label(self, index: int) -> int:
        """The class of picture ``index``, an index into ``class_names``; -1 where samples hold captions."""
        label = self.items[index].label
        return -1 if label is None or not hasattr(self, "class_names") else label

    def _words(self, picture: Picture) -> tuple[str, ...]:
        if picture.label is None or (picture.captions and not hasattr(self, "class_names")):
            return picture.captions
        return (self.classes[picture.label],)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """``{"image": float32 [3, size, size] in [-1, 1], "caption": one of the alternatives, "name": str}``.

        Where there are classes "class_label", an index into ``class_names``, in place of the caption.

        A picture that has become unreadable since it was checked is logged by name and another one is
        drawn in its place; `FailureError` after ten in a row.
        """
        for _ in range(SUBSTITUTES):
            picture = self.items[index]
            words = self._words(picture)
            caption = words[int(rng.integers(len(words)))]
            told = {"class_label": picture.label} if hasattr(self, "class_names") else {"caption": caption}
            try:
                return {"image": to_tensor(self.image(index)), **told, "name": picture.name}
            except BadImage as error:
                log.warning("skipped: %s", error)
                index = int(rng.integers(len(self.items)))
        raise FailureError(f"{self.report.source}: {SUBSTITUTES} unreadable pictures in a row")


def check_size(size: int) -> None:
    """Raises `PochadeError` unless ``size`` is a number of pixels that a picture can have."""
    if not 1 <= size <= 8192:
        raise PochadeError(f"size: {size} given, 1 to 8192 pixels allowed")


def check_split(split: str) -> None:
    """Raises `PochadeError` for an unknown split."""
    if split not in SPLITS:
        raise PochadeError(f"split: {split!r} given, allowed are {', '.join(SPLITS)}")


def store_for(folder: Path) -> Path:
    """Where to remember things about ``folder``: ``.pochade`` in it, or the user's cache if read-only."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    for store in (folder / ".pochade", cache / "pochade" / digest):
        try:
            store.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(store, os.W_OK):
            return store
    raise FailureError(f"{folder}: neither it nor {cache} can be written, so no report can be kept")


def stamp(path: Path) -> list[int]:
    """What tells that a file has not changed: time of last change in ns, and bytes. Raises OSError."""
    status = path.stat()
    return [status.st_mtime_ns, status.st_size]


def read_store(path: Path) -> dict[str, Any]:
    """A JSON object remembered earlier; empty where there is none or it is damaged: it only saves time."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def check(pictures: Sequence[Picture], report: Report, store: Path, max_megapixels: float, progress: bool) -> None:
    """Decodes every picture that ``store`` does not know unchanged, and enters all into ``report``."""
    old = read_store(store)
    known = old.get("pictures", {}) if old.get("max_megapixels") == max_megapixels else {}
    stamps: dict[Path, list[int]] = {}
    for path in {picture.file for picture in pictures}:
        try:
            stamps[path] = stamp(path)
        except OSError:
            stamps[path] = [0, 0]

    def examine(picture: Picture) -> dict[str, Any]:
        at = [*stamps[picture.file], picture.offset]
        outcome = known.get(picture.name)
        if outcome is not None and outcome.get("stamp") == at:
            return outcome
        try:
            # At a small size a JPEG is read to its end, which finds truncation, in a fraction of the time.
            data = picture.read()
            _, conversions = load_image(data, size=32, max_megapixels=max_megapixels, name=picture.name)
        except BadImage as error:
            return {"stamp": at, "bad": [error.reason, error.detail]}
        return {"stamp": at, "converted": list(conversions)}

    outcomes: dict[str, Any] = {}
    for picture, outcome in each(examine, pictures, f"checking {report.source}", progress):
        outcomes[picture.name] = outcome
        if "bad" in outcome:
            report.skip(picture.name, *outcome["bad"])
        else:
            report.use(outcome["converted"])
    if outcomes != known:
        write_json(store, {"max_megapixels": max_megapixels, "pictures": outcomes})
    report.write()


def each(function: Callable[[T], R], items: Sequence[T], title: str, progress: bool) -> Iterator[tuple[T, R]]:
    """``(item, function(item))`` in order, from a few threads, with a progress bar on a terminal."""
    with progress_bar(progress) as bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        task = bar.add_task(title, total=len(items))
        for start in range(0, len(items), 256):
            # In portions: an error ends the work soon, and results do not pile up.
            portion = items[start : start + 256]
            for item, result in zip(portion, pool.map(function, portion), strict=True):
                bar.advance(task)
                yield item, result


def progress_bar(shown: bool) -> Progress:
    """A bar on the error stream, silent where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
