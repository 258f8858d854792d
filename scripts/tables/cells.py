"""What the tables are made of."""

from collections.abc import Sequence
from typing import Any


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def number(values: Any, *keys: str, form: str = ".2f") -> str:
    """The number at a path of keys; a dash where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return format(values, form) if isinstance(values, int | float) and not isinstance(values, bool) else "–"


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3}f}"


def machine(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['processor']}, {record['cores']} cores; {versions}"
