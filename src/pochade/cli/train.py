"""``pochade train``."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pochade.cli.common import (
    check_no_options,
    complain,
    console,
    figure,
    is_main,
    print_json,
    quiet_libraries,
)
from pochade.errors import PochadeError, as_given

if TYPE_CHECKING:
    from pochade.training.dry_run import Trial
    from pochade.training.stage import AnyStage

EXAMPLES = """[bold]Examples[/bold]

pochade train --list

pochade train lrf --show flow.learning_rate=5e-4

pochade train lira --dry-run

pochade train lora --data my-pictures --base open-drawings --rank 8 --out runs/mine

pochade train lrf --out runs/mine flow.steps=2000 flow.batch_size=64

pochade train lrf --out runs/mine flow.steps=2000 flow.batch_size=64 --resume

pochade train iris --out runs/iris --only classes

torchrun --nproc_per_node 2 -m pochade train lrf --out runs/two"""


def train(
    *,
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe (--list).")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="Changes, as FIELD=VALUE or STAGE.FIELD=VALUE.", metavar="[FIELD=VALUE]..."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="What to train on: a short form of data.source=DATA.")] = None,
    base: Annotated[str | None, typer.Option(help="Of a LoRA, the model: a short form of task.base=MODEL.")] = None,
    rank: Annotated[str | None, typer.Option(help="Of a LoRA: a short form of task.rank=RANK.")] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Folder of the run, or its URL.", metavar="PATH", show_default="runs/RECIPE"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in this folder stopped.")] = False,
    only: Annotated[
        str | None, typer.Option(help="Train this stage alone; those before it are finished in the folder.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the stages with all fields and stop.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Try every stage for a few steps on synthetic data; report memory, seconds a step and hours.",
        ),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda, cuda:1 or mps, for all stages; left out: as in the recipe."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --list, --show or --dry-run: print JSON.")] = False,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]  # typer fills it in
) -> None:
    """Train a model by a recipe; every field can be changed."""
    check_no_options([*([recipe] if recipe else []), *(changes or [])], context)
    if list_:
        _list(as_json)
        return
    if recipe is None:
        raise PochadeError("recipe: none given, pochade train --list names them")
    if only is not None and (show or dry_run):
        raise PochadeError("only: goes with a run, not with --show or --dry-run")
    if as_json and not (show or dry_run):
        raise PochadeError("json: goes with --list, --show or --dry-run; a run writes metrics.jsonl")
    from pochade.recipes import stages_of
    from pochade.training.overrides import override

    changes = changes or []
    options = {"data": ("data.source", data), "base": ("task.base", base), "rank": ("task.rank", rank)}
    given = {name: pair for name, pair in {**options, "device": ("device", device)}.items() if pair[1] is not None}
    for name, (field, value) in given.items():
        for other in (change for change in changes if change.partition("=")[0].strip() == field):
            raise PochadeError(f"{name}: --{name} {value} given with {other}, allowed is one of them")
    of_options = [f"{field}={value}" for field, value in given.values()]
    stages = override(stages_of(recipe), [*of_options, *changes])
    if show:
        _show(stages, as_json)
        return
    quiet_libraries()
    if dry_run:
        _try(stages, as_json)
        return
    from pochade.training.executor import run

    model = run(stages, Path("runs") / recipe if out is None else out, resume=resume, only=only)
    if is_main():
        print(as_given(str(model)))


def _list(as_json: bool) -> None:
    import inspect
    from importlib import import_module

    from pochade.recipes import RECIPES

    found: dict[str, str] = {}
    for name, place in RECIPES.items():
        module, _, function = place.partition(":")
        text = inspect.getdoc(getattr(import_module(module), function)) or ""
        found[name] = re.split(r"(?<=\.)\s", " ".join(text.partition("\n\n")[0].split()), maxsplit=1)[0]
    if as_json:
        print_json(found)
        return
    longest = max(map(len, found))
    for name, line in found.items():
        console().print(f"{name:{longest}s} {line}", markup=False)


def _show(stages: "list[AnyStage]", as_json: bool) -> None:
    if as_json:
        print_json([stage.settings() for stage in stages])
        return
    from pochade.training.overrides import fields_of

    for number, stage in enumerate(stages, 1):
        print(f"stage {number}: {stage.name}")
        for path, value in fields_of(stage):
            print(f"  {path} = {value}")


def _try(stages: "list[AnyStage]", as_json: bool) -> None:
    from pochade.training.dry_run import dry_run

    found: list[Trial] = []
    status = console(stderr=True).status(f"{stages[0].name} ...")
    with status:
        for trial in dry_run(stages):
            found.append(trial)
            for line in trial.assumed:
                complain("warning", line)
            status.update(f"after {trial.stage} ...")
    if as_json:
        print_json([{**dataclasses.asdict(t), "needed": t.needed, "fits": t.fits} for t in found])
        return
    from rich.table import Table

    table = Table("stage", "trained", "batch", "GB", "fits", "s/step", "hours", title=f"On {found[0].device}")
    for t in found:
        parts = "" if t.fits else f", accumulate={t.accumulate}" if t.accumulate else ", not even one sample"
        table.add_row(
            t.stage,
            f"{t.parameters / 1e6:.2f} M",
            f"{t.batch} x {' x '.join(map(str, t.shape))}",
            figure(t.needed / 1e9, 2),
            ("yes" if t.fits else "no") + parts,
            figure(t.seconds_per_step, 2),
            figure(t.hours, 1),
        )
    out = console()
    out.print(table)
    out.print(f"All stages: {figure(sum(t.hours for t in found), 1)} hours, without the encoding of the data.")
    slow = [t for t in found if t.device == "cpu" and t.batch > t.tried]
    if slow:
        out.print("On a CPU the trial is in float32 and of few samples; the figures are scaled to the batch.")
