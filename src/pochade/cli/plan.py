"""``pochade plan``: days, dollars, memory and bytes of a recipe on a cluster, without training."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pochade.cli.common import check_no_options, complain, console, figure, gigabytes, print_json, quiet_libraries
from pochade.errors import PochadeError

if TYPE_CHECKING:
    from pochade.training.accelerators import Cluster
    from pochade.training.plan import StagePlan

EXAMPLES = """[bold]Examples[/bold]

pochade plan lira-curriculum --gpus 8xH100 --pictures 15e6 --price 2.5

pochade plan lrf --gpus RTX4090 --pictures 3000 --share 0.2 --json

pochade plan iris-curriculum --gpus 64xH100 --pictures 15e6 vae.batch_size=64"""

MOST_PICTURES = 1e12


def plan(
    *,
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (pochade train --list).")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="Changes, as FIELD=VALUE or STAGE.FIELD=VALUE.", metavar="[FIELD=VALUE]..."),
    ] = None,
    gpus: Annotated[str, typer.Option(help="How many GPUs of which kind, as COUNTxNAME.", metavar="8xH100")],
    pictures: Annotated[str, typer.Option(help="Pictures of the data set, as in 15e6.", metavar="COUNT")],
    price: Annotated[float | None, typer.Option(help="Dollars for an hour of one GPU; left out, no costs.")] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Rate of training over that of a matrix product; left out, what was measured on an H100."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    context: typer.Context = None,  # pyright: ignore[reportArgumentType]  # typer fills it in
) -> None:
    """Work out what a recipe takes on a cluster: days, dollars, memory, disk, network, and what limits it.

    Operations and bytes are counted from the recipe's own networks; nothing is trained, and no data are needed.
    """
    check_no_options([recipe, *(changes or [])], context)
    count = _count(pictures)
    from pochade.training.accelerators import parse_cluster

    cluster = parse_cluster(gpus)
    quiet_libraries()
    from pochade.recipes import stages_of
    from pochade.training.overrides import override
    from pochade.training.plan import SHARE, source_bytes
    from pochade.training.plan import plan as work_out

    share = SHARE if share is None else share
    stages = override(stages_of(recipe), changes or [])
    data, held = source_bytes(stages, count)
    found: list[StagePlan] = []
    with console(stderr=True).status(f"{stages[0].name} ...") as status:
        for one in work_out(stages, cluster, count, price=price, share=share):
            found.append(one)
            for line in one.assumed:
                if not line.startswith("data."):
                    complain("warning", f"{one.stage}: {line}")
            status.update(f"after {one.stage} ...")
    total = {
        "days": sum(s.days + s.encoding_days for s in found),
        "gpu_hours": sum(s.gpu_hours for s in found),
        "dollars": None if price is None else sum(s.dollars or 0 for s in found),
        "disk": held + sum(s.cache for s in found) + max(s.checkpoints for s in found),
        "pictures": held,
        "all_pictures": data,
    }
    if as_json:
        rows = [{**dataclasses.asdict(s), "needed": s.needed} for s in found]
        print_json({"gpus": str(cluster), "share": share, "stages": rows, "total": total})
        return
    _print(recipe, cluster, count, share, found, total)


def _count(text: str) -> int:
    try:
        count = float(text)
    except ValueError:
        count = 0.0
    if not 1 <= count <= MOST_PICTURES or count != int(count):
        raise PochadeError(
            f"pictures: {text!r} given, allowed are whole numbers from 1 to {MOST_PICTURES:g}, as in 15e6"
        )
    return int(count)


def _print(
    recipe: str, cluster: "Cluster", pictures: int, share: float, found: "list[StagePlan]", total: dict[str, Any]
) -> None:
    from rich.table import Table

    time = Table(
        "stage", "steps", "passes", "GFLOP", "s/step", "days", "GPU h", "limit", title=f"{recipe}: time on {cluster}"
    )
    size = Table("stage", "batch", "memory", "fits", "cache", "MB/step", "read MB/s", title="memory, disk and network")
    for s in found:
        time.add_row(
            s.stage,
            f"{s.steps:,}",
            figure(s.passes),
            figure(s.operations / 1e9, 1),
            figure(s.seconds_per_step),
            figure(s.days + s.encoding_days),
            figure(s.gpu_hours, 1),
            s.limit,
        )
        size.add_row(
            s.stage,
            f"{s.accumulate} x {s.batch}" if s.accumulate > 1 else str(s.batch),
            gigabytes(s.needed, 1),
            "yes" if s.fits else "no",
            gigabytes(s.cache, 1),
            figure(s.exchanged / 1e6),
            figure(s.read / 1e6, 1),
        )
    out = console()
    for table in (time, size):
        for column in table.columns:
            column.no_wrap = True
        out.print(table)
    dollars = "" if total["dollars"] is None else f", {figure(total['dollars'])} dollars"
    out.print(f"All stages: {figure(total['days'])} days, {figure(total['gpu_hours'], 1)} GPU hours{dollars}.")
    held, whole = total["pictures"], total["all_pictures"]
    part = "" if held == whole else f", a part at a time of {gigabytes(whole)} (data.cache_limit)"
    out.print(f"Disk: {gigabytes(total['disk'])}, of which {gigabytes(held)} of pictures as JPEG{part}.")
    out.print(
        f"{pictures:,} pictures. GFLOP: forward and backward pass of a sample, at {share:.1%} of the rate of a matrix "
        "product. Days and hours hold the encoding of the data. Batch and memory: of one GPU. MB/step: sent by each "
        "for the sum of gradients.",
        markup=False,
    )
