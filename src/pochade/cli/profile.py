"""``pochade profile``: what a picture costs in memory and time."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pochade.cli import options
from pochade.cli.common import console, print_json, quiet_libraries
from pochade.device import check_device, check_precision

if TYPE_CHECKING:
    from rich.table import Table

    from pochade.evaluation.profile.figures import Profile

EXAMPLES = """[bold]Examples[/bold]

pochade profile lrf-openmoji

pochade profile lira:small --size 512 --text-encoder clip-l --runtime onnx

pochade profile microforge:tiny --json"""

_NAMES = {"text_encoder": "text encoder", "picture": "whole picture", "picture_in_turn": "part by part"}
_RUNTIMES = {"eager": "eager", "onnx": "ONNX Runtime"}


def profile(
    model: Annotated[
        str, typer.Argument(help="Name, folder, OWNER/NAME, or FAMILY:VARIANT, which takes random weights.")
    ],
    size: Annotated[int | None, typer.Option(help="Pixels of the picture; left out, as the model was trained.")] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps of a picture.")] = 4,
    text_encoder: Annotated[
        str | None, typer.Option(help="minilm, tinyclip or clip-l, for FAMILY:VARIANT; left out, minilm.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures at once.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads; left out, as torch chooses.")] = None,
    depth: Annotated[
        int | None, typer.Option(help="Iterations, where the family has them; left out, as configured.")
    ] = None,
    device: options.Device = None,
    precision: Annotated[
        str, typer.Option(help="Of denoiser and decoder in eager: auto, fp32, bf16 or fp16.")
    ] = "fp32",
    runtime: Annotated[str, typer.Option(help="eager, onnx or all.")] = "all",
    repeats: Annotated[int, typer.Option(help="Calls, of which the fastest counts.")] = 5,
    keep: Annotated[Path | None, typer.Option(help="Folder that keeps the exported graphs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure memory and time of a model's parts, and of a whole picture.

    Each figure comes from a process of its own: text encoder, denoiser, decoder, and all of them together, in eager
    and in ONNX Runtime with float32 and with 8-bit weights; there also part by part, each loaded when it is needed and
    released. Eager runs on the device, ONNX Runtime on the CPU.
    """
    check_device(device or "auto")
    check_precision(precision)
    if keep is not None:
        from pochade.files import check_folder
        from pochade.runtime.graphs import check_openable

        check_folder("keep", keep)
        check_openable("keep", keep)
    quiet_libraries()
    with console(stderr=True).status("reading the model") as status:
        from pochade.evaluation.profile.costs import profile as measure

        found = measure(
            model,
            size=size,
            steps=steps,
            text_encoder=text_encoder,
            batch=batch,
            threads=threads,
            depth=depth,
            device=device or "auto",
            precision=precision,
            runtime=runtime,
            repeats=repeats,
            keep=keep,
            log=lambda step: status.update(f"{step} ..."),
        )
    if as_json:
        print_json(found)
        return
    out = console()
    for table in (_components(found), _rows(found)):
        out.print(table)
    out.print(_notes(found), markup=False)


def _components(found: "Profile") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    columns = ("component", "class", "parameters", "MB fp32", "MB fp16", "MB int8", "weights")
    table = Table(*columns, title=escape(found["model"]))
    files = {row["component"]: row["weights_mb"] for row in found["rows"] if row["precision"] == "int8"}
    for name, part in found["components"].items():
        table.add_row(
            _NAMES.get(name, name),
            part["class"],
            f"{part['parameters']:,}",
            f"{part['fp32_mb']:,.1f}",
            f"{part['fp16_mb']:,.1f}",
            f"{files[name]:,.1f}" if name in files else "-",
            "random" if part["random"] else "trained",
        )
    return table


def _rows(found: "Profile") -> "Table":
    from rich.table import Table

    columns = ("", "runtime", "weights", "file MB", "MB at rest", "MB at peak", "GPU MB", "ms", "error")
    pixels, steps = found["size"], found["steps"]
    table = Table(*columns, title=f"{pixels} x {pixels} pixels, {steps} steps, {found['threads']} threads")
    for row in found["rows"]:
        table.add_row(
            _NAMES.get(row["component"], row["component"]),
            _RUNTIMES[row["runtime"]],
            row["precision"],
            f"{row['weights_mb']:,.1f}",
            f"{row['rest_mb']:,.0f}",
            f"{max(row['peak_mb'], row['loading_mb']):,.0f}",
            "-" if row["device_mb"] is None else f"{row['device_mb']:,.0f}",
            f"{1e3 * row['seconds']:,.1f}",
            "-" if row["error"] is None else f"{row['error']:.1%}",
        )
    return table


def _notes(found: "Profile") -> str:
    lines = [
        "MB are 10^6 bytes, of memory those of the whole process, libraries included; the peak counts loading, too.",
        "ms: one call of a component; whole picture: text encoder, every step and decoder, without guidance; part by "
        "part: with the time that loading takes.",
    ]
    if any(row["device_mb"] is not None for row in found["rows"]):
        lines.append(f"GPU MB: the most that the process has allocated on {found['device']}.")
    if any(row["error"] is not None for row in found["rows"]):
        lines.append("error: of int8 against fp32, in deviations of the output. The decoder stays fp32.")
    if any(part["random"] for part in found["components"].values()):
        lines.append("Random weights: sizes, memory and times are those of a trained model, errors are not.")
    return "\n".join(lines)
