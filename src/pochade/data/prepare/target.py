"""Where a prepared data set goes, and how: what pictures and pairs have in common."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

from pochade.arguments import is_whole, path_text, plain, shown
from pochade.data.cache.claims import Claim, holder, take
from pochade.data.dataset import Split, check_size
from pochade.data.prepare.writer import SAMPLES_PER_SHARD, FolderWriter, Record, ShardWriter, Writer
from pochade.data.progress import progress_bar
from pochade.data.sources.formats import LIST, PREPARED
from pochade.errors import PochadeError, nearest
from pochade.files import atomic_file, atomic_folder, check_replaceable, write_json, write_text
from pochade.images.sheets import sheet

Parts = Literal["both", "train", "held_out", "composed", "all"]
Format = Literal["shards", "folder"]
REPORT, PREVIEW, CARD = PREPARED


def claimed(out: Path) -> Claim:
    """A block in which no other process writes ``out``. Raises PochadeError where one does."""
    place = out.with_name(f".{out.name}.claim")
    claim = take(place)
    if claim is None:
        other = holder(place) or "another process"
        raise PochadeError(f"out: {other} writes {out}; wait for its end, or choose another folder")
    return claim


def check_apart(out: Path, path: Path) -> None:
    """Raises PochadeError where ``out`` and the source ``path`` lie within each other."""
    here, there = out.resolve(), path.expanduser().resolve()
    if there.exists() and (here.is_relative_to(there) or there.is_relative_to(here)):
        raise PochadeError(f"out: {out} and the source {path} lie within each other")


class Sample(NamedTuple):
    """What is written next, into which part, of which task, and how it is shown on the sheet: pictures and words."""

    part: Split
    record: Record
    images: list[Image.Image]
    words: list[str]
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A folder to write, and what to write into it.

    Attributes:
        out: it gets ``train`` and ``held_out``, ``report.json`` and ``preview.png``.
        size: rows and columns of the stored pictures (PNG) in pixels.
        split: "both", or one of "train", "held_out", "composed" and "all", which is then the only subfolder.
        format: "shards" (WebDataset), or "folder": pictures and a list of them.
        limit: so many samples of each split; None: all.
        overwrite: replace what an earlier call wrote; a folder with anything else in it is never touched.
        samples_per_shard: the last shard of a split has fewer.

    Raises:
        PochadeError: a value out of range, a file at ``out``, or a folder that may not be replaced, or made.
    """

    out: Path
    size: int = 64
    split: Parts = "both"
    format: Format = "shards"
    limit: int | None = None
    overwrite: bool = False
    samples_per_shard: int = SAMPLES_PER_SHARD

    def __post_init__(self) -> None:
        for name, given, allowed in (
            ("split", self.split, get_args(Parts)),
            ("format", self.format, get_args(Format)),
        ):
            if given not in allowed:
                known = f"allowed are {', '.join(allowed)}{nearest(given, allowed)}"
                raise PochadeError(f"{name}: {given!r} given, {known}")
        check_size(self.size)
        for name in ("limit", "samples_per_shard"):
            given = getattr(self, name)
            if given is not None and (not is_whole(given) or given < 1):
                raise PochadeError(f"{name}: {shown(given)} given, at least 1 expected")
        object.__setattr__(self, "out", Path(path_text("out", self.out)))
        for name in ("size", "limit", "samples_per_shard"):  # which the report holds
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.out.exists() and not self.out.is_dir():
            raise PochadeError(f"out: {self.out} is a file")
        inside = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set[str]()
        if inside and not self.overwrite:
            raise PochadeError(f"out: {self.out} is not empty; choose another folder, or overwrite")
        if inside and (REPORT not in inside or inside - {"train", "held_out", "composed", "all", *PREPARED}):
            raise PochadeError(f"out: {self.out} holds more than an earlier data set and will not be overwritten")
        check_replaceable("out", self.out)
        object.__setattr__(self, "out", self.out.resolve())  # what lies beside it has a name by its own

    @property
    def parts(self) -> tuple[Split, ...]:
        """The subfolders that are written."""
        return ("train", "held_out") if self.split == "both" else (self.split,)

    @property
    def skipped(self) -> Path:
        """The file of the report while rows are streamed: it is there where the work ends because of them."""
        return self.out.with_name(f"{self.out.name}-skipped.json")

    def part_of(self, split: str) -> Split | None:
        """The subfolder for what is on that side of the split, None where it is not written."""
        return "all" if self.split == "all" else next((part for part in self.parts if part == split), None)

    def write(
        self,
        samples: Iterable[Sample],
        facts: Callable[[], dict[str, Any]],
        *,
        class_names: Sequence[str] = (),
        name: str = LIST,
        shown: int,
        columns: int,
        total: int | None,
        progress: bool,
        card: Callable[[dict[str, Any]], str] | None = None,
    ) -> dict[str, Any]:
        """Writes all ``samples``; returns the report.

        All is written beside ``out`` first and takes its name at the end: after an error or Ctrl-C ``out`` is as it
        was.

        Args:
            facts: what the report holds besides, once all is written.
            name: of the list in a folder.
            card: the text of ``README.md`` by the report; None: there is none.
            shown: so many samples, evenly spread over each part, are on the sheet, in so many ``columns``.
            total: samples that there will be, None where it is not known.

        Raises:
            FailureError: something could not be written.
        """
        tasks: Counter[str] = Counter()
        examples = {part: _EvenlySpaced(-(-shown // len(self.parts))) for part in self.parts}
        with claimed(self.out), atomic_folder(self.out, replace=self.overwrite) as folder:
            with ExitStack() as stack:
                writers = {
                    part: stack.enter_context(self._writer(folder / part, class_names, name)) for part in self.parts
                }
                bar = stack.enter_context(progress_bar(progress))
                task = bar.add_task(f"writing {self.out.name}", total=total)
                for sample in samples:
                    writers[sample.part].add(sample.record)
                    examples[sample.part].add(sample)
                    tasks.update([sample.task] if sample.task else [])
                    bar.advance(task)
            report = {"size": self.size, "format": self.format, "samples": {p: w.count for p, w in writers.items()}}
            report |= {"tasks": dict(sorted(tasks.items()))} if tasks else {}
            report = {**facts(), **report}
            write_json(folder / REPORT, report)
            if card is not None:
                write_text(folder / CARD, card(report))
            with atomic_file(folder / PREVIEW) as file:
                _sheet([sample for chosen in examples.values() for sample in chosen.samples()], columns).save(
                    file, "PNG"
                )
        return report

    def _writer(self, folder: Path, class_names: Sequence[str], name: str) -> Writer:
        if self.format == "shards":
            return ShardWriter(folder, class_names, self.samples_per_shard, decoded=True)
        return FolderWriter(folder, class_names, name)


class _EvenlySpaced:
    """So many of the samples of a stream whose length is not known, evenly spread."""

    def __init__(self, count: int) -> None:
        self.count, self.kept, self.step, self.seen = count, list[Sample](), 1, 0

    def add(self, sample: Sample) -> None:
        if self.seen % self.step == 0:
            self.kept.append(sample._replace(record=Record("", {}, {})))
        self.seen += 1
        if len(self.kept) == 2 * self.count:
            self.kept, self.step = self.kept[::2], 2 * self.step

    def samples(self) -> list[Sample]:
        return [self.kept[index] for index in evenly_spaced(len(self.kept), self.count)]


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` of the numbers below ``count``, at even distances."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _sheet(samples: list[Sample], columns: int) -> Image.Image:
    images = [image for sample in samples for image in sample.images]
    return sheet(images, [words for sample in samples for words in sample.words], columns=columns)
