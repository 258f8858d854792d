"""The tables of LiRA at 1024 px: time, memory, long texts, the reasoning loop."""

from typing import Any

from tables.cells import milliseconds, table


def lira_native(record: dict[str, Any]) -> str:
    """Time and memory at 1024 px."""
    rows = []
    for r in record["native"]:
        found = ["not run", "–", "–"]
        if "milliseconds" in r:
            found = [f"{r['milliseconds'] / 1e3:.2f}", f"{r['total_megabytes']:,.0f}", f"{r['step_megabytes']:,.0f}"]
        rows.append([r["mode"], r["variant"], r["autoencoder"], f"{r['tokens']:,}", *found])
    head = (
        f"{record['pixels']} px, batch 1, {record['text_tokens']} text tokens ({record['processor']}, "
        f"{record['threads']} thread(s); torch {record['torch']}):"
    )
    columns = ["", "size", "autoencoder", "tokens", "seconds", "memory, MB", "of which the step's, MB"]
    return f"{head}\n\n{table(columns, rows)}"


def lira_tokens(record: dict[str, Any]) -> str:
    """Is a token as cheap in a large picture?"""
    found: dict[str, dict[int, float]] = {}
    for r in record["a_token"]:
        found.setdefault(r["variant"], {})[r["tokens"]] = r["microseconds_a_token"]
    counts = sorted({r["tokens"] for r in record["a_token"]})
    rows = [
        [variant, *(f"{times[n]:.0f}" for n in counts), f"{max(times.values()) / min(times.values()):.2f}"]
        for variant, times in found.items()
    ]
    head = "Microseconds per token of a forward pass; the aim is a ratio of the slowest to the fastest of at most 1.2:"
    return f"{head}\n\n{table(['size', *(f'N = {n:,}' for n in counts), 'ratio'], rows)}"


def lira_text(record: dict[str, Any]) -> str:
    """Does a long text cost more?"""
    parts = {
        "the whole step": "step_milliseconds",
        "one cross-attention, with making its text state": "fusion_milliseconds",
        "one cross-attention, text state given": "read_milliseconds",
    }
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for r in record["text"]:
        found.setdefault((r["variant"], r["tokens"]), []).append(r)
    lengths = [r["text_tokens"] for r in next(iter(found.values()))]
    rows = []
    for (variant, tokens), sides in found.items():
        for name, key in parts.items():
            times = [side[key] for side in sides]
            ratio = f"{times[-1] / times[0]:.2f}"
            rows.append([variant, f"{tokens:,}", name, *(milliseconds(time) for time in times), ratio])
    head = "Milliseconds with a short and a long text; the aim is a ratio of at most 1.1:"
    return f"{head}\n\n{table(['size', 'tokens', '', *(f'M = {m}' for m in lengths), 'ratio'], rows)}"


def lira_reasoning(record: dict[str, Any]) -> str:
    """The share of the reasoning loop."""
    shares = ("share_of_time", "share_of_operations", "share_of_parameters")
    rows = [
        [r["variant"], f"{r['tokens']:,}", str(r["steps"]), *(f"{r[share]:.1%}" for share in shares)]
        for r in record["reasoning"]
    ]
    head = "The reasoning loop's share of a step; the aim is 0.5 % of the operations:"
    return f"{head}\n\n{table(['size', 'tokens', 'steps', 'time', 'operations', 'parameters'], rows)}"
