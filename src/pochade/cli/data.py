"""``pochade data prepare`` and ``pochade data pairs``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pochade.cli.common import quiet_libraries
from pochade.cli.data_options import (
    Background,
    Format,
    Json,
    MaxMegapixels,
    MaxSkipped,
    Out,
    Overwrite,
    Size,
    Split,
    place,
    read_limits,
    show,
    target_of,
)
from pochade.errors import PochadeError, naming, nearest

if TYPE_CHECKING:
    from pochade.data.sources import Source
    from pochade.data.sources.hub import HubSource
    from pochade.data.sources.pairs import PairSource
    from pochade.data.sources.pairs.pair import PairFiles

PICTURES = ("openmoji", "drawings", "openclipart", "folder", "cifar10", "datasets", "journeydb")
PAIRS = ("openmoji", "folder", "instructpix2pix", "magicbrush")

data = typer.Typer(help="Make data sets, and check them.", no_args_is_help=True)


@data.command("prepare")
def prepare(
    *,
    source: Annotated[
        str,
        typer.Argument(
            help="openmoji, drawings, openclipart, folder, cifar10, datasets or journeydb; or another source of train."
        ),
    ],
    out: Out,
    size: Size = 64,
    path: Annotated[
        str | None, typer.Option(help="The folder or archive (all but openmoji), or, for datasets, a name on the hub.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a data set of datasets.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Which columns of datasets are what, as image=A,caption=B.C,label=D,score=E,split=F.",
            show_default="found",
        ),
    ] = None,
    split: Split = "both",
    format_: Format = "shards",
    background: Background = "white",
    limit: Annotated[int | None, typer.Option(help="At most so many pictures of a split.")] = None,
    min_side: Annotated[
        int | None, typer.Option(help="Of shards: leave out pictures whose shorter side has fewer pixels.")
    ] = None,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Of shards: of near duplicates keep the first.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Of shards, or of datasets with a column of scores: leave out pictures with a lower one.",
            show_default="none",
        ),
    ] = None,
    score: Annotated[
        str,
        typer.Option(
            help="contrast, column:NAME (a stored number), or a classifier of transformers, by hub name or folder."
        ),
    ] = "contrast",
    caption: Annotated[
        str | None,
        typer.Option(help="Of shards: a model of transformers that describes each picture, by hub name or folder."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(help="Of shards: local, or ray: all shards by the cluster of RAY_ADDRESS.", show_default="local"),
    ] = None,
    gpus: Annotated[float, typer.Option(help="With --on ray: GPUs for each shard under way, as 0.5.")] = 0.0,
    max_megapixels: MaxMegapixels = None,
    max_skipped: MaxSkipped = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write pictures with captions or classes as shards or as a folder, with a report of what was not usable.

    For example: pochade data prepare openmoji --size 64 data/openmoji
    """
    from pochade.data.prepare.pictures import prepare as write

    with naming("min_score", "least_score"):
        stored = source == "datasets"  # their rows have the score
        found = _pictures(source, path, config, columns, min_score if stored else None)
    reading = read_limits(max_megapixels, max_skipped, background)
    chosen = {
        "on": on,
        "min_side": min_side,
        "min_score": None if stored else min_score,
        "deduplicate": deduplicate or None,
        "caption": caption,
        "score": None if score == "contrast" else score,
        "gpus": gpus or None,
    }
    given = [name for name, value in chosen.items() if value is not None]
    if given:
        from pochade.data.prepare.curate import Curation, curate
        from pochade.data.prepare.executors import check_seen
        from pochade.data.sources import FolderSource

        if not isinstance(found, FolderSource) or found.classes is not None:
            raise PochadeError(f"{given[0]}: goes with shards, as in prepare folder --path SHARDS, {source} given")
        others = {
            "split": split != "both",
            "format": format_ != "shards",
            "limit": limit is not None,
            "overwrite": overwrite,
        }
        for name in (name for name, value in others.items() if value):
            raise PochadeError(f"{name}: does not go with {given[0]}; both sides are written, as shards")
        curation = Curation(
            size=size,
            min_side=min_side or 0,
            min_score=min_score,
            score=score,
            deduplicate=deduplicate,
            caption=caption,
        )
        where = on or "local"  # the value is checked there
        check_seen(where, {"out": out, "path" if path else "source": found.path})
        with place(out, overwrite, goes_on=True) as folder:
            quiet_libraries()
            report = curate(found, folder, curation, on=where, gpus=gpus, reading=reading, progress=not as_json)  # pyright: ignore[reportArgumentType]
        show(out, report, as_json)
        return
    with place(out, overwrite) as folder:
        target = target_of(folder, size, split, format_, limit, overwrite)
        report = write(found, target, reading=reading, progress=not as_json)
    show(out, report, as_json)


@data.command("pairs")
def pairs(
    *,
    source: Annotated[
        str, typer.Argument(help="openmoji, folder, instructpix2pix or magicbrush; or pairs as train takes them.")
    ],
    out: Out,
    size: Size = 64,
    path: Annotated[
        str | None,
        typer.Option(help="The folder or shards (all but openmoji), or a name on the hub (the last two)."),
    ] = None,
    split: Split = "both",
    format_: Format = "shards",
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Of openmoji: kinds of pairs and how often, as inpaint,recolour=2,mirror=0.5.", show_default="all"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="So many pairs of a split.")] = None,
    max_megapixels: MaxMegapixels = None,
    max_skipped: MaxSkipped = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write pairs of pictures, before and after, with an instruction, as shards or as a folder, with a report.

    For example: pochade data pairs openmoji --size 64 --limit 5000 data/pairs
    """
    from pochade.data.prepare.pairs import prepare_pairs

    found = _pairs(source, path, kinds)
    reading = read_limits(max_megapixels, max_skipped)
    with place(out, overwrite) as folder:
        target = target_of(folder, size, split, format_, limit, overwrite)
        report = prepare_pairs(found, target, reading=reading, progress=not as_json)
    show(out, report, as_json)


def _pictures(
    kind: str, path: str | None, config: str | None, columns: str | None, min_score: float | None
) -> "Source | HubSource":
    from pochade.data import sources
    from pochade.data.sources.hub import HubSource, JourneyDBSource, read_columns

    _check_path(kind, path, PICTURES, optional=("drawings",))
    for name, given in (("config", config), ("columns", columns)):
        if kind != "datasets" and given is not None:
            raise PochadeError(f"{name}: given, but goes with the source datasets only")
    if kind == "datasets" and path is not None:
        return HubSource(path, config, tuple(read_columns(columns).items()) if columns else (), min_score)
    with naming("path", "source"):
        given = Path() if path is None else sources.path_or_url(path)
    match kind, path:
        case "journeydb", str():
            return JourneyDBSource(path)
        case "folder", str():
            found = sources.FolderSource(given)
        case "cifar10", str():
            found = sources.CIFAR10Source(given)
        case "drawings", str():
            found = sources.DrawingsSource(given)
        case "openclipart", str():
            found = sources.OpenClipArtSource(given)
        case _:
            found = sources.parse_source(kind)
    if path is not None:
        sources.check_there(place.expanduser() for place in found.paths())
    found.check()
    return found


def _pairs(kind: str, path: str | None, kinds: str | None) -> "PairSource | PairFiles":
    from pochade.data.prepare.importers import InstructPix2Pix, MagicBrush
    from pochade.data.sources import check_there, path_or_url
    from pochade.data.sources.pairs import OpenMojiPairSource, StoredPairSource, parse_pairs, read_kinds

    _check_path(kind, path, PAIRS)
    if kinds is not None:
        if kind != "openmoji":
            raise PochadeError("kinds: given, but goes with the source openmoji only")
        return OpenMojiPairSource(tuple(read_kinds(kinds).items()))
    match kind, path:
        case "instructpix2pix", str():
            return InstructPix2Pix(path)
        case "magicbrush", str():
            return MagicBrush(path)
        case "folder", str():
            with naming("path", "source"):
                found = StoredPairSource(path_or_url(path))
        case _:
            found = parse_pairs(kind)
    check_there(found.paths())
    return found


def _check_path(kind: str, path: str | None, known: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Raises PochadeError where a kind of source lacks its path, or has one that it does not take."""
    needs_path = kind in known[1:]
    if needs_path and path is None and kind not in optional:
        raise PochadeError(f"path: {kind} needs one")
    if path is not None and not needs_path:
        allowed = f"allowed with a path are {', '.join(known[1:])}{nearest(kind, known)}"
        raise PochadeError(f"path: {kind} takes none, {path} given; {allowed}")
