"""The table of runtimes."""

from typing import Any

from tables.cells import number, table


def runtimes(record: dict[str, Any]) -> str:
    """A model in each runtime: first picture cold and warm, size, memory."""
    rows: list[list[str]] = []
    for model, measured in record["models"].items():
        for name, row in measured.items():
            if "failed" in row:
                rows.append([f"`{model}`", name, row["failed"].replace("|", "/"), "–", "–", "–"])
                continue
            figures = [number(row, key, form=form) for key, form in (("cold_s", ".2f"), ("warm_s", ".2f"))]
            sizes = [number(row, key, form=".0f") for key in ("disk_mb", "memory_mb")]
            rows.append([f"`{model}`", name, *figures, *sizes])
    head = (
        f"One picture in {record['steps']} steps with the model's own guidance, {record['threads']} threads, "
        f"{record['processor']}. *cold* is from the start of the process to the first picture, *warm* the fastest of "
        "the next ones; memory is the largest resident set of the process:"
    )
    return f"{head}\n\n{table(['', 'runtime', 'cold, s', 'warm, s', 'disk, MB', 'memory, MB'], rows)}"
