"""An evaluation of the toy pipeline, for torchrun: ``evaluate_shared.py DATA OUT``; what each rank made goes to OUT."""

import json
import os
import sys
from pathlib import Path

from evaluation.test_report import ToyPipeline
from pochade.evaluation.report import evaluate

if __name__ == "__main__":
    pipeline, out = ToyPipeline(), Path(sys.argv[2])
    report = evaluate(pipeline, sys.argv[1], samples=20, steps=3, batch_size=4, out=out, progress=False)
    mine = {"seeds": pipeline.seeds, "figures": report.figures}
    (out / f"rank-{os.environ['RANK']}.txt").write_text(json.dumps(mine))
