"""Distilled models by scheduler and number of steps, against the same real pictures: KID (Lite0) and retrieval.

    python benchmarks/few_steps.py teacher=lrf-openmoji:euler:50:3 plain=runs/plain/1-consistency/model:lcm:1,2,4 \\
      plain=runs/plain/1-consistency/model:euler:2,4

Each argument is NAME=MODEL:SCHEDULER:STEPS, with a guidance scale behind it where that is not 1. Models of one size are
measured together, since the features of the real pictures take longest. Adds rows to docs/benchmarks/few_steps.json
(--output changes the name); pictures are kept below --pictures, so that an interrupted run goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from measuring import GUIDED_THROUGHOUT
from pochade.data.progress import progress_bar
from pochade.data.sources import open_source
from pochade.evaluation.generation import PictureStore, fingerprint, generate, read
from pochade.evaluation.kid import kid
from pochade.evaluation.measure import Evaluator
from pochade.evaluation.networks import Networks
from pochade.evaluation.pictures import pooled_features, read_splits
from pochade.evaluation.report import silent
from pochade.features.lite0 import load_lite0
from pochade.files import write_text
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline

OUT = Path(__file__).parents[1] / "docs" / "benchmarks" / "few_steps.json"
SPLITS = ("train", "held_out")


def figures(evaluator: Evaluator, split: str, made: Tensor) -> dict[str, Any]:
    """Pictures, KID and retrieval of a split."""
    side = evaluator.sides[split]
    features = pooled_features(evaluator.networks.lite0, made)
    mean, std = kid(side.features, features)
    top1 = evaluator.probe.precision(features, side.embeddings, side.real.concepts).top1
    return {f"{split} pictures": len(made), f"kid {split}": mean, f"kid {split} std": std, f"R@1 {split}": top1}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL:SCHEDULER:STEPS[:GUIDANCE]")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--pictures", type=Path, default=Path("runs/few-steps"))
    parser.add_argument("--output", type=Path, default=OUT)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(args.output.read_text())["rows"] if args.output.is_file() else []
    evaluator, size = None, 0
    for argument in args.models:
        name, _, rest = argument.partition("=")
        model, scheduler, steps, *guidance = rest.split(":")
        pipe = TextToImagePipeline.from_pretrained(model, scheduler=make_scheduler(scheduler), **GUIDED_THROUGHOUT)
        scale = float(guidance[0]) if guidance else 1.0
        if evaluator is None or pipe.default_size != size:
            size = int(pipe.default_size)
            with progress_bar(False) as bar:
                evaluator = Evaluator(read_splits(open_source("openmoji", "all"), size), Networks(load_lite0()), bar)
        for count in map(int, steps.split(",")):
            key = {"weights": fingerprint(pipe), "steps": count, "guidance": scale, "size": size}
            store = PictureStore(args.pictures, key)
            row: dict[str, Any] = {"model": name, "scheduler": scheduler, "steps": count, "guidance": scale}
            for split in SPLITS:
                captions = evaluator.sides[split].real.captions[: args.samples]
                with silent(pipe):
                    generate(pipe, captions, store, steps=count, guidance=scale, seed=0)
                row |= figures(evaluator, split, read(store, captions, 0))
            rows = [r for r in rows if any(r[k] != row[k] for k in ("model", "scheduler", "steps"))] + [row]
            print(json.dumps(row), flush=True)
            record = {"samples": row["train pictures"], "held_out": row["held_out pictures"], "rows": rows}
            write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
