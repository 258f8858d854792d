"""Where pairs of pictures come from: a typed source for each kind, each with a text form, which opens to pairs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pochade.data.dataset import Split, check_split
from pochade.data.sources import OpenMojiSource, Source, SyntheticSource, local_path, parse_source, paths_here
from pochade.data.sources.pairs.pair import PAIR_TASKS, Found, PairDataset, PairFiles, Skipped
from pochade.errors import PochadeError
from pochade.storage import url_of

if TYPE_CHECKING:
    from pochade.data.sources.image_files import Reading

FORMS = (
    "openmoji, openmoji:KIND=WEIGHT,..., pictures, pictures:SOURCE, synthetic:COUNT, and a folder or shards of pairs"
)
"""The text forms, as help."""


class PairSource(ABC):
    """A frozen dataclass that names pairs; ``parse_pairs(str(source)) == source``."""

    described: ClassVar[str] = "a source of pairs (parse_pairs makes one of a text)"
    """In errors."""

    def open(
        self,
        size: int,
        split: Split = "train",
        *,
        tasks: Sequence[str] | None = None,
        progress: bool = True,
        reading: "Reading | None" = None,
    ) -> PairDataset:
        """The pairs of one split ("train", "held_out" or "all"), with pictures of ``size`` by ``size`` pixels.

        Args:
            tasks: of ``PAIR_TASKS`` those that are wanted, of each of which there must be pairs; None: all there are.
            progress: show it on the error stream while pairs are checked for the first time.
            reading: background and limits; None: the default ones.

        Raises:
            PochadeError: there is no such source, or it has no pairs of a task.
            EmptySplitError: no pair is of the split.
            FailureError: too many pairs cannot be used.
        """
        from pochade.data.sources.image_files import Reading

        check_split(split)
        unknown = [task for task in tasks or () if task not in PAIR_TASKS]
        if unknown:
            raise PochadeError(f"tasks: {', '.join(unknown)} given, allowed are {', '.join(PAIR_TASKS)}")
        pairs = self._open(size, split, tasks, replace(reading or Reading(), progress=progress))
        missing = [task for task in tasks or () if task not in pairs.tasks]
        if missing:
            wanted = ", ".join(tasks or ())
            raise PochadeError(f"tasks: {wanted} given, but there are no pairs for {', '.join(missing)} in {self}")
        return pairs

    @abstractmethod
    def _open(self, size: int, split: Split, tasks: Sequence[str] | None, reading: "Reading") -> PairDataset: ...

    def with_pictures(self, source: Source) -> "PairSource":
        """The same; where it makes its pairs of pictures and names none, of those of ``source``."""
        del source
        return self

    @property
    def made_of(self) -> Source | None:
        """The pictures of which the pairs are made; None where they are stored as pairs."""
        return None

    def paths(self) -> tuple[Path, ...]:
        """The files and folders that it reads, but for installed packages."""
        return ()

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class OpenMojiPairSource(PairSource):
    """Pairs that are made of OpenMoji's drawings as they are drawn.

    ``weights``: the kinds that are made, and how often; none: all of the tasks that are wanted, equally often.
    """

    weights: tuple[tuple[str, float], ...] = ()

    def _open(self, size: int, split: Split, tasks: Sequence[str] | None, reading: "Reading") -> PairDataset:  # noqa: ARG002
        from pochade.data.sources.pairs.openmoji import KINDS, OpenMojiPairs, task_of

        allowed = [kind for kind in KINDS if tasks is None or task_of(kind) in tasks]
        weights = dict(self.weights) or dict.fromkeys(allowed, 1.0)
        pairs = OpenMojiPairs(size, split, weights)
        if set(weights) - set(allowed):
            given, wanted = ", ".join(weights), ", ".join(tasks or ())
            raise PochadeError(f"kinds: {given} given, allowed for {wanted} are {', '.join(allowed)}")
        return pairs

    @property
    def made_of(self) -> Source:
        return OpenMojiSource()

    def __str__(self) -> str:
        kinds = ",".join(kind if weight == 1 else f"{kind}={weight:g}" for kind, weight in self.weights)
        return f"openmoji:{kinds}" if kinds else "openmoji"


@dataclass(frozen=True)
class PicturePairSource(PairSource):
    """Pairs of pictures that lose parts or detail; ``source`` None: of those that are trained on besides."""

    source: Source | None = None

    def _open(self, size: int, split: Split, tasks: Sequence[str] | None, reading: "Reading") -> PairDataset:
        from pochade.data.sources.pairs.pictures import DEGRADATIONS, PicturePairs

        if self.source is None:
            raise PochadeError("pairs: pictures given, but no source of pictures: allowed is pictures:SOURCE")
        dataset = self.source.open(split, progress=reading.progress, reading=reading)
        return PicturePairs(dataset, size, DEGRADATIONS if tasks is None else tasks)

    def with_pictures(self, source: Source) -> PairSource:
        return self if self.source is not None else PicturePairSource(source)

    @property
    def made_of(self) -> Source | None:
        return self.source

    def paths(self) -> tuple[Path, ...]:
        return () if self.source is None else self.source.paths()

    def __str__(self) -> str:
        return "pictures" if self.source is None else f"pictures:{self.source}"


@dataclass(frozen=True)
class StoredPairSource(PairSource, PairFiles):
    """A folder or shards of pairs, as ``pochade data pairs`` writes them, or of your own."""

    path: Path

    def _open(self, size: int, split: Split, tasks: Sequence[str] | None, reading: "Reading") -> PairDataset:
        from pochade.data.sources.pairs.stored import StoredPairs

        return StoredPairs(local_path(self.path), size, split, tasks=tasks or PAIR_TASKS, reading=reading)

    def candidates(self, progress: bool = True) -> Iterator[Found | Skipped]:
        from pochade.data.sources.pairs.stored import find_pairs

        found = find_pairs(local_path(self.path), progress)
        return iter([*found.skipped, *found.pairs])

    def paths(self) -> tuple[Path, ...]:
        return paths_here(self.path)

    def __str__(self) -> str:
        text = url_of("pairs", self.path) or str(self.path)
        return text if parse_pairs(text) == self else f"./{text}"


@dataclass(frozen=True)
class SyntheticPairSource(PairSource):
    """Pairs of ``count`` synthetic pictures (`SyntheticSource`), of every task."""

    count: int

    def _open(self, size: int, split: Split, tasks: Sequence[str] | None, reading: "Reading") -> PairDataset:
        from pochade.data.sources.pairs.synthetic import SyntheticPairs

        dataset = SyntheticSource(self.count).open(split, progress=reading.progress, reading=reading)
        return SyntheticPairs(dataset, size, PAIR_TASKS if tasks is None else tasks)

    @property
    def made_of(self) -> Source:
        return SyntheticSource(self.count)

    def __str__(self) -> str:
        return f"synthetic:{self.count}"


def parse_pairs(text: str) -> PairSource:
    """The source of pairs that a text names.

    ``openmoji``, ``openmoji:recolour=2,mirror``, ``pictures``, ``pictures:SOURCE`` (as `parse_source` reads it),
    ``synthetic:64``, and a folder or a pattern of shards. Raises PochadeError for another form.
    """
    kind, colon, rest = text.strip().partition(":")
    match kind, colon:
        case "openmoji", _ if rest or not colon:
            return OpenMojiPairSource(tuple(read_kinds(rest).items()) if rest else ())
        case "pictures", _ if rest or not colon:
            return PicturePairSource(parse_source(rest) if rest else None)
        case "synthetic", ":" if rest.isdecimal():
            return SyntheticPairSource(int(rest))
        case _ if text.strip() and kind not in ("openmoji", "pictures", "synthetic"):
            return StoredPairSource(Path(url_of("pairs", text.strip()) or text.strip()))
        case _:
            raise PochadeError(f"pairs: {text!r} given, allowed are {FORMS}")


def open_pairs(
    source: "PairSource | str | Path",
    size: int,
    split: Split = "train",
    *,
    tasks: Sequence[str] | None = None,
    progress: bool = True,
    reading: "Reading | None" = None,
) -> PairDataset:
    """The pairs of one split of a source, a text form of one, or a folder.

    Arguments and errors are those of `PairSource.open` and `parse_pairs`.
    """
    if isinstance(source, Path):
        source = StoredPairSource(source)
    elif isinstance(source, str):
        source = parse_pairs(source)
    return source.open(size, split, tasks=tasks, progress=progress, reading=reading)


def read_kinds(text: str) -> dict[str, float]:
    """``inpaint,mirror=0.5`` as weights, 1 where none is given. Raises PochadeError for another form."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        kind, equals, weight = (word.strip() for word in part.partition("="))
        try:
            weights[kind] = float(weight) if equals else 1.0
        except ValueError as error:
            raise PochadeError(f"kinds: {part!r} given, allowed is KIND or KIND=WEIGHT, joined by commas") from error
    return weights
