"""What grows with the data, from the records of benchmarks/scale.py and benchmarks/curate.py."""

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


def curate(found: Any) -> str:
    """Processor seconds and memory by the number of pictures."""
    pictures = {int(count): row for count, row in found["pictures"].items()}
    lines = [
        f"Measured on a core of {found['processor']}:",
        "",
        "| pictures | " + " | ".join(f"{count:,}" for count in pictures) + " |",
        "|---|" + "---:|" * len(pictures),
        "| pictures a second of a core | "
        + " | ".join(f"{count / row['seconds']:.0f}" for count, row in pictures.items())
        + " |",
        "| MiB resident, at most | " + " | ".join(f"{row['peak']:,.0f}" for row in pictures.values()) + " |",
        "| MiB before | " + " | ".join(f"{row['before']:,.0f}" for row in pictures.values()) + " |",
        "",
        "Hashes alone are compared in "
        + ", ".join(f"{seconds:.3g} s ({int(count):,})" for count, seconds in found["hashes"].items())
        + ".",
    ]
    return "\n".join(lines)
