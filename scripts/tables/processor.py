"""The tables of what a processor is given to do: products of matrices, and memory."""

from typing import Any

from tables.cells import milliseconds, table


def linear_products(record: dict[str, Any]) -> str:
    """A product and its gradients by both libraries."""
    rows: dict[tuple[int, int, int], list[str]] = {}
    for row in record["products"]:
        cells = rows.setdefault((row["rows"], row["in"], row["out"]), [])
        cells += [milliseconds(row["torch"]), milliseconds(row["oneDNN"]), f"{row['torch'] / row['oneDNN']:.2f}"]
    head = (
        f"Milliseconds of float32 products ({record['processor']}, {record['threads']} threads; "
        f"torch {record['torch']}) by MKL, by oneDNN, and their quotient:"
    )
    columns = ["rows x in x out"]
    columns += [
        f"{what}{side}" for what in ("", "of the input, ", "of the weights, ") for side in ("MKL", "oneDNN", "")
    ]
    return f"{head}\n\n{table(columns, [[' x '.join(map(str, size)), *cells] for size, cells in rows.items()])}"


def linear_steps(record: dict[str, Any]) -> str:
    """A step of each family by both libraries."""
    rows = [
        [
            row["family"],
            row["what"],
            f"{row['batch']} x {row['tokens']:,}",
            milliseconds(row["torch"]),
            milliseconds(row["oneDNN"]),
            f"{row['oneDNN'] / row['torch']:.2f}",
        ]
        for row in record["steps"]
    ]
    columns = ["`nano` of", "", "tokens", "MKL, ms", "oneDNN, ms", "ratio"]
    return f"Whole steps, in which linear layers alone differ:\n\n{table(columns, rows)}"


def allocator(record: dict[str, Any]) -> str:
    """Calls with memory taken anew, and kept."""
    rows: list[list[str]] = []
    for name, found in record["rows"].items():
        before, after = found["taken anew"], found["kept"]
        pair = (milliseconds(before["ms"]), milliseconds(after["ms"]), f"{after['ms'] / before['ms']:.2f}")
        peaks = (f"{side['peak_megabytes']:,.0f}" for side in (before, after))
        rows.append([name, *pair, f"{before['pages']:,.0f}", f"{after['pages']:,.0f}", *peaks])
    head = (
        "Mean time of a call, in the median of three processes, pages that the system fills for it, and the largest "
        f"resident set ({record['processor']}, {record['threads']} threads; torch {record['torch']}), where freed "
        "memory is returned to the system and where it is kept:"
    )
    columns = ["", "ms", "kept, ms", "ratio", "pages", "kept, pages", "MB", "kept, MB"]
    return f"{head}\n\n{table(columns, rows)}"
