"""Tables of what the four designs claim, beside what was measured: the rows are in ``claims.toml``.

A field in braces, such as ``{lira_thinking[mean]:.2f}``, is a number of a record in docs/benchmarks or of a
checkpoint's metrics. ``[steps=4]`` chooses of a list the rows where ``steps`` is 4.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tables.cells import table

DESIGNS = ("iris", "lira", "lrf", "microforge")
VERDICTS = ("holds", "holds in part", "does not hold here", "not measured", "not testable here")
COLUMNS = ("id", "claim", "experiment", "measured", "verdict", "command")
CLAIMS: dict[str, list[dict[str, str]]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


class Found:
    """What lies at a path of keys into a record."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getitem__(self, key: int | str) -> "Found":
        if isinstance(self.value, dict):
            return Found(self.value[str(key)])
        if isinstance(key, int):
            return Found(self.value[key])
        name, chosen, wanted = key.partition("=")
        if chosen:
            return Found([row for row in self.value if str(row.get(name)) == wanted])
        [row] = self.value
        return Found(row)[key]

    def __format__(self, form: str) -> str:
        return format(self.value, form)


def design(name: str, records: dict[str, Any]) -> str:
    """The claims of a design, with what was measured."""
    found = {key: Found(record) for key, record in records.items()}
    rows = []
    for claim in CLAIMS[name]:
        try:
            cells = {key: claim[key].format_map(found) for key in (*COLUMNS, "why")}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{claim['id']}: a field in braces names no single number: {error}") from error
        if cells["verdict"] not in VERDICTS:
            raise ValueError(f"{cells['id']}: verdict {cells['verdict']!r}, allowed are {VERDICTS}")
        cells["verdict"] = f"**{cells['verdict']}**{cells['why'] and ': '}{cells['why']}"
        rows.append([cells[key] for key in COLUMNS])
    return table(["", *COLUMNS[1:]], rows)


def counts() -> str:
    """How many claims of each design have which verdict."""
    rows = []
    for name in DESIGNS:
        verdicts = Counter(claim["verdict"] for claim in CLAIMS[name])
        rows.append([name, *(str(verdicts[verdict]) for verdict in VERDICTS)])
    rows.append(["all", *(str(sum(int(row[i + 1]) for row in rows)) for i in range(len(VERDICTS)))])
    return table(["", *VERDICTS], rows)
