"""Where the data of a stage come from, as settings, and their data sets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

from pochade.data.buckets import check_ratio
from pochade.data.captioned import DRAWS, PLACE, Captioned, Wording
from pochade.data.dataset import Dataset, Split
from pochade.data.report import MAX_SKIPPED
from pochade.data.scores import CONTRAST, keep_best
from pochade.data.shifted import Shifted
from pochade.data.sources import OpenMojiSource, Source, is_there
from pochade.data.sources.image_files import Reading
from pochade.data.sources.pairs import OpenMojiPairSource, PairSource
from pochade.data.sources.pairs.pair import PairDataset
from pochade.errors import EmptySplitError, PochadeError, advising, naming
from pochade.images.decode import MAX_MEGAPIXELS
from pochade.training.stage import DataSettings, Settings, Stage

T = TypeVar("T")
_UNITS = ("", "K", "M", "G", "T")
_BYTES = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)B", re.IGNORECASE)


@dataclass(frozen=True)
class ImageData(DataSettings):
    """Pictures to train on."""

    source: Source | None = field(default_factory=OpenMojiSource)
    """As text: "openmoji", "openmoji:groups" (its groups as classes), "cifar10:PATH" (archive or folder), or a folder
    of pictures with captions or classes or of shards; "classes:FOLDER" where it has both and classes are wanted;
    several of them joined by +, as captioned pictures, where one named twice is seen twice as often. None: it must be
    set."""
    size: int = 64
    """Rows and columns in pixels; 0: those of the model that a LoRA is trained for."""
    ratios: float | None = None
    """Pictures keep their ratio of width to height up to so many to one, in shapes of about ``size`` x ``size`` pixels,
    each batch of one. None: they are cropped to squares."""
    held_out: bool = True
    """Keep a tenth of the concepts (of the captions, in a folder) out of training, for evaluation."""
    best: float = 1.0
    """Share of the pictures, those that score highest."""
    score: str | None = None
    """By what ``best`` chooses: contrast, that is contrast and colourfulness; column:NAME, a number that is stored with
    each picture, such as column:aesthetic; or a picture classifier of transformers, by hub name or folder. None:
    contrast."""
    # None, and not 0: a run from before this field goes on.
    shifts: int | None = None
    """Copies of each picture that are drawn beside it, smaller and moved on white, for drawings; two are seen in two
    draws of five. None: no copies."""
    trigger: str | None = None
    """Words that call up what is learned: they stand before every caption that does not have them. None: none."""
    template: str | None = None
    """What stands around a caption, {}, as in "a drawing of {}"; alternatives are separated by |. None: nothing."""
    keep_tags: int | None = None
    """Captions are tags separated by commas: so many stay in front, the others come in any order. None: as written."""
    word_dropout: float | None = None
    """Probability that a tag is left out, but those in front; of a caption without commas, a word. None: none is."""
    wordings: int | None = None
    """How many of the random orders and omissions are encoded of each caption; None: 8."""
    cached: bool = True
    """Encode every picture once, into the cache of the run; else anew whenever it is drawn, where encoding is cheap or
    the data have no end."""
    cache_limit: str | None = None
    """Bytes of prepared shards that a machine's disk holds at a time, such as 200GB: they are read in windows of a
    third of it, within each of which pictures are shuffled; needs ``cached=false``. None: it holds all."""
    max_skipped: float = MAX_SKIPPED
    """Fraction of the files that may be unusable, in [0, 1], before training is refused."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger pictures are not read; a JPEG may have 64 times as much, a progressive one twice."""

    def encodes_as_drawn(self) -> bool:
        return not self.cached

    def missing(self) -> list[str]:
        return _missing("data.source", self.source)

    @property
    def sources(self) -> list[Source]:
        return [] if self.source is None else [self.source]

    @property
    def reading(self) -> Reading:
        """The limits. Raises PochadeError for one out of range."""
        return Reading(max_megapixels=self.max_megapixels, max_skipped=self.max_skipped)

    @property
    def wording(self) -> Wording | None:
        """What becomes of captions; None where they stay. Raises PochadeError for a value out of range."""
        if self.wordings is not None and self.keep_tags is None and not self.word_dropout:
            raise PochadeError(
                f"data.wordings: {self.wordings} given, but nothing in a caption is random: allowed with "
                "data.keep_tags or data.word_dropout"
            )
        if self.trigger is not None and not self.trigger.strip():
            raise PochadeError(f"data.trigger: {self.trigger!r} given, allowed are words, and none")
        changes = self.trigger, self.template, self.keep_tags, self.word_dropout
        if not any(value is not None for value in changes):
            return None
        return Wording(
            self.trigger or "",
            tuple((PLACE if self.template is None else self.template).split("|")),
            self.keep_tags,
            self.word_dropout or 0.0,
            DRAWS if self.wordings is None else self.wordings,
        )

    def open(self, split: Split = "train", *, stage: str = "") -> Dataset:
        """The data set of one split.

        Raises:
            PochadeError: no source is set, it does not exist or holds no pictures, or a setting is out of range.
        """
        if self.size < 8 or self.size % 8:
            raise PochadeError(f"data.size: {self.size} given, allowed are multiples of 8, from 8 on")
        if self.ratios is not None:
            check_ratio(self.ratios)
            if self.shifts is not None:
                raise PochadeError(f"data.ratios: {self.ratios:g} given with data.shifts, whose copies are squares")
        source = required(self.source, "data.source", stage)
        wording = self.wording
        part = split if self.held_out else "all"
        with advising("data.held_out=false"):
            limit = self.limit
            if limit is None:
                dataset = source.open(part, reading=self.reading)
            else:
                dataset = source.stream(part, limit, self.reading)
        if self.score is not None and self.best == 1:
            raise PochadeError(f"data.score: {self.score} given without data.best, the share that it chooses")
        with naming("data.best", "best"), naming("data.score", "score"):
            dataset = (
                dataset
                if self.best == 1
                else keep_best(dataset, self.best, CONTRAST if self.score is None else self.score)
            )
        dataset = dataset if self.shifts is None else Shifted(dataset, self.shifts)
        return dataset if wording is None else Captioned(dataset, wording)

    @property
    def limit(self) -> int | None:
        """Raises PochadeError also for settings that need all pictures at once."""
        if self.cache_limit is None:
            return None
        found = _BYTES.fullmatch(self.cache_limit)
        if found is None or not float(found[1]):
            raise PochadeError(
                f"data.cache_limit: {self.cache_limit!r} given, allowed are 500MB, 200GB, 1.5TB and the like, and none"
            )
        if self.cached:
            raise PochadeError(
                "data.cache_limit: given with data.cached=true, a cache of all: allowed is data.cached=false"
            )
        for name, default in (("best", 1.0), ("shifts", None), ("ratios", None)):
            value = getattr(self, name)
            if value != default:
                allowed = "none" if default is None else f"{default:g}"
                raise PochadeError(
                    f"data.{name}: {value:g} given with data.cache_limit, but needs all pictures at once: allowed is "
                    f"{allowed}"
                )
        return int(float(found[1]) * 1000 ** _UNITS.index(found[2].upper()))

    def reading_from(self, source: Source) -> Self:
        return replace(self, source=source, cache_limit=None)

    def open_held_out(self) -> Dataset | None:
        """The pictures that are kept out of training; None where none are. Raises as ``open``."""
        if not self.held_out:
            return None
        try:
            return self.open("held_out")
        except EmptySplitError:
            return None

    def holds_out_nothing(self) -> bool:
        return self.held_out and self.open_held_out() is None


@dataclass(frozen=True)
class PairData(DataSettings):
    """Pairs of pictures to learn editing from, and pictures without a source."""

    pairs: PairSource | None = field(default_factory=OpenMojiPairSource)
    """As text: "openmoji", of whose drawings pairs are made, also with some of its kinds and how often, as in
    openmoji:recolour=2,mirror; "pictures", where those of ``source`` lose parts and detail (no instructions come of
    that); or a folder or shards of pairs, as ``pochade data pairs`` writes them. None: it must be set."""
    source: Source | None = field(default_factory=OpenMojiSource)
    """Where the pictures without a source come from, as in ``ImageData.source``."""
    draws: int = 8
    """How often each pair is drawn into the cache: other kinds, masks and words of the same drawing."""
    size: int | None = None
    """Rows and columns in pixels; None: those of the model."""
    held_out: bool = True
    """Keep a tenth out of training, of the pairs and of the pictures."""
    max_skipped: float = MAX_SKIPPED
    """Fraction of the files that may be unusable, in [0, 1], before training is refused."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger pictures are not read; a JPEG may have 64 times as much, a progressive one twice."""

    def missing(self) -> list[str]:
        return [*_missing("data.pairs", self.pairs), *_missing("data.source", self.source)]

    @property
    def sources(self) -> list[Source]:
        """Where all pictures come from, those of pairs as far as these are made of a source of pictures."""
        found = (self.source, None if self.pairs is None else self.pairs.made_of)
        return list(dict.fromkeys(source for source in found if source is not None))

    @property
    def reading(self) -> Reading:
        """The limits. Raises PochadeError for one out of range."""
        return Reading(max_megapixels=self.max_megapixels, max_skipped=self.max_skipped)

    def reading_from(self, source: Source) -> Self:
        return replace(self, source=source)

    def images(self, size: int) -> ImageData:
        """The pictures without a source."""
        return ImageData(
            self.source,
            size,
            held_out=self.held_out,
            max_skipped=self.max_skipped,
            max_megapixels=self.max_megapixels,
        )

    def open_pairs(self, tasks: Sequence[str], size: int, *, stage: str = "") -> PairDataset:
        """The pairs of the tasks.

        Raises:
            PochadeError: none are set or there are none, of one of the tasks there are none, or kinds are named that
                teach another one.
        """
        source = required(self.pairs, "data.pairs", stage)
        if self.source is not None:
            source = source.with_pictures(self.source)
        reading = Reading(max_megapixels=self.max_megapixels, max_skipped=self.max_skipped)
        with advising("data.held_out=false"):
            return source.open(size, "train" if self.held_out else "all", tasks=tasks, reading=reading)


def check_squares(stage: Stage[Settings, ImageData]) -> None:
    """Raises PochadeError where a stage that works on squares is to keep the ratios of pictures."""
    if stage.data.ratios is not None:
        raise PochadeError(
            f"data.ratios: {stage.data.ratios:g} given for {stage.name}, which works on squares: allowed is none, or "
            f"FIELD of another stage alone, as flow.data.ratios"
        )


def _missing(name: str, source: Source | PairSource | None) -> list[str]:
    if source is None:
        return [f"{name} is not set: a run needs {name}=FOLDER"]
    return [f"{name}: {path} is not there" for path in source.paths() if not is_there(path)]


def required(value: T | None, field_name: str, stage: str) -> T:
    """The value of a field that has no default. Raises PochadeError, which says what to add, where it is None."""
    if value is None:
        alone = f" (or {stage}.{field_name}=FOLDER, for this stage alone)" if stage else ""
        raise PochadeError(f"{field_name}: not set; add {field_name}=FOLDER to the command{alone}")
    return value
