"""How long the published CIFAR-10 recipe takes here, as written and with compiled blocks: seconds a step on synthetic
latents, and the projected total.

python benchmarks/cifar10_training.py
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pochade import denoisers
from pochade.data.samples import Batch, Samples
from pochade.files import write_text
from pochade.nn.keyed_random import keyed_normal
from pochade.recipes.lrf import cifar10
from pochade.training.loop import train
from pochade.training.overrides import override
from pochade.training.stage import Stage
from pochade.training.stages.flow import FlowTask

ROUNDS = 3
PUBLISHED = {"minutes": 70, "loss": 0.931, "epochs": 30}


class SyntheticLatents(Samples):
    """50,000 random latents of TAESD's shape with random classes."""

    def __len__(self) -> int:
        return 50_000

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        return {
            "latents": keyed_normal(keys, (4, 4, 4)),
            "class_label": indices % 10,
            "name": list(map(str, indices.tolist())),
        }


def measure(stage: Stage, folder: Path) -> dict[str, Any]:
    denoiser = denoisers.build("lrf", "cifar")
    train(stage, FlowTask(denoiser, stage.task), SyntheticLatents(), folder, console=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["seconds_per_step"])
    return {"seconds_per_step": best["seconds_per_step"], "seconds_data": best["seconds_data"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/cifar10_training.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    *_, recipe = cifar10()
    short = [f"steps={arguments.steps}", "log_every=10", "sample_every=0", "keep=1"]
    start = time.perf_counter()
    rows: dict[bool, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for compiled in (False, True):
            (stage,) = override([recipe], [*short, f"compile={compiled}"])
            with tempfile.TemporaryDirectory() as folder:
                row = measure(stage, Path(folder) / "run")
            rows[compiled] = min(row, rows.get(compiled, row), key=lambda found: found["seconds_per_step"])
    measured = rows[False]
    total, compiled_total = (recipe.steps * rows[kind]["seconds_per_step"] / 60 for kind in (False, True))
    row = {
        "benchmark": "cifar10_training",
        "machine": f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}",
        "steps_of_the_recipe": recipe.steps,
        "batch_size": recipe.batch_size,
        **measured,
        "projected_minutes": total,
        "compiled": rows[True] | {"projected_minutes": compiled_total},
        "published": PUBLISHED,
        "seconds_measured": time.perf_counter() - start,
    }
    write_text(arguments.out, json.dumps(row, indent=1) + "\n")
    share = measured["seconds_data"] / measured["seconds_per_step"]
    print(
        f"{measured['seconds_per_step']:.3f} s a step ({share:.1%} of it waiting for data), "
        f"{recipe.steps} steps: {total:.0f} minutes, compiled {compiled_total:.0f} (published: {PUBLISHED['minutes']})"
    )


if __name__ == "__main__":
    main()
