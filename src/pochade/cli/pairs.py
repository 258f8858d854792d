"""``pochade data pairs``."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli.common import print_json


def pairs(
    *,
    source: Annotated[str, typer.Argument(help="openmoji, folder, instructpix2pix or magicbrush.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[int, typer.Option(help="Rows and columns of the pictures in pixels.")] = 64,
    path: Annotated[
        str | None,
        typer.Option(help="The folder or shards (all but openmoji), or a name on the hub (the last two)."),
    ] = None,
    split: Annotated[str, typer.Option(help="both, train, held_out or all.")] = "both",
    format_: Annotated[str, typer.Option("--format", help="shards (WebDataset) or folder.")] = "shards",
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Of openmoji: kinds of pairs and how often, as inpaint,recolour=2,mirror=0.5.", show_default="all"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="So many pairs of a split.")] = None,
    max_megapixels: Annotated[
        float | None, typer.Option(help="Refuse larger pictures before they are decoded.")
    ] = None,
    max_skipped: Annotated[
        float | None, typer.Option(help="Stop where a larger share of the pairs is unusable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call wrote there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write pairs of pictures, before and after, with what was asked for, as shards or as a folder, with a report.

    For example: pochade data pairs openmoji --size 64 --limit 5000 data/pairs
    """
    from pochade.data.prepare.pairs import prepare_pairs, read_kinds

    limits = {"max_megapixels": max_megapixels, "max_skipped": max_skipped}
    report = prepare_pairs(
        source,
        out,
        size=size,
        path=path,
        split=split,
        format=format_,
        weights=None if kinds is None else read_kinds(kinds),
        limit=limit,
        overwrite=overwrite,
        progress=not as_json,
        **{k: v for k, v in limits.items() if v is not None},  # pyright: ignore[reportArgumentType]
    )
    if as_json:
        print_json(report)
    else:
        counts = ", ".join(f"{n} {name}" for name, n in report["samples"].items())
        print(f"{out}: {counts}")
