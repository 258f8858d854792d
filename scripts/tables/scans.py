"""Tables of the scans and of the mixers over a grid."""

from collections.abc import Sequence
from typing import Any

from tables.cells import machine, milliseconds, table


def scan_targets(record: dict[str, Any]) -> str:
    """What was aimed at, and whether it holds at every size."""
    rows = []
    for t in record["targets"]:
        worst = f"{t['worst']:.2f}" + (f" ({t['where']})" if t["sizes"] > 1 else "")
        holds = "yes" if t["held"] == t["sizes"] else f"**no**: at {t['held']} of {t['sizes']}"
        rows.append([t["name"], f"{'≥' if t['at_least'] else '≤'} {t['limit']:g}", worst, holds])
    head = f"Measured on {machine(record)}; at most {record['rounds']} rounds."
    if record["quick"]:
        head += " This was a short run over few sizes (`--quick`)."
    return f"{head}\n\n{table(['what', 'aim', 'worst', 'holds'], rows)}"


SIDES = {
    "numba": "pochade",
    "triton": "pochade",
    "torch": "composed",
    "cumsum": "cumsum",
    "copy": "copy",
    "mambapy": "mambapy",
    "loop": "loop",
}


def scan_sizes(record: dict[str, Any], kind: str) -> list[tuple[list[str], dict[str, dict[str, Any]]]]:
    """D, batch, N and threads, and the rows of the sides: all sizes with all threads, those of one width with one."""
    found: dict[tuple[int, ...], dict[str, dict[str, Any]]] = {}
    narrow, threads = min(r["width"] for r in record["rows"]), record["threads"]
    for r in record["rows"]:
        full, small = r["threads"] == threads[-1], (r["width"], r["batch"]) == (narrow, 1)
        if r["kind"] == kind and (full or small):
            size = -r["threads"], r["width"], r["states"], r["batch"], r["tokens"]
            found.setdefault(size, {})[r["side"]] = r
    labels = []
    for n, width, states, batch, tokens in sorted(found):
        middle = str(states) if kind == "ssd" else str(batch)
        labels.append(([str(-n), str(width), middle, f"{tokens:,}"], found[n, width, states, batch, tokens]))
    return labels


def scan_table(record: dict[str, Any], kind: str, mode: str, peers: Sequence[str]) -> str:
    """Milliseconds of every side, ratios to ``peers`` and memory."""
    sizes = scan_sizes(record, kind)
    present = [side for side in SIDES if any(side in found for _, found in sizes)]
    own, peers = present[0], [peer for peer in peers if peer in present]
    remembered = [side for side in (own, "mambapy") if side in present]
    columns = ["threads", "D", "batch", "N", *(SIDES[side] for side in present)]
    columns += [f"{SIDES[peer]} / pochade" for peer in peers] + [f"memory, {SIDES[side]}" for side in remembered]
    rows = []
    for label, found in sizes:
        times = [milliseconds(found[side][f"{mode}_ms"]) if side in found else "–" for side in present]
        for peer in peers:
            both = own in found and peer in found
            times.append(f"{found[peer][f'{mode}_ms'] / found[own][f'{mode}_ms']:.2f}" if both else "–")
        memory = [f"{found[side][f'{mode}_memory']:.2f}" if side in found else "–" for side in remembered]
        rows.append([*label, *times, *memory])
    return table(columns, rows)


def scan_diagonal(record: dict[str, Any]) -> str:
    forward, both = (
        scan_table(record, "diagonal", mode, ("cumsum", "mambapy", "copy")) for mode in ("forward", "both")
    )
    return f"Forward, ms:\n\n{forward}\n\nForward + backward, ms:\n\n{both}"


def scan_selective(record: dict[str, Any]) -> str:
    forward, both = (scan_table(record, "selective", mode, ("mambapy", "copy")) for mode in ("forward", "both"))
    return f"Forward, ms:\n\n{forward}\n\nForward + backward, ms:\n\n{both}"


def scan_ssd(record: dict[str, Any]) -> str:
    """Milliseconds, nanoseconds a token and the share of the matrix-product rate."""
    parts = []
    for mode, name in {"forward": "Forward", "both": "Forward + backward"}.items():
        rows = []
        for label, found in scan_sizes(record, "ssd"):
            own = next(found[side] for side in SIDES if side in found)
            token = 1e6 * own[f"{mode}_ms"] / own["tokens"]
            share = own[f"{mode}_products_ms"] / own[f"{mode}_ms"]
            composed = milliseconds(found["torch"][f"{mode}_ms"]) if "torch" in found else "–"
            times = [milliseconds(own[f"{mode}_ms"]), f"{token:,.0f}", f"{share:.0%}", composed]
            rows.append([*label, *times, f"{own[f'{mode}_memory']:.2f}"])
        columns = ["threads", "D", "S", "N", "pochade, ms", "ns a token", "share", "composed, ms", "memory"]
        parts.append(f"{name}:\n\n{table(columns, rows)}")
    return "\n\n".join(parts)


def scan_cold_start(record: dict[str, Any]) -> str:
    """Seconds of the first calls."""
    empty, warm = record["cold_start"]["empty"], record["cold_start"]["warm"]
    rows = [[name, f"{empty[name]:.2f}", f"{warm[name]:.2f}"] for name in empty]
    rows.append(["together", f"{sum(empty.values()):.2f}", f"{sum(warm.values()):.2f}"])
    return table(["seconds", "nothing compiled", "compiled code on disk"], rows)


def scan_gpu(record: dict[str, Any]) -> str:
    """All kinds on a GPU."""
    titles = {"diagonal": "Diagonal recurrence", "selective": "Mamba-1, four directions"}
    parts = [f"Measured on {machine(record)}; memory and ratios as above, *copy* moves the same bytes on the device."]
    for kind, title in titles.items():
        for mode, name in {"forward": "forward", "both": "forward + backward"}.items():
            parts.append(f"{title}, {name}, ms:\n\n{scan_table(record, kind, mode, ('copy',))}")
    parts.append(f"SSD:\n\n{scan_ssd(record)}")
    return "\n\n".join(parts)


def grid_mixers(record: dict[str, Any]) -> str:
    """The mixers over a grid, as long a token at 64 x 64 as at 16 x 16?"""
    entries = {(e["mixer"], e["threads"], e["batch"], e["dim"], e["height"]): e for e in record["entries"]}
    rows = []
    for r in record["time_64_over_16"]:
        setting = r["mixer"], r["threads"], r["batch"], r["dim"]
        times = [
            f"{entries[(*setting, side)][f'{mode}_microseconds_per_token']:.2f}"
            for mode in ("forward", "forward_backward")
            for side in (16, 64)
        ]
        ratios = [f"{r['forward']:.2f}", f"{r['forward_backward']:.2f}"]
        rows.append([*map(str, setting), times[0], times[1], ratios[0], times[2], times[3], ratios[1]])
    grids = ["16 x 16", "64 x 64", "ratio"]
    columns = ["mixer", "threads", "batch", "D", *(f"forward, {g}" for g in grids), *(f"both, {g}" for g in grids)]
    head = (
        f"Microseconds per token ({record['processor']}, {record['cores']} cores; torch {record['torch']}); the aim "
        f"is a ratio of at most {record['limit']:g}:"
    )
    return f"{head}\n\n{table(columns, rows)}"
