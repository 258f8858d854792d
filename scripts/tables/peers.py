"""Tables of families and peers that were trained alike."""

from statistics import fmean
from typing import Any

from tables.cells import table

KINDS = ("equal steps", "equal seconds")
SPLITS = {"train": "training", "composed": "composed", "held_out": "held out"}
TITLES: dict[str, str] = {"lrf": "LRF", "iris": "IRIS", "lira": "LiRA", "microforge": "MicroForge"}


def costs(record: dict[str, Any]) -> str:
    """What a training step takes."""
    least = min(cost["seconds"] for name, cost in record["costs"].items() if not _is_variation(name))
    rows = [
        [
            TITLES.get(name, name),
            f"{cost['parameters'] / 1e6:.2f} M",
            f"{1000 * cost['seconds']:.0f}",
            f"{cost['seconds'] / least:.2f}",
            f"{cost['bytes'] / 2**20:.0f}",
        ]
        for name, cost in sorted(record["costs"].items(), key=lambda item: _is_variation(item[0]))
    ]
    head = (
        f"A training step of {record['batch']} on a CPU ({record['device']}, {record['threads']} thread), time of the "
        "process itself, the least of interleaved rounds; memory of activations, gradients and the optimiser's work:"
    )
    return f"{head}\n\n{table(['network', 'parameters', 'ms', 'over the fastest', 'MiB'], rows)}"


def quality(record: dict[str, Any]) -> str:
    """Loss, and where pictures were made KID and R@1, for equal steps and for equal seconds; then what was tried."""
    rate = record["rows"][0]["rate"]
    own = [row for row in record["rows"] if row["rate"] == rate and not _is_variation(row["network"])]
    tried = [row for row in record["rows"] if row not in own and "equal steps" in row["kinds"]]
    parts: list[str] = []
    for kind in KINDS:
        rows = [row for row in own if kind in row["kinds"]]
        seeds = "one seed" if _seeds(rows) == 1 else "the mean of the seeds and in brackets each"
        parts.append(f"For {kind}, {seeds}:\n\n{_measured(rows)}")
    if tried:
        parts.append(f"With another configuration or learning rate, equal steps:\n\n{_measured(tried, rates=True)}")
    return "\n\n".join(parts)


def _is_variation(name: str) -> bool:
    """Whether it is a network of a family with another configuration, "LRF, applied once"."""
    return "," in name


def _seeds(rows: list[dict[str, Any]]) -> int:
    return len({row["seed"] for row in rows})


def _measured(rows: list[dict[str, Any]], *, rates: bool = False) -> str:
    made = [split for split in SPLITS if any(split in row for row in rows)]
    cell = _one if _seeds(rows) == 1 else _cell
    lines: list[list[str]] = []
    for name, rate in dict.fromkeys((str(row["network"]), float(row["rate"])) for row in rows):
        runs = [row for row in rows if (row["network"], row["rate"]) == (name, rate)]
        lines.append(
            [
                TITLES.get(name, name),
                *([f"{rate:g}"] if rates else []),
                str(runs[0]["steps"]),
                cell([run["held-out loss"] for run in runs], ".3f"),
                *(cell([run[s]["kid"] for run in runs], ".2f") for s in made),
                *(cell([run[s]["R@1"] for run in runs], ".2f") for s in made),
            ]
        )
    columns = ["network", *(["rate"] if rates else []), "steps", "loss, held out"]
    return table([*columns, *(f"{figure}, {SPLITS[s]}" for figure in ("KID (Lite0)", "R@1") for s in made)], lines)


def _one(values: list[float], form: str) -> str:
    return f"{values[0]:{form}}"


def _cell(values: list[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}} (one seed)"
    return f"{fmean(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"
