"""``pochade models`` and ``pochade info``: what there is, and what is inside."""

import json
import math
import platform
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pochade.cli.common import console, megabytes, print_json, quiet_libraries
from pochade.cli.prompts import COMMANDS
from pochade.errors import PochadeError
from pochade.pipelines import embedding_files, hub
from pochade.pipelines.lora_files import ALPHA, BASE, BASE_SHA256, RANK, TRIGGER, WEIGHTS
from pochade.pipelines.metadata import read_metadata
from pochade.pipelines.tensor_files import read_head

LORA_FACTS = (BASE, BASE_SHA256, RANK, ALPHA, TRIGGER)
DEPTHS = (4, 8, 16)
"""Passes of an iterated core at which its capacity is shown."""


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List every family and size, and the shipped checkpoints.

    Parameters and the memory of the weights alone; a picture needs some more. Where a core is iterated, also how many
    parameters a call uses at 4, 8 and 16 passes, each counted as often as it is used.
    """
    variants, checkpoints = _variants(), _checkpoints()
    if as_json:
        print_json({"variants": variants, "checkpoints": checkpoints})
        return
    from rich.table import Table

    out = console()
    used = f"M in {'/'.join(str(depth) for depth in DEPTHS)} passes"
    table = Table("family", "variant", "parameters", "MB fp32", "MB fp16", used, title="Sizes of denoisers")
    for v in variants:
        n, effective = v["parameters"], v["effective_parameters"]
        shown = "-" if effective is None else " / ".join(f"{count / 1e6:,.0f}" for count in effective.values())
        table.add_row(v["family"], v["variant"], f"{n:,}", megabytes(n, 4), megabytes(n, 2), shown)
    out.print(table)
    if not checkpoints:
        out.print("No checkpoint comes with this package.")
        return
    table = Table("name", "parameters", "MB on disk", "text", "trained for", title="Checkpoints")
    for c in checkpoints:
        size, tasks = megabytes(c["bytes"], 1), ", ".join(c["tasks"])
        table.add_row(c["name"], f"{c['parameters']:,}", size, str(c["text_encoder"]), tasks)
    out.print(table)
    out.print(f'Generate with: pochade generate "a red apple" --model {checkpoints[0]["name"]}', markup=False)


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model by name, folder, or OWNER/NAME; the folder of a LoRA; or a picture that pochade wrote. "
            "Left out: this machine.",
            metavar="[MODEL|FILE.png]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is inside a model, a LoRA, learned words or a picture; without any, versions and devices."""
    if model is not None and Path(model).is_file():
        _picture(Path(model), as_json)
        return
    if model is not None and Path(model).suffix.lower() == ".png" and not Path(model).is_dir():
        raise PochadeError(f"{model}: there is no such file")
    if model is not None and model not in hub.shipped() and hub.newest(Path(model).expanduser()) is None:
        for file, show in ((WEIGHTS, _lora), (embedding_files.WEIGHTS, _embedding)):
            found = hub.newest(Path(model).expanduser(), file)
            if found is not None:
                show(found, as_json)
                return
    found = _machine() if model is None else describe(hub.resolve(model))
    if as_json:
        print_json(found)
        return
    out = console()
    if model is None:
        for key, value in found.items():
            out.print(f"{key:14s} {value}", markup=False)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("component", "class", "parameters", "MB", "types", title=escape(model))
    for name, part in found["components"].items():
        count = part["parameters"]
        cells = ("-", "-") if count is None else (f"{count:,}", megabytes(part["bytes"], 1))
        table.add_row(name, escape(part["class"]), *cells, ", ".join(part["types"]))
    out.print(table)
    for name, part in found["components"].items():
        settings = ", ".join(f"{k}={_short(v)}" for k, v in part["config"].items())
        out.print(f"{name}: {settings}", markup=False)
    out.print(f"sha256: {found['sha256']}")
    if found["card"]:
        out.print()
        out.print(found["card"], markup=False)


def _lora(folder: Path, as_json: bool) -> None:
    """Print what the file of a LoRA says of itself."""
    tensors, metadata = read_head(folder / WEIGHTS)
    count = sum(math.prod(entry["shape"]) for entry in tensors.values())
    kept = {name: value for name, value in metadata.items() if name in LORA_FACTS and value}
    found = {**kept, "parameters": count, "layers": sorted({name.partition(".lora_")[0] for name in tensors})}
    if as_json:
        print_json({"folder": str(folder), **found})
        return
    for name, value in {**found, "layers": len(found["layers"])}.items():
        console().print(f"{name:18s} {value}", markup=False, soft_wrap=True)


def _embedding(folder: Path, as_json: bool) -> None:
    """Print what a file of learned words says of itself."""
    tensors, metadata = read_head(folder / embedding_files.WEIGHTS)
    kept = {name: metadata[name] for name in (BASE, BASE_SHA256, embedding_files.ENCODER) if name in metadata}
    found = {**kept, "words": {word: entry["shape"] for word, entry in tensors.items()}}
    if as_json:
        print_json({"folder": str(folder), **found})
        return
    for name, value in found.items():
        console().print(f"{name:18s} {value}", markup=False, soft_wrap=True)


def _picture(path: Path, as_json: bool) -> None:
    """Print the request in a picture, and the command that repeats it."""
    metadata = read_metadata(path)
    found = metadata.to_dict()
    if as_json:
        print_json({"file": str(path), **found})
        return
    out = console()
    shown = {name: value for name, value in found.items() if value not in (None, "") and name != "versions"}
    for name, value in {**shown, **metadata.versions}.items():
        out.print(f"{name:18s} {value}", markup=False, soft_wrap=True)
    repeat = shlex.join(["pochade", COMMANDS[found["task"]], "--like", str(path)])
    out.print(f"Repeat with: {repeat}", markup=False, soft_wrap=True)


def describe(folder: Path) -> dict[str, Any]:
    """Components, tensors and settings of a model's folder, read without loading it.

    Raises PochadeError where a file is damaged.
    """
    from pochade.tensors import tensor_entries

    components: dict[str, Any] = {}
    for name, entry in hub.component_classes(folder).items():
        if entry is None:
            continue
        part = folder / name
        path = next((p for p in (part / "config.json", part / "scheduler_config.json") if p.is_file()), None)
        config = {} if path is None else hub.read_json(path)
        tensors = [t for p in sorted(part.glob("*.safetensors")) for t in tensor_entries(p).values()]
        components[name] = {
            "class": entry[1],
            "parameters": sum(t.count for t in tensors) if tensors else None,
            "bytes": sum(t.size for t in tensors),
            "types": sorted({t.dtype for t in tensors}),
            "config": {k: v for k, v in config.items() if not k.startswith("_")},
        }
    return {
        "folder": str(folder),
        "sha256": hub.model_sha256(folder),
        "components": components,
        "card": _card(folder),
    }


def _card(folder: Path, lines: int = 12) -> str:
    """The beginning of the model card, without its YAML head."""
    path = folder / "README.md"
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    kept = text.strip().splitlines()
    return "\n".join(kept[:lines] + (["..."] if len(kept) > lines else []))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _checkpoints() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, folder in hub.shipped().items():
        parts = describe(folder)["components"]
        rows.append(
            {
                "name": name,
                "parameters": sum(p["parameters"] or 0 for p in parts.values()),
                "bytes": sum(p["bytes"] for p in parts.values()),
                "text_encoder": parts.get("denoiser", {}).get("config", {}).get("text_encoder"),
                "tasks": ["generate", *hub.tasks_of(folder)],
            }
        )
    return rows


def _variants() -> list[dict[str, Any]]:
    import torch

    from pochade import denoisers

    quiet_libraries()
    rows: list[dict[str, Any]] = []
    for family in denoisers.FAMILIES:
        for variant in denoisers.variants(family):
            with torch.device("meta"):
                model = denoisers.build(family, variant)
            count = sum(p.numel() for p in model.parameters())
            effective = getattr(model, "effective_parameters", None)
            rows.append(
                {
                    "family": family,
                    "variant": variant,
                    "parameters": count,
                    "bytes_fp32": 4 * count,
                    "bytes_fp16": 2 * count,
                    "effective_parameters": effective and {str(depth): effective(depth) for depth in DEPTHS},
                }
            )
    return rows


def _machine() -> dict[str, Any]:
    import torch

    from pochade.nn.scan import backend
    from pochade.pipelines.metadata import versions

    kinds = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    devices = ["cpu"] + [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        **versions(),
        "system": platform.platform(),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "scans": [f"{backend(kind)} on {kind}" for kind in kinds],
        "models": list(hub.shipped()),
    }
