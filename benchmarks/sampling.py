"""Solvers and numbers of steps against each other: KID (Lite0) and retrieval of one model's pictures.

    python benchmarks/sampling.py lira-nano --distilled runs/fast/1-consistency/model

Writes docs/benchmarks/lira_sampling.json (--output changes the name). Pictures are kept below --pictures, so that an
interrupted run goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measuring import GUIDED_THROUGHOUT, quality
from pochade.evaluation.report import evaluate
from pochade.files import write_text
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"


def measure(model: str, name: str, solver: str, steps: int, guidance: float, args: Any) -> dict[str, Any]:
    """A row of the table."""
    pipe = TextToImagePipeline.from_pretrained(model, scheduler=make_scheduler(solver), **GUIDED_THROUGHOUT)
    report = evaluate(
        pipe,
        "openmoji",
        samples=args.samples,
        steps=steps,
        guidance=guidance,
        out=args.pictures / f"{name}-{solver}-{steps}",
        model=name,
        progress=False,
    ).figures
    row: dict[str, Any] = {"model": name, "scheduler": solver, "steps": steps, "guidance": guidance}
    row |= quality(report)
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--distilled", help="a model made of it by consistency distillation")
    parser.add_argument("--solvers", nargs="+", default=["euler:50", "euler:20", "dpm:20", "dpm:14"])
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--pictures", type=Path, default=Path("runs/sampling"))
    parser.add_argument("--output", type=Path, default=DOCS / "lira_sampling.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for item in args.solvers:
        solver, _, steps = item.partition(":")
        rows.append(measure(args.model, Path(args.model).name, solver, int(steps), args.guidance, args))
    if args.distilled:
        rows += [measure(args.distilled, "distilled", "lcm", steps, 1.0, args) for steps in (4, 2, 1)]
    record = {"samples": rows[0]["train pictures"], "held_out": rows[0]["held_out pictures"], "rows": rows}
    write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
