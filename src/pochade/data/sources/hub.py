"""Pictures by the library ``datasets``: data sets of the Hugging Face hub by name, and its formats on the disk.

Rows are streamed, in their order: nothing is fetched twice, and no copy of the whole is kept.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pochade.arguments import check_number
from pochade.data.dataset import Split
from pochade.data.sources.formats import clean, stored_split
from pochade.errors import FailureError, PochadeError, missing_extra, nearest
from pochade.files import is_safe_name
from pochade.hub_access import one_attempt
from pochade.images.decode import BadImage

ROLES = ("image", "caption", "label", "score", "split")
CAPTIONS = ("caption", "captions", "text", "txt", "prompt", "description")
"""Columns of text that are taken for captions, the first that there is."""
ADDRESSES = ("url", "image_url")
"""Columns of text that are taken for the addresses of pictures, where there is no column of pictures."""
LABELS = ("cls", "label")
"""Columns of whole numbers that are taken for classes; one that knows their names is taken whatever it is called."""
SPLIT = "split"
"""A column of text that is taken for the side of the split that a row is on."""
BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


@dataclass(frozen=True)
class Row:
    """One row: a picture that is not decoded yet, its captions, its class, and its side, "" where none is stored."""

    name: str
    picture: Any
    captions: tuple[str, ...]
    label: int | None
    score: float | None = None
    split: Split | Literal[""] = ""

    def read(self) -> bytes:
        """The bytes of the picture's file; raises `BadImage`."""
        found = self.picture if isinstance(self.picture, Mapping) else {}
        if found.get("bytes"):
            return found["bytes"]
        if not found.get("path"):
            raise BadImage(self.name, "no picture")
        import fsspec

        try:
            with fsspec.open(found["path"], "rb") as file:
                return file.read()  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:  # whatever the file system behind the path raises
            raise BadImage(self.name, "unreadable", str(error)) from error


@dataclass(frozen=True)
class Rows:
    """The rows of one split, read anew at each iteration."""

    name: str
    stream: Any
    columns: Mapping[str, str]
    classes: tuple[str, ...]
    """Names of the classes, empty where there are none or they have no names."""
    addressed: bool = False
    """Whether the rows hold addresses or paths of pictures, and none with its bytes: to read rows alone is cheap."""

    @property
    def captioned(self) -> bool:
        """Whether rows have captions."""
        return "caption" in self.columns

    def __iter__(self) -> Iterator[Row]:
        number = 0
        try:
            for number, row in enumerate(self.stream):
                given = {role: _value(row, column) for role, column in self.columns.items()}
                label = given.get("label")
                known = isinstance(label, int) and label >= 0 and (not self.classes or label < len(self.classes))
                score = given.get("score")
                yield Row(
                    f"row {number}",
                    given["image"],
                    _captions(given.get("caption")),
                    label if known else None,
                    float(score) if isinstance(score, int | float) else None,
                    stored_split(given.get("split"), f"path: {self.name}: row {number}"),
                )
        except PochadeError:
            raise
        # Servers, archives and formats fail in their own ways.
        except (OSError, ValueError, RuntimeError) as error:
            raise FailureError(f"path: {self.name} could not be read beyond row {number}: {_line(error)}") from error


@dataclass(frozen=True)
class HubSource:
    """A data set of the hub by its name, or a folder or file that ``datasets`` reads; see `open_rows`.

    ``least_score``: rows with a lower one, or none, in the column "score" are passed over; None: all are taken.

    Raises:
        PochadeError: ``least_score`` without such a column.
    """

    path: str
    config: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    least_score: float | None = None

    def __post_init__(self) -> None:
        check_number("least_score", self.least_score)
        if self.least_score is not None and "score" not in dict(self.columns):
            raise PochadeError(
                f"least_score: {self.least_score:g} given, which takes a column of scores: columns score=..."
            )

    def open(self) -> Rows:
        """The rows of the training split."""
        return open_rows(self.path, self.config, dict(self.columns))

    def paths(self) -> tuple[Path, ...]:
        """Where it is on this machine, if it is."""
        return (Path(self.path).expanduser(),)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class JourneyDBSource(HubSource):
    """JourneyDB (2307.00716) as it is published and unpacked: ``path`` is a folder with a list of annotations, a line
    of JSON for each picture, and the pictures in ``imgs``.

    A caption is "Task2.Caption", or the prompt where there is none.
    """

    def open(self) -> Rows:
        folder = Path(self.path).expanduser()
        lists = sorted(folder.glob("*_anno*.jsonl"), key=lambda path: ("repath" not in path.name, path.name))
        if not lists or not (folder / "imgs").is_dir():
            raise PochadeError(f"path: {self.path} given, which holds no list *_anno*.jsonl with its folder imgs")
        columns = {"image": "image", "caption": "caption"}
        return Rows(self.path, _Annotations(lists[0], folder / "imgs"), columns, (), addressed=True)


@dataclass(frozen=True)
class _Annotations:
    list: Path
    images: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.list.open(encoding="utf-8") as file:
            for line in filter(str.strip, file):
                row = json.loads(line)
                name = str(row.get("img_path", "")).removeprefix("./")
                caption = (row.get("Task2") or {}).get("Caption") or row.get("prompt")
                path = str(self.images / name) if is_safe_name(name) else None
                yield {"image": {"bytes": None, "path": path}, "caption": caption}


def read_columns(text: str) -> dict[str, str]:
    """``image=jpg,caption=json.prompt`` as a mapping. Raises PochadeError for another form or role."""
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, equals, column = (word.strip() for word in part.partition("="))
        if role not in ROLES or not equals or not column:
            raise PochadeError(f"columns: {part!r} given, allowed is ROLE=COLUMN with {', '.join(ROLES)}")
        columns[role] = column
    return columns


def open_rows(path: str, config: str | None = None, columns: Mapping[str, str] | None = None) -> Rows:
    """The training split of a data set.

    Args:
        path: a folder or a file (.parquet, .arrow, .tar) that ``datasets`` reads, or the name of a data set on the hub.
        config: its configuration, where it has several.
        columns: which column is the "image" (pictures, or their addresses), the "caption", the "label", the "score",
            the "split"; what is left out is found by its type and name (``CAPTIONS``, ``LABELS``, ``ADDRESSES``,
            ``SPLIT``), but for the score.
            Dots lead into a column of nested values: ``json.prompt``.

    Raises:
        PochadeError: the library is not installed, there is no such data set, no training split, or no such columns.
    """
    stream = open_stream(path, config)
    features: Mapping[str, Any] = stream.features or {}
    chosen = _choose(features, columns or {})
    label = features.get(chosen.get("label", ""))
    names = [" ".join(str(name).split()) for name in getattr(label, "names", None) or ()]
    stream = undecoded(stream, chosen["image"])
    stream = stream.select_columns(list(dict.fromkeys(_top(column, features) for column in chosen.values())))
    addressed = _is_text(features.get(chosen["image"]))
    return Rows(path, stream, chosen, tuple(names), addressed)


def open_stream(path: str, config: str | None = None) -> Any:
    """The rows of the training split, as the library gives them. Errors are those of `open_rows`."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra(str(error.name), "hub") from error
    local = Path(path).expanduser()
    arguments: dict[str, Any] = {"path": str(local) if local.is_dir() else path}
    if local.is_file():
        if local.suffix not in BUILDERS:
            raise PochadeError(f"path: {path} given, allowed are a folder, files in {', '.join(BUILDERS)}, and names")
        arguments = {"path": BUILDERS[local.suffix], "data_files": {"train": str(local)}}
    try:
        with one_attempt(str(local), "dataset"):
            found: Any = datasets.load_dataset(**arguments, name=config, streaming=True)
    except Exception as error:  # of many kinds, of several libraries
        raise PochadeError(f"path: {path} could not be opened by the library datasets: {_line(error)}") from error
    if "train" not in found and len(found) > 1:
        raise PochadeError(f"path: {path} has no split train, but {', '.join(sorted(found))}")
    return found["train"] if "train" in found else next(iter(found.values()))


def undecoded(stream: Any, *columns: str) -> Any:
    """``stream`` with the files of the pictures in ``columns`` in place of pictures."""
    import datasets

    for column in columns:
        stream = stream.cast_column(column, datasets.Image(decode=False))
    return stream


def _choose(features: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, str]:
    """The column of each role that has one."""
    for role, column in named.items():
        if role not in ROLES:
            raise PochadeError(f"columns: {role!r} given, allowed are {', '.join(ROLES)}{nearest(role, ROLES)}")
        if _top(column, features) not in features:
            raise PochadeError(f"columns: {role}={column} given, {_known(features)}{nearest(column, features)}")
    pictures = [name for name, feature in features.items() if _is_image(feature)]
    pictures += [n for n in features if n.casefold() in ADDRESSES and _is_text(features[n])]
    texts = [n for known in CAPTIONS for n in features if n.casefold() == known and _is_text(features[n])]
    splits = [n for n in features if n.casefold() == SPLIT and _is_text(features[n])]
    labels = [name for name, feature in features.items() if getattr(feature, "names", None)]
    labels += [n for n in LABELS if str(getattr(features.get(n), "dtype", "")).lstrip("u").startswith("int")]
    guessed = {"image": pictures, "caption": texts, "label": labels, "split": splits}
    chosen = {role: names[0] for role, names in guessed.items() if names} | dict(named)
    if "image" not in chosen or not chosen.keys() & {"caption", "label"}:
        lacking = "a picture" if "image" not in chosen else "a caption or a class"
        raise PochadeError(
            f"columns: none is known as {lacking}; name it (image=, caption=, label=), {_known(features)}"
        )
    return chosen


def _known(features: Mapping[str, Any]) -> str:
    return f"there are {', '.join(features)}" if features else "but the columns are not known before they are read"


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and {"bytes", "path"} == set(feature))


def _is_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    return str(getattr(inner, "dtype", "")) in ("string", "large_string")


def _top(column: str, features: Mapping[str, Any]) -> str:
    """The column itself that a name with dots leads into."""
    return column if column in features else column.partition(".")[0]


def _value(row: Mapping[str, Any], column: str) -> Any:
    """What the column holds, along its dots where it is no column by itself; None where that is not there."""
    if column in row:
        return row[column]
    found: Any = row
    for key in column.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _captions(value: Any) -> tuple[str, ...]:
    texts: Sequence[Any] = [value] if isinstance(value, str) else value if isinstance(value, Sequence) else []
    return clean([text for text in texts if isinstance(text, str)])


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
