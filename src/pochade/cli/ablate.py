"""``pochade ablate``."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli.common import check_no_options, console, print_json
from pochade.errors import PochadeError, nearest
from pochade.files import check_folder

EXAMPLES = """[bold]Examples[/bold]

pochade ablate --list

pochade ablate lira --out runs/lira-study steps=1000

pochade ablate lira --out runs/lira-study steps=1000 --cases loop,none --seeds 3"""


def ablate(
    *,
    study: Annotated[str | None, typer.Argument(help="Name of a study (--list).")] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(help="Changes in all runs, as FIELD=VALUE.", metavar="[FIELD=VALUE]...")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the study.", show_default="runs/STUDY")
    ] = None,
    cases: Annotated[str | None, typer.Option(help="Some of the cases, separated by commas.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each case, with seeds from 0 on.")] = 1,
    close_seeds: Annotated[
        int,
        typer.Option(help="Runs of the first case and of those whose KID is within the standard deviation of its own."),
    ] = 1,
    samples: Annotated[int, typer.Option(help="Captions of each split that pictures are generated for.")] = 500,
    sampling_steps: Annotated[int, typer.Option(help="Steps of the sampling.")] = 20,
    list_: Annotated[bool, typer.Option("--list", help="List the studies and their cases.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]  # typer fills it in
) -> None:
    """Train the same recipe with one thing changed at a time, at equal cost, and compare.

    Finished runs are used as they are, so that an interrupted study is continued.
    """
    from pochade.recipes import studies

    check_no_options([*([study] if study else []), *(changes or [])], context)
    if list_:
        for name, found in studies.STUDIES.items():
            console().print(f"{name}: {found.about}", markup=False)
            for case, row in found.cases.items():
                console().print(f"  {case:14s} {row.about}", markup=False)
        return
    if study is None:
        raise PochadeError("study: none given, pochade ablate --list names them")
    chosen = studies.study(study)
    names = list(chosen.cases) if cases is None else [name.strip() for name in cases.split(",")]
    for name in names:
        if name not in chosen.cases:
            allowed = ", ".join(chosen.cases)
            raise PochadeError(f"cases: {name!r} given, allowed are {allowed}{nearest(name, chosen.cases)}")

    from pochade.evaluation import ablation
    from pochade.training.executor import check_run, run

    folder = out or Path("runs") / study
    check_folder("out", folder)
    rows = ablation.ablate(
        {name: chosen.cases[name] for name in names},
        lambda name, seed: studies.stages_of_case(chosen, name, seed, tuple(changes or ())),
        lambda stages, folder: check_run(stages, folder, resume=True),
        lambda stages, folder: run(stages, folder, resume=True),
        folder,
        ablation.Settings(seeds, close_seeds, samples, sampling_steps),
    )
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        print(ablation.table(rows))
