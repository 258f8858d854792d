"""What a picture costs in memory and time, for every size of every family.

    python benchmarks/profiles.py                                  what is missing in the file, one after the other
    python benchmarks/profiles.py lira:small@1024+clip-l --force   these again

A name is FAMILY:VARIANT (or a model), then @PIXELS and +TEXT_ENCODER where they are not the usual ones. Writes
docs/benchmarks/profiles.json after each of them, so that an interrupted run goes on where it stopped, and profiles.md.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from measuring import processor
from pochade import denoisers
from pochade.errors import PochadeError
from pochade.evaluation.profile import COMPONENTS, IN_TURN, PICTURE
from pochade.evaluation.profile.costs import profile
from pochade.files import write_text

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
NAMES = [
    *(f"{family}:{variant}" for family in denoisers.FAMILIES for variant in denoisers.variants(family)),
    "lira:small@512+clip-l",
    "lira:small@1024",
    "lira:small@1024+clip-l",
    *(f"iris:{variant}+clip-l" for variant in ("tiny", "small", "base")),
]
SIDES = (("eager", "fp32"), ("onnx", "fp32"), ("onnx", "int8"))
HEADS = ("eager", "ONNX", "ONNX int8")


def parse(name: str) -> dict[str, Any]:
    """The arguments of ``profile`` that a name stands for."""
    found = re.fullmatch(r"([^@+]+)(?:@(\d+))?(?:\+([\w-]+))?", name)
    if found is None:
        raise PochadeError(f"name: {name!r} given, allowed is MODEL[@PIXELS][+TEXT_ENCODER]")
    model, size, text_encoder = found.groups()
    return {"model": model, "size": size and int(size), "text_encoder": text_encoder}


def markdown(record: dict[str, Any]) -> str:
    profiles = {name: record["profiles"][name] for name in sorted(record["profiles"], key=place)}
    about = next(iter(profiles.values()))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = f"""# What a picture costs

`python benchmarks/profiles.py` repeats this page; [Profile](../profile.md) says how it is measured.
{record["processor"]},
{about["threads"]} thread(s); {versions}. Random weights where none are trained. MB are 10^6 bytes.

## Whole pictures

Text encoder, {about["steps"]} steps without guidance, decoder, all in one process. *Weights* are files, *peak* is the
most that the process held, libraries and loading included.
"""
    pictures = [
        [
            name,
            str(found["size"]),
            f"{sum(part['parameters'] for part in found['components'].values()) / 1e6:.1f}",
            *cells(found, PICTURE, lambda row: f"{row['weights_mb']:,.0f}"),
            *cells(found, PICTURE, lambda row: f"{max(row['peak_mb'], row['loading_mb']):,.0f}"),
            *cells(found, PICTURE, lambda row: f"{row['seconds']:.2f}"),
        ]
        for name, found in profiles.items()
    ]
    columns = [f"{what}, {side}" for what in ("MB of weights", "MB at peak", "seconds") for side in HEADS]
    parts = [head, table(["model", "pixels", "M parameters", *columns], pictures), "\n## Part by part\n"]
    parts.append(
        "The same pictures where each part is loaded when its turn comes and let go after it; seconds are those of a "
        "picture with the loading.\n"
    )
    rows = [
        [
            name,
            *cells(found, IN_TURN, lambda row: f"{max(row['peak_mb'], row['loading_mb']):,.0f}")[1:],
            *cells(found, IN_TURN, lambda row: f"{row['seconds']:.2f}")[1:],
        ]
        for name, found in profiles.items()
    ]
    columns = [f"{what}, {side}" for what in ("MB at peak", "seconds") for side in HEADS[1:]]
    parts += [table(["model", *columns], rows), "\n## Components\n"]
    parts.append(
        "*Error* is that of int8 against fp32, in deviations of the output; of random weights it says little.\n"
    )
    rows = []
    for name, found in profiles.items():
        for component in COMPONENTS:
            if component not in found["components"]:
                continue
            weight = found["components"][component]
            int8 = cells(found, component, lambda row: f"{row['weights_mb']:,.1f}")[-1]
            error = cells(found, component, lambda row: "–" if row["error"] is None else f"{row['error']:.1%}")[-1]
            rows.append(
                [
                    name,
                    component.replace("_", " "),
                    f"{weight['parameters'] / 1e6:.2f}",
                    f"{weight['fp32_mb']:,.1f}",
                    f"{weight['fp16_mb']:,.1f}",
                    int8,
                    *cells(found, component, lambda row: f"{row['peak_mb']:,.0f}"),
                    *cells(found, component, lambda row: f"{1e3 * row['seconds']:,.1f}"),
                    error,
                ]
            )
    sizes = ["M parameters", "MB fp32", "MB fp16", "MB int8"]
    columns = [f"{what}, {side}" for what in ("MB at peak", "ms") for side in HEADS]
    parts.append(table(["model", "component", *sizes, *columns, "error"], rows))
    return "\n".join(parts) + "\n"


def place(name: str) -> tuple[int, str]:
    """Where a name stands in the table."""
    return (NAMES.index(name) if name in NAMES else len(NAMES)), name


def cells(found: dict[str, Any], component: str, show: Any) -> list[str]:
    """A figure of a component for each of ``SIDES``, a dash where it was not measured."""
    rows = {(row["runtime"], row["precision"]): row for row in found["rows"] if row["component"] == component}
    return [show(rows[side]) if side in rows else "–" for side in SIDES]


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, help="MODEL[@PIXELS][+TEXT_ENCODER]")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runtime", default="all")
    parser.add_argument("--force", action="store_true", help="measure again what the file holds")
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    path = args.output / "profiles.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"profiles": {}}
    record["processor"] = processor()
    settings = {"steps": args.steps, "threads": args.threads, "repeats": args.repeats, "runtime": args.runtime}
    failed = False
    for name in args.names:
        if name in record["profiles"] and not args.force:
            print(f"{name}: measured before", flush=True)
            continue
        start = time.perf_counter()
        try:
            found = profile(**parse(name), **settings, log=lambda step, name=name: print(f"{name}: {step}", flush=True))
        except PochadeError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        record["profiles"][name] = {**found, "profile_seconds": time.perf_counter() - start}
        write_text(path, json.dumps(record, indent=1) + "\n")
        write_text(args.output / "profiles.md", markdown(record))
        print(f"{name}: {record['profiles'][name]['profile_seconds']:.0f} s", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
