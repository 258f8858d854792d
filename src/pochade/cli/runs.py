"""``pochade runs``: which trainings there are, how they stand, and how they compare."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli.common import console, print_json
from pochade.files import check_absent, check_here

EXAMPLES = """[bold]Examples[/bold]

pochade runs

pochade runs runs/mine runs/small --page compare.html"""


def runs(
    *,
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs, or runs.", metavar="[FOLDER]...", show_default="runs")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write a page with figures, differing settings, curves and sheets.", metavar="FILE.html"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures and settings as JSON.")] = False,
) -> None:
    """List trainings with their losses, and compare them."""
    if page is not None:
        check_here("page", page)
    from pochade.training.runs import different_settings, find_runs

    found = find_runs(folders or [Path("runs")])
    if page is not None:
        check_absent("page", page.parent, [page.name])
        from pochade.evaluation.runs_page import write_runs

        write_runs(page, found)
    if as_json:
        print_json([run.to_dict() for run in found])
        return
    from rich.table import Table

    from pochade.training.estimate import span

    table = Table("run", "state", "step", "loss", "held out", "lowest", "left")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.no_wrap = True
    for run in found:
        lowest = "" if run.lowest is None else f"{run.lowest:.4g} @ {run.lowest_step}"
        table.add_row(
            str(run.folder),
            run.state,
            f"{run.step}/{run.steps or '?'}",
            "" if run.loss is None else f"{run.loss:.4g}",
            "" if run.held_out_loss is None else f"{run.held_out_loss:.4g}",
            lowest,
            span(run.seconds_left) if run.state == "running" else "",
        )
    out = console()
    out.print(table)
    different = different_settings(found) if len(found) > 1 else {}
    if different and len({run.settings.get("name") for run in found}) == 1:
        names = Table("setting", *(str(run.folder) for run in found))
        for name, values in different.items():
            names.add_row(name, *map(str, values))
        out.print(names)
    if page is not None:
        print(page)
