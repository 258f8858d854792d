"""Where pictures come from: a typed source for each kind, each with a text form, which opens to a data set."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pochade.arguments import check_text, path_text, shown
from pochade.data.dataset import Dataset, Split, check_split
from pochade.errors import PochadeError, nearest
from pochade.storage import fetch, url_of

if TYPE_CHECKING:
    from pochade.data.sources.image_files import Reading

FORMS = (
    "openmoji, openmoji:groups, drawings, drawings:FOLDER, a folder or URL of pictures or of shards, classes:FOLDER, "
    "captions:FOLDER, pictures:FOLDER, cifar10:PATH, openclipart:FOLDER, synthetic:COUNT, figures:COUNT, "
    "or several joined by +"
)
"""The text forms, as help."""
_SEPARATOR = re.compile(r"(?<!\+)\+(?!\+)")


class Source(ABC):
    """A frozen dataclass that names pictures; ``parse_source(str(source)) == source``.

    ``composes``: whether pairs of seen styles and concepts are held out, the split "composed".
    """

    composes: ClassVar[bool] = False
    described: ClassVar[str] = "a data source (parse_source makes one of a text)"
    """In errors."""

    def open(self, split: Split = "train", *, progress: bool = True, reading: "Reading | None" = None) -> Dataset:
        """The pictures of one split: "train", "held_out", "composed" (see `Item.split`) or "all".

        Args:
            progress: show it on the error stream while pictures are checked for the first time.
            reading: background and limits; None: the default ones.

        Raises:
            PochadeError: there is no such source, or it holds no pictures with captions or classes.
            EmptySplitError: no picture is of the split.
            FailureError: too many pictures cannot be used.
        """
        from pochade.data.sources.image_files import Reading

        check_split(split)
        if not isinstance(reading, Reading | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PochadeError(f"reading: {shown(reading)} given, allowed are a Reading and None")
        if split == "composed" and not self.composes:
            raise PochadeError(
                f"split: 'composed' given, which {self} does not have; allowed for it are train, held_out, all"
            )
        return self._open(split, replace(reading or Reading(), progress=progress))

    @abstractmethod
    def _open(self, split: Split, reading: "Reading") -> Dataset: ...

    def stream(self, split: Split, limit: int, reading: "Reading") -> Dataset:  # noqa: ARG002
        """As ``open``, with at most ``limit`` bytes of the pictures on this machine.

        Raises as ``pochade.data.sources.streamed.open_streamed``, and PochadeError where this is not served.
        """
        raise PochadeError(f"data.cache_limit: given for {self}, allowed for a folder or a URL of prepared shards")

    def paths(self) -> tuple[Path, ...]:
        """The files and folders that it reads, but for installed packages."""
        return ()

    def check(self) -> None:
        """Raises PochadeError where a file or folder that it reads is not there; nothing is read."""
        check_there(self.paths())

    def captioned(self) -> "Source":
        """The same, with captions in place of classes where it can have both."""
        return self

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class OpenMojiSource(Source):
    """OpenMoji's drawings from the installed packages, with captions; or, with ``groups``, nine groups as classes."""

    groups: bool = False

    def _open(self, split: Split, reading: "Reading") -> Dataset:
        from pochade.data.sources.openmoji import OpenMoji

        return OpenMoji(split, groups=self.groups, reading=reading)

    def __str__(self) -> str:
        return "openmoji:groups" if self.groups else "openmoji"


@dataclass(frozen=True)
class DrawingsSource(Source):
    """Drawings of Iconify's ``sets``, packages of npm in or below a folder, with captions.

    "openmoji" is OpenMoji, from the installed packages. Without ``sets``, it and seven sets of emoji
    (`pochade.data.sources.drawings.STYLES`).
    """

    composes = True

    path: Path = Path()
    sets: tuple[str, ...] = ()

    def _open(self, split: Split, reading: "Reading") -> Dataset:
        from pochade.data.sources.drawings import DEFAULT_SETS, open_drawings

        return open_drawings(self.path.expanduser(), self.sets or DEFAULT_SETS, split, reading)

    def paths(self) -> tuple[Path, ...]:
        """None: what is read there are packages, and a data set may be written beside them."""
        return ()

    def __str__(self) -> str:
        sets = f":sets={','.join(self.sets)}" if self.sets else ""
        path = "" if self.path == Path() and not sets else f":{_escaped(self.path)}"
        return f"drawings{path}{sets}"


@dataclass(frozen=True)
class FolderSource(Source):
    """A folder of pictures or of WebDataset shards, prepared or of your own, or a pattern of shards; or the URL of one.

    ``classes``: whether its classes are wanted; None: where there are no captions; False: never, so that a picture
    with a class alone goes by its name.
    """

    path: Path
    classes: bool | None = None

    def check(self) -> None:
        if self.paths() and not is_there(path := self.path.expanduser()):
            near = nearest(str(self.path), _KINDS)
            raise PochadeError(f"source: {str(self)!r} given, but {path} is not there{near}; allowed are {FORMS}")

    def _open(self, split: Split, reading: "Reading") -> Dataset:
        self.check()
        path = local_path(self.path)
        if path.suffix == ".tar" or (path.is_dir() and _holds_shards(path)):
            from pochade.data.sources.shards import open_shards

            return open_shards(path, split, classes=self.classes, reading=reading)
        if not path.is_dir():
            near = nearest(str(self.path), _KINDS)
            raise PochadeError(f"source: {str(self)!r} given, which is no folder{near}; allowed are {FORMS}")
        from pochade.data.sources.folder import open_folder

        return open_folder(path, split, classes=self.classes, reading=reading)

    def stream(self, split: Split, limit: int, reading: "Reading") -> Dataset:
        from pochade.data.sources.streamed import open_streamed

        self.check()
        url = url_of("source", self.path) or f"file://{self.path.expanduser().absolute()}"
        return open_streamed(url, split, classes=self.classes, limit=limit, reading=reading)

    def captioned(self) -> Source:
        return self if self.classes else replace(self, classes=False)

    def paths(self) -> tuple[Path, ...]:
        return paths_here(self.path)

    def __str__(self) -> str:
        text = _escaped(self.path)
        if self.classes is not None:
            return f"{'classes' if self.classes else 'captions'}:{text}"
        return text if parse_source(text) == self else f"./{text}"


@dataclass(frozen=True)
class PicturesSource(Source):
    """All pictures of a folder, with or without captions; one that has none goes by the name of its file."""

    path: Path

    def _open(self, split: Split, reading: "Reading") -> Dataset:
        from pochade.data.sources.folder import open_folder

        return open_folder(local_path(self.path), split, classes=False, by_name=True, reading=reading)

    def paths(self) -> tuple[Path, ...]:
        return paths_here(self.path)

    def __str__(self) -> str:
        return f"pictures:{_escaped(self.path)}"


@dataclass(frozen=True)
class CIFAR10Source(Source):
    """CIFAR-10 from its archive or folder, with ten classes; the test batch is held out."""

    path: Path

    def _open(self, split: Split, reading: "Reading") -> Dataset:  # noqa: ARG002
        from pochade.data.sources.cifar10 import CIFAR10

        return CIFAR10(local_path(self.path), split)

    def paths(self) -> tuple[Path, ...]:
        return paths_here(self.path)

    def __str__(self) -> str:
        return f"cifar10:{_escaped(self.path)}"


@dataclass(frozen=True)
class OpenClipArtSource(Source):
    """Open Clip Art's drawings from a folder of SVG files, with captions."""

    path: Path

    def _open(self, split: Split, reading: "Reading") -> Dataset:
        from pochade.data.sources.openclipart import open_openclipart

        return open_openclipart(local_path(self.path), split, reading)

    def paths(self) -> tuple[Path, ...]:
        return paths_here(self.path)

    def __str__(self) -> str:
        return f"openclipart:{_escaped(self.path)}"


@dataclass(frozen=True)
class SyntheticSource(Source):
    """``count`` pictures made of their number alone, with captions or, where ``classes`` names any, of those."""

    count: int
    classes: tuple[str, ...] = ()

    def _open(self, split: Split, reading: "Reading") -> Dataset:  # noqa: ARG002
        from pochade.data.sources.synthetic import Synthetic

        return Synthetic(split, self.count, self.classes)

    def __str__(self) -> str:
        if not self.classes:
            return f"synthetic:{self.count}"
        plain = self.classes == numbered(len(self.classes))
        return f"synthetic:{self.count}:classes={len(self.classes) if plain else ','.join(self.classes)}"


@dataclass(frozen=True)
class FiguresSource(Source):
    """``count`` people in random poses, drawn from their number alone, with captions."""

    count: int

    def _open(self, split: Split, reading: "Reading") -> Dataset:  # noqa: ARG002
        from pochade.data.sources.figures import Figures

        return Figures(split, self.count)

    def __str__(self) -> str:
        return f"figures:{self.count}"


@dataclass(frozen=True)
class JoinedSource(Source):
    """Two or more sources of captioned pictures; one that is named twice is seen twice as often.

    Raises PochadeError for fewer, and for a part that is joined itself.
    """

    parts: tuple[Source, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2 or any(isinstance(part, JoinedSource) for part in self.parts):
            raise PochadeError(f"source: {len(self.parts)} parts given, two or more that are not joined are expected")

    def _open(self, split: Split, reading: "Reading") -> Dataset:
        from pochade.data.sources.joined import Joined

        self.check()
        parts = [part.captioned().open(split, progress=reading.progress, reading=reading) for part in self.parts]
        if any(part.classes for part in parts):
            raise PochadeError(f"source: {str(self)!r} given, but only captioned pictures can be joined")
        return Joined(parts)

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def paths(self) -> tuple[Path, ...]:
        return tuple(path for part in self.parts for path in part.paths())

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))


def parse_source(text: str) -> Source:
    """The source that a text names.

    ``openmoji``, ``openmoji:groups``, ``drawings``, ``drawings:FOLDER``, ``drawings:FOLDER:sets=noto,twemoji``,
    ``cifar10:PATH``, ``openclipart:FOLDER``, ``synthetic:64``, ``synthetic:64:classes=10``, ``figures:500``, a folder
    or a pattern of shards, ``classes:FOLDER`` and ``captions:FOLDER`` of one that has both, ``pictures:FOLDER`` of one
    that may have neither, and several joined by ``+``; in a path that does not exist yet, a plus is written twice.

    Raises:
        PochadeError: the text is of none of these forms. Whether a path exists is not checked.
    """
    check_text("source", text, FORMS)
    text = text.strip()
    if not Path(text).expanduser().exists():
        parts = [part.strip() for part in _SEPARATOR.split(text)]
        if len(parts) > 1:
            return JoinedSource(tuple(map(parse_source, parts)))
        text = text.replace("++", "+")
    kind, colon, rest = text.partition(":")
    match kind, colon:
        case "openmoji", "":
            return OpenMojiSource()
        case "openmoji", _ if rest == "groups":
            return OpenMojiSource(groups=True)
        case "drawings", _ if rest or not colon:
            return _drawings(rest)
        case "cifar10", ":" if rest:
            return CIFAR10Source(path_or_url(rest))
        case "openclipart", ":" if rest:
            return OpenClipArtSource(path_or_url(rest))
        case "classes" | "captions", ":" if rest:
            return FolderSource(path_or_url(rest), classes=kind == "classes")
        case "pictures", ":" if rest:
            return PicturesSource(path_or_url(rest))
        case "synthetic", ":":
            return _synthetic(text, rest)
        case "figures", ":" if rest.isdecimal():
            return FiguresSource(int(rest))
        case _ if text and kind not in _KINDS:
            return FolderSource(path_or_url(text))
        case _:
            raise PochadeError(f"source: {text!r} given, allowed are {FORMS}")


_KINDS = ("openmoji", "drawings", "cifar10", "openclipart", "classes", "captions", "synthetic", "figures")


def open_source(
    source: "Source | str | Path",
    split: Split = "train",
    *,
    progress: bool = True,
    reading: "Reading | None" = None,
) -> Dataset:
    """The pictures of one split ("train", "held_out" or "all") of a source, a text form of one, or a folder.

    Arguments and errors are those of `Source.open` and `parse_source`.
    """
    return as_source(source).open(split, progress=progress, reading=reading)


def as_source(source: "Source | str | Path") -> "Source":
    """A source, of its text form or a folder as well. Raises PochadeError as `parse_source`."""
    if isinstance(source, str):
        return parse_source(source)
    if isinstance(source, Source):
        return source
    return FolderSource(path_or_url(path_text("source", source, f"{FORMS}, a path and a Source")))


def _drawings(rest: str) -> DrawingsSource:
    folder, marker, sets = rest.partition(":sets=")
    return DrawingsSource(Path(folder), tuple(sets.split(",")) if marker else ())


def _synthetic(text: str, rest: str) -> SyntheticSource:
    count, _, options = rest.partition(":")
    name, equals, classes = options.partition("=")
    if count.isdecimal() and not options:
        return SyntheticSource(int(count))
    if count.isdecimal() and name == "classes" and equals and classes:
        names = numbered(int(classes)) if classes.isdecimal() else tuple(classes.split(","))
        return SyntheticSource(int(count), names)
    raise PochadeError(
        f"source: {text!r} given, expected is synthetic:COUNT, or synthetic:COUNT:classes= with a number or with names"
    )


def numbered(count: int) -> tuple[str, ...]:
    """Names of so many classes."""
    return tuple(f"class {number}" for number in range(count))


def path_or_url(text: str) -> Path:
    """The path that a text stands for, which may be a URL. Raises PochadeError as ``pochade.storage.url_of``, and for
    an empty text."""
    return Path(url_of("source", path_text("source", text)) or text)


def local_path(path: Path) -> Path:
    """The path itself, or the local copy of what lies at a URL (``pochade.storage.fetch``)."""
    url = url_of("source", path)
    return path.expanduser() if url is None else fetch(url)


def paths_here(path: Path) -> tuple[Path, ...]:
    """What of it is to be on this machine: nothing of what lies at a URL."""
    return () if url_of("source", path) else (path.expanduser(),)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder, or something that a pattern of shards fits."""
    if path.suffix != ".tar":
        return path.exists()
    return any(path.parent.glob(re.sub(r"\{.*\}", "*", path.name)))


def check_there(paths: Iterable[Path]) -> None:
    """Raises PochadeError where one of some files and folders is not there."""
    for path in paths:
        if not is_there(path):
            raise PochadeError(f"path: {path} is not there")


def check_outside(out: Path, sources: Iterable[Source]) -> None:
    """Raises PochadeError where ``out`` lies in a folder that a source reads: what is written there would be data."""
    for path in dict.fromkeys(path for source in sources for path in source.paths()):
        folder = path.expanduser().resolve()
        if folder.is_dir() and out.resolve().is_relative_to(folder):
            raise PochadeError(f"out: {out} lies in the data, {path}, allowed is a folder outside of it")


def _escaped(path: Path) -> str:
    return (url_of("source", path) or str(path)).replace("+", "++")


def _holds_shards(folder: Path) -> bool:
    """Whether there are shards in a folder, or in its subfolders and theirs."""
    return any(any(folder.glob(pattern)) for pattern in ("*.tar", "*/*.tar", "*/*/*.tar"))
