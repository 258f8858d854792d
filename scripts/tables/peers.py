"""Tables of families and peers that were trained alike."""

from statistics import fmean
from typing import Any

from tables.cells import table

KINDS = ("equal steps", "equal seconds")
SPLITS = {"train": "training", "composed": "composed", "held_out": "held out"}
TITLES: dict[str, str] = {"lrf": "LRF", "iris": "IRIS", "lira": "LiRA", "microforge": "MicroForge"}


def costs(record: dict[str, Any]) -> str:
    """What a training step takes."""
    least = min(cost["seconds"] for cost in record["costs"].values())
    rows = [
        [
            TITLES.get(name, name),
            f"{cost['parameters'] / 1e6:.2f} M",
            f"{1000 * cost['seconds']:.0f}",
            f"{cost['seconds'] / least:.2f}",
            f"{cost['bytes'] / 2**20:.0f}",
        ]
        for name, cost in record["costs"].items()
    ]
    head = (
        f"A training step of {record['batch']} on a CPU ({record['device']}, {record['threads']} thread), time of the "
        "process itself, the least of interleaved rounds; memory of activations, gradients and the optimiser's work:"
    )
    return f"{head}\n\n{table(['network', 'parameters', 'ms', 'over the fastest', 'MiB'], rows)}"


def quality(record: dict[str, Any]) -> str:
    """Loss, and where pictures were made KID and R@1, for equal steps and for equal seconds."""
    parts = [_by_kind(record, kind) for kind in KINDS]
    return "\n\n".join(parts)


def _by_kind(record: dict[str, Any], kind: str) -> str:
    rates = sorted({row["rate"] for row in record["rows"]})
    chosen = [row for row in record["rows"] if kind in row["kinds"]]
    made = [split for split in SPLITS if any(split in row for row in chosen)]
    lines: list[list[str]] = []
    names: list[str] = [*record["costs"]]
    for name in names:
        for rate in rates:
            runs = [row for row in chosen if (row["network"], row["rate"]) == (name, rate)]
            if not runs:
                continue
            lines.append(
                [
                    TITLES.get(name, name),
                    *([f"{rate:g}"] if len(rates) > 1 else []),
                    str(runs[0]["steps"]),
                    _cell([run["held-out loss"] for run in runs], ".3f"),
                    *(_cell([run[s]["kid"] for run in runs], ".3f") for s in made),
                    *(_cell([run[s]["R@1"] for run in runs], ".3f") for s in made),
                ]
            )
    columns = ["network", *(["rate"] if len(rates) > 1 else []), "steps", "loss, held out"]
    columns += [f"{figure}, {SPLITS[split]}" for figure in ("KID (Lite0)", "R@1") for split in made]
    return f"For {kind}, the mean of the seeds and in brackets each:\n\n{table(columns, lines)}"


def _cell(values: list[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}} (one seed)"
    return f"{fmean(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"
