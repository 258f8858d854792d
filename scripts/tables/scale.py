"""What grows with the data, from the record of benchmarks/scale.py."""

from typing import Any

ROWS = {
    "index": "index of the shards, 1,000 records each",
    "open": "opening the cache",
    "first batch": "first batch of 512, which maps its parts",
    "batch": "batch of 512",
    "checkpoint": "checkpoint, 5 M parameters",
    "resume": "resume: checkpoint checked and read, cache opened, first batch",
}


def scale(found: Any) -> str:
    """Milliseconds by the number of records."""
    counts = list(found["seconds"])
    lines = [
        f"Measured on {found['processor']}, {found['cores']} cores, load average {found['load']:.0f}. Milliseconds:",
        "",
        "| records | " + " | ".join(f"{int(count):,}" for count in counts) + " |",
        "|---|" + "---:|" * len(counts),
    ]
    for key, words in ROWS.items():
        lines.append(f"| {words} | " + " | ".join(f"{1e3 * found['seconds'][c][key]:,.1f}" for c in counts) + " |")
    return "\n".join(lines)
