"""``pochade train``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from pochade.cli.common import complain, console, print_json
from pochade.errors import PochadeError

EXAMPLES = """[bold]Examples[/bold]

pochade train --list

pochade train lrf --show flow.learning_rate=5e-4

pochade train lira --dry-run

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
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/RECIPE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in this folder stopped.")] = False,
    only: Annotated[
        str | None, typer.Option(help="Train this stage alone; those before it are finished in the folder.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the stages with all fields and stop.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train every stage for a few steps on random tensors and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list, --show or --dry-run: print JSON.")] = False,
) -> None:
    """Train a model by a recipe; every field can be changed."""
    if list_:
        _list(as_json)
        return
    if recipe is None:
        raise PochadeError("recipe: none given, pochade train --list names them")
    from pochade.recipes import run

    if only is not None and (show or dry_run):
        raise PochadeError("only: goes with a run, not with --show or --dry-run")
    if show:
        from pochade.training.stage import override

        _show(override(run.stages_of(recipe), changes or []), as_json)
        return
    if dry_run:
        _try(recipe, changes or [], as_json)
        return
    if as_json:
        raise PochadeError("json: goes with --list, --show or --dry-run; a run writes metrics.jsonl")
    model = run.train(recipe, changes or [], out or Path("runs") / recipe, resume=resume, only=only)
    print(model)


def _list(as_json: bool) -> None:
    import inspect
    from importlib import import_module

    from pochade.recipes import RECIPES

    found: dict[str, str] = {}
    for name, place in RECIPES.items():
        module, _, function = place.partition(":")
        lines = (inspect.getdoc(getattr(import_module(module), function)) or "").splitlines()
        found[name] = lines[0] if lines else ""
    if as_json:
        print_json(found)
        return
    for name, line in found.items():
        console().print(f"{name:16s} {line}", markup=False)


def _show(stages: list[Any], as_json: bool) -> None:
    if as_json:
        import json

        # A field may hold a Path or another value that JSON has no form for.
        print_json(json.loads(json.dumps([dataclasses.asdict(s) for s in stages], default=str)))
        return
    for number, stage in enumerate(stages, 1):
        print(f"stage {number}: {stage.name}")
        for path, value in _fields(stage):
            print(f"  {path} = {value}")


def _try(recipe: str, changes: list[str], as_json: bool) -> None:
    from pochade.recipes import run
    from pochade.recipes.dry_run import dry_run
    from pochade.training.stage import override

    found: list[dict[str, Any]] = []
    for tried in dry_run(override(run.stages_of(recipe), changes)):
        found.append(dataclasses.asdict(tried))
        if as_json:
            continue
        losses = " -> ".join(f"{loss:.3f}" for loss in (tried.losses[0], tried.losses[-1]))
        print(
            f"{tried.stage}: {tried.parameters:,} parameters trained; {tried.batch_size} x "
            f"{' x '.join(map(str, tried.shape))}: {tried.seconds_per_step:.2f} s/step; loss {losses}"
        )
        if tried.assumed:
            complain("warning", tried.assumed)
    if as_json:
        print_json(found)


def _fields(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            rows += _fields(value, f"{prefix}{f.name}.")
        elif prefix or f.name != "name":
            rows.append((prefix + f.name, value))
    return rows
