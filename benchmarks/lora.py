"""What a training step of a LoRA costs beside one of the whole network: memory, time of the processor, operations.

    python benchmarks/lora.py --model open-drawings --batch 8

Both have the recipe's settings, one batch, one thread, and the same noises; their steps are taken in turn, and the
shortest of each counts. "memory" is what is held in all: weights, gradients, AdamW's state, averages, and the most that
a step holds beside them. "least" is the same of one adapter on the first layer alone: what any adapters below which
nothing is frozen must take, for the forward pass and the gradients of the activations.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import argparse
import json
import time
from typing import Any

import torch
from torch import Tensor

from measuring import counted, processor
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.dry_run import fixed_memory
from pochade.training.ema import EMA
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.training.stages.lora import LoRASettings, LoRATask, add_adapters
from pochade.training.task import Task

TOKENS = 12


class Trainer:
    """The steps of a task as the training loop takes them."""

    def __init__(self, task: Task) -> None:
        self.task = task.train()
        self.optimizer = torch.optim.AdamW(task.parameter_groups(0.01, 1e-4), fused=True)
        self.ema = EMA(task.trainable(), 0.99)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps = 0

    def step(self, batch: dict[str, Tensor]) -> None:
        self.task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.steps)
        self.steps += 1


def batch_of(denoiser: Any, count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    config, side = denoiser.config, denoiser.config.sample_size
    return {
        "latents": torch.randn(count, config.latent_channels, side, side, generator=generator),
        "seed": torch.arange(count) + 1000 * seed,
        "tokens": torch.randn(count, TOKENS, config.text_dim, generator=generator),
        "mask": torch.ones(count, TOKENS, dtype=torch.bool),
        "pooled": torch.randn(count, config.pooled_dim, generator=generator),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="open-drawings")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    whole = TextToImagePipeline.from_pretrained(arguments.model)
    trainers = {"whole network": Trainer(FlowTask(whole.denoiser.requires_grad_(True), FlowSettings()))}
    known = whole.denoiser.adaptable_layers()
    attention = tuple(name for name in known if "feedforward" not in name)
    for name, layers in (("LoRA", ()), ("attention alone", attention), ("least", (known[0],))):
        adapted = TextToImagePipeline.from_pretrained(arguments.model)
        settings = LoRASettings(base=arguments.model, layers=layers)
        add_adapters(adapted, settings)
        trainers[name] = Trainer(LoRATask(adapted.denoiser, settings))
    rows: dict[str, dict[str, Any]] = {}
    for name, trainer in trainers.items():
        trainer.step(batch_of(whole.denoiser, arguments.batch, 0))  # AdamW's state is made in the first step
        fixed, trained = fixed_memory(trainer.task)
        kept = sum(fixed.values()) - fixed["gradients"]  # those are made in the step
        batch = batch_of(whole.denoiser, arguments.batch, 1)
        operations, most = counted(lambda t=trainer, b=batch: t.step(b), "cpu")
        rows[name] = {"trained": trained, "memory_MB": (kept + most) / 1e6, "gigaoperations": operations / 1e9}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(arguments.rounds):
        batch = batch_of(whole.denoiser, arguments.batch, 2 + number)
        for name, trainer in trainers.items():
            start = time.process_time()
            trainer.step(batch)
            seconds[name].append(time.process_time() - start)
    for name, times in seconds.items():
        rows[name]["seconds"] = min(times)
    whole_row = rows["whole network"]
    ratios = {name: {key: row[key] / whole_row[key] for key in row} for name, row in rows.items()}
    record = {"processor": processor(), "batch": arguments.batch, **rows, "ratios": ratios}
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
