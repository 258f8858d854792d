"""``pochade data prepare``, ``pochade data pairs`` and ``pochade data check``."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.cli.common import check_folder, complain, loading, print_json, quiet_libraries
from pochade.errors import PochadeError, naming, nearest
from pochade.pipelines.hub import DEFAULT_MODEL

if TYPE_CHECKING:
    from pochade.data.prepare.target import Target
    from pochade.data.sources import Source
    from pochade.data.sources.hub import HubSource
    from pochade.data.sources.image_files import Reading
    from pochade.data.sources.pairs import PairSource
    from pochade.data.sources.pairs.pair import PairFiles

PICTURES = ("openmoji", "drawings", "openclipart", "folder", "cifar10", "datasets", "journeydb")
PAIRS = ("openmoji", "folder", "instructpix2pix", "magicbrush")

data = typer.Typer(help="Make data sets, and check them.", no_args_is_help=True)

Out = Annotated[Path, typer.Argument(help="Folder to write, or a URL such as s3://BUCKET/NAME.")]
Size = Annotated[int, typer.Option(help="Rows and columns of the pictures in pixels.")]
Split = Annotated[str, typer.Option(help="both, train, held_out, composed or all.")]
Format = Annotated[str, typer.Option("--format", help="shards (WebDataset) or folder.")]
MaxMegapixels = Annotated[float | None, typer.Option(help="Refuse larger pictures before they are decoded.")]
MaxSkipped = Annotated[float | None, typer.Option(help="Stop where a larger share of the files is unusable.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call wrote there.")]
Background = Annotated[
    str, typer.Option(help="Behind transparent pictures: a colour (white, #ff8800), or random: one for each picture.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


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
            help="Which columns of datasets are what, as image=A,caption=B.C,label=D,score=E.", show_default="found"
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
        bool, typer.Option("--deduplicate", help="Of shards: of pictures that look alike keep the first.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Of shards, or of datasets with a column of scores: leave out pictures with a lower one.",
            show_default="none",
        ),
    ] = None,
    score: Annotated[
        str, typer.Option(help="contrast, or a picture classifier of transformers, by hub name or folder.")
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
        from pochade.data.sources import FolderSource

        if not isinstance(found, FolderSource) or found.classes is not None:
            raise PochadeError(f"{given[0]}: goes with shards, as in prepare folder --path SHARDS, {source} given")
        others = {"split": split != "both", "format": format_ != "shards", "limit": limit, "overwrite": overwrite}
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
        with place(out, overwrite) as folder:
            quiet_libraries()
            where = on or "local"  # the value is checked there
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


@data.command("check")
def check(
    *,
    source: Annotated[str, typer.Argument(help="A folder of pictures or shards, or another source as train takes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("data-check"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Name, folder, or OWNER/NAME: how well its autoencoder gives each picture back, and how much of the "
            f"captions it reads. Left out: the captions alone, as {DEFAULT_MODEL} reads them."
        ),
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="How well this one gives each picture back: of a model, a folder, or OWNER/NAME on the hub."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels to train at; left out, the model's own.")] = None,
    background: Background = "white",
    max_megapixels: MaxMegapixels = None,
    max_skipped: MaxSkipped = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look at every picture and caption before training: what is broken, alike, too long or too fine.

    A page with small pictures and a JSON file; the exit code is 1 where something is to be mended.

    For example: pochade data check my-pictures --model open-drawings
    """
    from pochade.data.dataset import check_size
    from pochade.data.sources import parse_source
    from pochade.evaluation.data_page import FILES, write_check
    from pochade.files import check_absent

    found = parse_source(source)
    reading = read_limits(max_megapixels, max_skipped, background)
    if size is not None:
        check_size(size)
    check_folder("out", out)
    if not overwrite:
        check_absent("out", out, FILES)
    name, measured = model or DEFAULT_MODEL, autoencoder or model
    with loading(name):
        from pochade.evaluation.data_check import check_data, parts_of

        quiet_libraries()
        encoder, network, own = parts_of(name)
    if autoencoder is not None:
        with loading(autoencoder), naming("autoencoder", "name_or_folder"):
            from pochade.pipelines.autoencoders import load_autoencoder

            network = load_autoencoder(autoencoder)
    size = own if size is None else size
    if measured is not None and size % network.downsampling:
        raise PochadeError(f"size: {size} given, allowed are multiples of {network.downsampling} with {measured}")
    checked, dataset = check_data(
        found,
        encoder,
        size,
        autoencoder=None if measured is None else network,
        model=measured or name,
        reading=reading,
        progress=not as_json,
    )
    if not overwrite:  # another process may have written one meanwhile
        check_absent("out", out, FILES)
    json, page = write_check(out, checked, dataset)
    if as_json:
        print_json(checked.to_dict())
    else:
        for finding in checked.findings:
            print(f"{'to mend' if finding.problem else 'to know'}: {finding.text}")
        print(f"{json}\n{page}")
    if checked.problems:
        raise typer.Exit(1)


def _pictures(
    kind: str, path: str | None, config: str | None, columns: str | None, min_score: float | None
) -> "Source | HubSource":
    from pochade.data import sources
    from pochade.data.sources.hub import HubSource, JourneyDBSource, read_columns

    _check_path(kind, path, PICTURES, optional=("drawings",))
    for name, given in (("config", config), ("columns", columns)):
        if kind != "datasets" and given is not None:
            raise PochadeError(f"{name}: given, but goes with the source datasets only")
    match kind, path:
        case "datasets", str():
            return HubSource(path, config, tuple(read_columns(columns).items()) if columns else (), min_score)
        case "journeydb", str():
            return JourneyDBSource(path)
        case "folder", str():
            return sources.FolderSource(Path(path))
        case "cifar10", str():
            return sources.CIFAR10Source(Path(path))
        case "drawings", str():
            return sources.DrawingsSource(Path(path))
        case "openclipart", str():
            return sources.OpenClipArtSource(Path(path))
        case _:
            return sources.parse_source(kind)


def _pairs(kind: str, path: str | None, kinds: str | None) -> "PairSource | PairFiles":
    from pochade.data.prepare.importers import InstructPix2Pix, MagicBrush
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
            return StoredPairSource(Path(path))
        case _:
            return parse_pairs(kind)


def _check_path(kind: str, path: str | None, known: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Raises PochadeError where a kind of source lacks its path, or has one that it does not take."""
    needs_path = kind in known[1:]
    if needs_path and path is None and kind not in optional:
        raise PochadeError(f"path: {kind} needs one")
    if path is not None and not needs_path:
        allowed = f"allowed with a path are {', '.join(known[1:])}{nearest(kind, known)}"
        raise PochadeError(f"path: {kind} takes none, {path} given; {allowed}")


@contextmanager
def place(out: Path, overwrite: bool) -> Iterator[Path]:
    """The folder to write: ``out`` itself; where that is a URL, one that is sent there when the block ends well."""
    from pochade.storage import check_empty, send, url_of

    url = url_of(out)
    if url is None:
        yield out
        return
    if overwrite:
        raise PochadeError(f"overwrite: given, but nothing is overwritten at {url}; choose another place")
    check_empty("out", url)
    with tempfile.TemporaryDirectory(prefix="pochade-data-") as folder:
        yield Path(folder) / "data"
        send(Path(folder) / "data", url)


def target_of(out: Path, size: int, split: str, format_: str, limit: int | None, overwrite: bool) -> "Target":
    """The place and form of a data set."""
    from pochade.data.prepare.target import Target

    # The values of split and format are checked there.
    return Target(out=out, size=size, split=split, format=format_, limit=limit, overwrite=overwrite)  # pyright: ignore[reportArgumentType]


def read_limits(max_megapixels: float | None, max_skipped: float | None, background: str = "white") -> "Reading":
    """How pictures are read; limits that are None are the usual ones."""
    from pochade.data.sources.image_files import Reading

    usual = Reading(background)
    return replace(
        usual,
        max_megapixels=usual.max_megapixels if max_megapixels is None else max_megapixels,
        max_skipped=usual.max_skipped if max_skipped is None else max_skipped,
    )


def show(out: Path, report: dict[str, Any], as_json: bool) -> None:
    """What was written, and a warning of what was not."""
    if as_json:
        print_json(report)
        return
    from pochade.storage import url_of

    counts = ", ".join(f"{n} {name}" for name, n in report["samples"].items())
    print(f"{url_of(out) or out}: {counts}")
    if "kept" in report:
        left = ", ".join(f"{report[name]} {name}" for name in ("too small", "below the score", "duplicates"))
        unusable = sum(report["unusable"].values())
        print(f"of {report['pictures']} pictures {report['kept']} kept; {left}, {unusable} unusable")
    reading = report.get("reading")
    if reading is not None and (reading["skipped"] or reading["notes"]):
        complain("warning", f"{reading['source']}: {reading['summary']}; all named in {out / 'report.json'}")
