"""An evaluation of the toy pipeline by two processes: ``evaluate_shared.py DATA OUT``; what each made goes to OUT."""

import json
import os
import sys
from functools import partial
from pathlib import Path

from evaluation.test_report import ToyPipeline
from forked import together
from pochade.evaluation.report import evaluate


def shared(data: str, out: Path) -> None:
    pipeline = ToyPipeline()
    report = evaluate(pipeline, data, samples=10, per_caption=4, steps=3, batch_size=4, out=out, progress=False)
    mine = {"seeds": pipeline.seeds, "figures": report.figures}
    (out / f"rank-{os.environ['RANK']}.txt").write_text(json.dumps(mine))


if __name__ == "__main__":
    together(2, partial(shared, sys.argv[1], Path(sys.argv[2])))
