"""What grows with the data, from the records of benchmarks/scale.py and benchmarks/curate.py."""

from collections.abc import Iterable
from typing import Any

ROWS = {
    "index": "index of the shards, 1,000 records each",
    "open": "opening the cache",
    "first batch": "first batch of 512, which maps its parts",
    "batch": "batch of 512",
    "checkpoint": "checkpoint, 5 M parameters",
    "resume": "resume: checkpoint checked and read, cache opened, first batch",
}


ORDER = {
    "epoch": "the first batch of 512 of an epoch, which orders its shards",
    "batch": "a further batch of 512",
}


MEMORY = {
    "own before": "MiB of its own before",
    "own peak": "MiB of its own, at most",
    "peak": "MiB resident, at most, with what is mapped from files",
}


MODELS = {
    "score": "scored by ViT-B/16, one at a time",
    "caption": "captioned by BLIP base, one at a time, 77 tokens each",
    "encode": "encoded by DC-AE f32 at 256 px",
}


def scale(found: Any) -> str:
    """Milliseconds by the number of records, as far as they were measured."""
    lines = [
        *_head("records", "Milliseconds", found["loading on"], found["seconds"]),
        *(_row(words, (1e3 * one[key] for one in found["seconds"].values())) for key, words in ROWS.items()),
    ]
    if "prepare" in found:
        rows, counts = found["prepare"].values(), map(int, found["prepare"])
        each = [1e3 * row["seconds"] / count for row, count in zip(rows, counts, strict=True)]
        lines += [
            *_head("pictures", "Preparation, seconds of a processor", found["prepare on"], found["prepare"]),
            _row("scored, compared, written at 16 px", (row["seconds"] for row in rows)),
            _row("milliseconds a picture", each, ".2f"),
            *(_row(words, (row[key] for row in rows), ",.0f") for key, words in MEMORY.items()),
        ]
    if "order" in found:
        lines += [
            *_head("pictures", "Order by windows, milliseconds of a processor", found["order on"], found["order"]),
            *(_row(words, (1e3 * one[key] for one in found["order"].values())) for key, words in ORDER.items()),
        ]
    return "\n".join(lines).strip()


def _head(what: str, unit: str, where: Any, counts: Iterable[str]) -> list[str]:
    names = [f"{int(count):,}" for count in counts]
    return [
        "",
        f"{unit}, on {where['processor']}, {where['cores']} cores, load average {where['load']:.0f}:",
        "",
        f"| {what} | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]


def _row(words: str, values: Iterable[float], form: str = ",.1f") -> str:
    return f"| {words} | " + " | ".join(f"{value:{form}}" for value in values) + " |"


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
    if "models" in found:
        names = [row["on"] for row in found["models"]]
        lines += [
            "",
            "Pictures a second of networks of published sizes, with random weights:",
            "",
            "| | " + " | ".join(names) + " |",
            "|---|" + "---:|" * len(names),
            *(_row(words, (row[key] for row in found["models"]), ".3g") for key, words in MODELS.items()),
        ]
    return "\n".join(lines)
