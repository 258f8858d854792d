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
from pochade.data.files import write_json
from pochade.data.images import MAX_MEGAPIXELS, BadImage, load_image, square, to_tensor
from pochade.data.report import Report
from pochade.errors import FailureError, PochadeError

log = logging.getLogger(__name__)
SUBSTITUTES = 10
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the bytes of one captioned picture lie. ``length`` None: the whole of ``file``."""

    name: str
    captions: tuple[str, ...]
    file: Path
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


class CaptionedImages:
    """Captioned pictures, all decoded once at first use, so that training meets none that is broken.

    A subclass finds the pictures; this class checks them, keeps the outcome in
    ``.pochade/checked.json`` of the folder (a second start reads that), and draws samples. ``items``
    are the usable pictures of the split, ``report`` says what became of the others.
    """

    items: list[Picture]
    report: Report

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
        # The first caption decides, so that pictures with the same one stand on the same side.
        held_out = is_held_out(picture.captions[0].casefold())
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
        """The first caption of picture ``index``."""
        return self.items[index].captions[0]

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """``{"image": float32 [3, size, size] in [-1, 1], "caption": one of the alternatives, "name": str}``.

        A picture that has become unreadable since it was checked is logged by name and another one is
        drawn in its place; `FailureError` after ten in a row.
        """
        for _ in range(SUBSTITUTES):
            picture = self.items[index]
            caption = picture.captions[int(rng.integers(len(picture.captions)))]
            try:
                return {"image": to_tensor(self.image(index)), "caption": caption, "name": picture.name}
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
