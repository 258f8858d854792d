"""What the commands of ``pochade data`` share: options, places to write to, limits, and what is shown at the end."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.arguments import path_text
from pochade.cli.common import complain, print_json
from pochade.errors import PochadeError, advising

if TYPE_CHECKING:
    from pochade.data.prepare.target import Target
    from pochade.data.sources.image_files import Reading

Out = Annotated[str, typer.Argument(help="Folder to write, or a URL such as s3://BUCKET/NAME.")]
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
FEW = 3
"""Of what could not be used so many are named."""


@contextmanager
def place(out: str, overwrite: bool, *, goes_on: bool = False) -> Iterator[Path]:
    """The folder to write: ``out`` itself; where that is a URL, one that is sent there when the block ends well, and is
    kept where it cannot be.

    ``goes_on``: a repeated call finds what an interrupted one has left beside the folder.
    """
    from pochade.files import cache_folder
    from pochade.storage import check_empty, send, url_of

    url = url_of("out", path_text("out", out))
    if url is None:
        with advising("--split all"):
            yield Path(out)
        return
    if overwrite:
        raise PochadeError(f"overwrite: given, but nothing is overwritten at {url}; choose another place")
    check_empty("out", url)
    if goes_on:
        folder = cache_folder("prepared") / hashlib.sha256(url.encode()).hexdigest()[:16]
    else:
        folder = Path(tempfile.mkdtemp(prefix="pochade-data-"))
    made = folder / "data"
    try:
        with advising("--split all"):
            yield made
    except BaseException:
        if not goes_on:
            shutil.rmtree(folder)
        raise
    if goes_on:  # what cannot be sent is in nobody's way
        whole = Path(tempfile.mkdtemp(prefix="whole-", dir=folder.parent))
        made = made.rename(whole / "data")
        folder.rmdir()
        folder = whole
    try:
        send(made, url)
    except (PochadeError, KeyboardInterrupt) as error:
        error.args = (f"{str(error) or 'stopped by Ctrl-C'}; what was made is kept in {made}",)
        raise
    shutil.rmtree(folder)


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


def show(out: str, report: dict[str, Any], as_json: bool) -> None:
    """What was written, and a warning of what was not."""
    if as_json:
        print_json(report)
        return
    from pochade.storage import url_of

    counts = ", ".join(f"{n} {name}" for name, n in report["samples"].items())
    to = url_of("out", out) or Path(out)
    listed = f"{to}/report.json"
    print(f"{to}: {counts}")
    if "composed" in report:
        print(f"{report['composed']} composed are not written, which --split composed writes")
    if "kept" in report:
        left = ", ".join(f"{report[name]} {name}" for name in ("too small", "below the score", "duplicates"))
        unusable = sum(report["unusable"].values())
        print(f"of {report['pictures']} pictures {report['kept']} kept; {left}, {unusable} unusable")
        if unusable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in report["unusable"].items())
            first = "; ".join(f"{name}: {detail or reason}" for name, reason, detail in report["named"][:FEW])
            named = f" ({first}{'; ...' * (len(report['named']) > FEW)})" if first else ""
            complain("warning", f"{report['source']}: {reasons} cannot be used{named}; details in {listed}")
        if report["notes"]:
            notes = ", ".join(f"{note['files']} {what} ({note['first']})" for what, note in report["notes"].items())
            complain("warning", f"{report['source']}: {notes}")
    reading = report.get("reading")
    if reading is not None and (reading["skipped"] or reading["notes"]):
        complain("warning", f"{reading['source']}: {reading['summary']}; all named in {listed}")
