"""``pochade cache``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pochade.cli.common import check_no_options, quiet_libraries
from pochade.errors import PochadeError
from pochade.files import check_here

EXAMPLES = """For example: pochade cache lira data.source=shards --out runs/lira --on ray --workers 8 --gpus 1"""


def cache(
    *,
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, as of pochade train --list.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="FIELD=VALUE...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/RECIPE")] = None,
    only: Annotated[
        str | None, typer.Option(help="The stage whose data are encoded.", show_default="the first unfinished")
    ] = None,
    on: Annotated[str, typer.Option(help="local, or ray: the cluster of RAY_ADDRESS.")] = "local",
    workers: Annotated[int, typer.Option(help="With --on ray: processes that encode at once.")] = 1,
    gpus: Annotated[float, typer.Option(help="With --on ray: GPUs of each, as 0.5.")] = 0.0,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]  # typer fills it in
) -> None:
    """Encode the data of a stage, latents and text vectors, before it is trained with the same --out.

    The parts of the cache are shared out as processes are free; those that see one folder may also be started by hand.
    """
    check_no_options([recipe, *(changes or [])], context)
    from pochade.data.prepare.executors import check_place, each_piece
    from pochade.data.progress import said_meanwhile
    from pochade.recipes import stages_of
    from pochade.training.overrides import override

    check_place(on, gpus)
    if workers < 1 or (workers > 1 and on == "local"):
        raise PochadeError(f"workers: {workers} given, allowed are 1, and with --on ray more")
    stages = override(stages_of(recipe), changes or [])
    quiet_libraries()
    from pochade.training.executor import Encoding

    folder = out or Path("runs") / recipe
    check_here("out", folder)
    encoding = Encoding(tuple(stages), folder.absolute(), only)
    encoding.check()
    name = stages[encoding.stage()].name
    made = encoding.out / "cache"

    def state() -> str:
        return f"{name}: {sum(1 for _ in made.glob('*/part-*.safetensors')):,} parts are in {made}"

    # A process that encodes here says itself how far it is.
    with said_meanwhile(state) if on == "ray" else nullcontext():
        samples = max(each_piece(encoding, workers, on, encoding.out, gpus=gpus))  # pyright: ignore[reportArgumentType]
    if not samples:
        given = f"recipe: {recipe!r}" if only is None else f"only: {only!r}"
        raise PochadeError(
            f"{given} given, whose stage {name} reads its pictures as they are: nothing is to be encoded"
        )
    print(f"{name}: {samples} samples, encoded in {made}")
