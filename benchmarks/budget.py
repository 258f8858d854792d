"""How many pictures take no longer than their budget: 50 of each, on a quiet machine.

    pochade export open-drawings build/budget/open-drawings --precision int8
    pochade export iris-fast build/budget/iris-fast --precision int8 --depth 8,4
    python benchmarks/budget.py build/budget/open-drawings build/budget/iris-fast

The time of a picture runs from its prompt to its pixels, as ``--budget`` means it. Into docs/benchmarks/budget.json.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from pochade.errors import PochadeError
from pochade.files import write_json
from pochade.runtime import Bundle
from runtimes import ROOT, processor

PROMPTS = ("a red apple", "a blue bird", "a green tree", "a yellow house", "a cat", "a dog", "a sailboat")


def measure(folder: Path, budget_ms: float, pictures: int) -> dict[str, Any]:
    """What a budget gives: the choice, and the share of pictures that kept it."""
    bundle, load = Bundle(folder), os.getloadavg()[0]
    row: dict[str, Any] = {"model": bundle.manifest.model.name, "budget_ms": budget_ms, "load": load}
    try:
        choice = bundle.fit(budget_ms)
    except PochadeError as error:
        return row | {"failed": str(error)}
    times: list[float] = []
    for i in range(pictures):
        before = time.perf_counter()
        steps, depth = choice.quality.steps, choice.quality.depth
        bundle.generate(PROMPTS[i % len(PROMPTS)], seed=i, steps=steps, depth=depth)
        times.append(1000 * (time.perf_counter() - before))
    chosen = {"steps": choice.quality.steps, "depth": choice.quality.depth, "expected_ms": choice.expected_ms}
    kept = sum(taken <= budget_ms for taken in times)
    return row | chosen | {"pictures": pictures, "kept": kept, "slowest_ms": max(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--budgets", nargs="+", type=float, default=[100, 150, 200, 300, 500], help="milliseconds")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "budget.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in options.bundles:
        for budget_ms in options.budgets:
            rows.append(measure(folder, budget_ms, options.pictures))
            print(rows[-1], flush=True)
    write_json(options.out, {"processor": processor(), "rows": rows})


if __name__ == "__main__":
    main()
