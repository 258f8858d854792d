"""One evening on a folder of captioned pictures: LoRA, a word, full fine-tuning, random weights, diffusers' PixArt.

    python benchmarks/evening.py my-pictures --out runs/evening

All five see the same pictures and captions in the same batches, for the same number of steps, and are measured by
``pochade evaluate``'s figures, beside the base model. The first four are commands of pochade; the word that textual
inversion learns stands before every caption, in training and in evaluation. PixArt, of as many
parameters as the base, is trained in the manner of diffusers' example scripts: a scheduler that adds noise, a mean
squared error, AdamW, a cosine with a warm-up, an average of the weights. Time is that of the processor, so that other
work on the machine does not count. An interrupted run goes on. Writes docs/benchmarks/evening.json.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_density_for_timestep_sampling
from safetensors import safe_open
from torch import nn

from denoiser_step import count, equal, pixart
from measuring import processor, quality
from peers_quality import HEAD, Peer, Sampler
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.data.sources import open_source
from pochade.evaluation.report import evaluate
from pochade.files import atomic_file, write_text
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.loader import draw
from pochade.training.stages.flow import encoded_conditioning
from pochade.training.stages.models import encoding_on, text_of

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
BASE = "open-drawings"
WHOLE = (f"task.autoencoder={BASE}", "task.variant=tiny", "sample_every=0")
WORD = "<mine>"
RUNS: dict[str, tuple[str, ...]] = {
    "LoRA": ("lora", f"task.base={BASE}"),
    "a word": ("textual-inversion", f"task.base={BASE}", f"task.token={WORD}"),
    "full fine-tuning": ("lrf-folder", *WHOLE, f"initialise_from={BASE}"),
    "random weights": ("lrf-folder", *WHOLE, "initialise_from=none", "learning_rate=1e-3"),
}
"""Name -> recipe and what is changed of it."""
STAGES = {"lora": "1-lora", "textual-inversion": "1-textual_inversion", "lrf-folder": "1-flow"}
PIXART = "PixArt of diffusers, random weights"
RATE, DECAY, CLIP, DROPOUT, EMA, SAVE_EVERY = 1e-3, 0.01, 1.0, 0.1, 0.99, 25


def pochade(folder: Path, *arguments: str) -> None:
    """A command of pochade; its processor seconds and peak memory are added to ``folder``/processor.json."""
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pochade", *arguments], check=True)
    after = getrusage(RUSAGE_CHILDREN)
    spend(folder, sum(after[:2]) - sum(before[:2]), after.ru_maxrss / 1024)


def spend(folder: Path, seconds: float, megabytes: float) -> None:
    path = folder / "processor.json"
    spent = json.loads(path.read_text()) if path.is_file() else {"seconds": 0.0, "MB": 0.0}
    write_text(path, json.dumps({"seconds": spent["seconds"] + seconds, "MB": max(spent["MB"], megabytes)}))


def slug(name: str) -> str:
    return name.partition(" of ")[0].replace(" ", "-").lower()


def train_ours(name: str, options: argparse.Namespace, cache: Path) -> Path:
    """The folder of the finished model, or of the word."""
    folder = options.out / slug(name)
    recipe, *changes = RUNS[name]
    stage = folder / STAGES[recipe]
    if not (stage / "model").is_dir():
        if not (folder / "cache").is_dir():
            shutil.copytree(cache, folder / "cache")
        shared = (
            f"steps={options.steps}",
            f"batch_size={options.batch}",
            "accumulate=1",
            f"warmup_steps={options.warmup}",
        )
        data = (f"data.source={options.data}", f"data.size={options.size}", "log_every=20", "save_every=80", "keep=1")
        pochade(folder, "train", recipe, *changes, *shared, *data, "--out", str(folder), "--resume")
    if recipe != "lora":
        return stage / "model"
    if not (folder / "merged").is_dir():
        pochade(options.out / "merging", "merge", BASE, "--lora", str(stage / "model"), "-o", str(folder / "merged"))
    return folder / "merged"


def adapted(folder: Path) -> int:
    """The numbers of the LoRA in a folder."""
    with safe_open(folder / "1-lora" / "model" / "pytorch_lora_weights.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


class Worded:
    """A pipeline (``pochade.evaluation.generation.TextToImage``) that reads a learned word before every prompt."""

    def __init__(self, pipeline: TextToImagePipeline, embedding: Path) -> None:
        self.pipeline = pipeline
        pipeline.load_textual_inversion(embedding)
        self.components = pipeline.components
        self.default_size = int(pipeline.default_size)
        self.default_guidance_interval = pipeline.default_guidance_interval
        self.name_or_path = pipeline.name_or_path
        self.set_progress_bar_config = pipeline.set_progress_bar_config

    def __call__(self, prompts: list[str], **options: Any) -> Any:
        return self.pipeline([f"{WORD}, {prompt}" for prompt in prompts], **options)


def new_pixart(pipeline: TextToImagePipeline) -> Peer:
    """PixArt with random weights and as many parameters as the network of the pipeline."""
    spec = pipeline.denoiser.input_spec()
    shape = {
        "channels": spec.latent_channels,
        "patch": spec.size_multiple,
        "side": spec.sample_size // spec.size_multiple,
    }
    torch.manual_seed(0)
    width = int(pipeline.denoiser.config.dim)
    network = equal(pixart, count(pipeline.denoiser), width, head=HEAD, **shape)
    return Peer(network, spec, {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}})


def train_pixart(options: argparse.Namespace, pipeline: TextToImagePipeline, samples: CachedLatents) -> Peer:
    """Diffusers' usual loop, which goes on from its last state."""
    folder = options.out / slug(PIXART)
    folder.mkdir(parents=True, exist_ok=True)
    model, state = new_pixart(pipeline), folder / "state.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=options.warmup, num_training_steps=options.steps)
    ema = EMAModel(model.parameters(), decay=EMA)
    noises: Any = FlowMatchEulerDiscreteScheduler(shift=2.0)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    first = 0
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        first = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    begin = time.process_time()
    for step in range(first, options.steps):
        batch = draw(samples, 0, range(step * options.batch, (step + 1) * options.batch), options.batch)
        generator = torch.Generator().manual_seed(step)
        latents, rows = batch["latents"], options.batch
        u = compute_density_for_timestep_sampling("logit_normal", rows, 0.0, 1.0, generator=generator)
        indices = ((1 - u) * len(noises.timesteps)).long().clamp_max(len(noises.timesteps) - 1)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = noises.scale_noise(latents, noises.timesteps[indices], noise)
        dropped = torch.rand(rows, generator=generator) < DROPOUT
        conditioning = encoded_conditioning(batch).drop("text", rows=dropped)
        predicted = model(noisy, noises.timesteps[indices] / 1000, conditioning).velocity
        loss = F.mse_loss(predicted, noise - latents)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.steps:
            spend(folder, time.process_time() - begin, getrusage(RUSAGE_SELF).ru_maxrss / 1024)
            begin = time.process_time()
            with atomic_file(state) as file:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, file)
            print(f"{PIXART}: step {step + 1}, loss {loss.item():.4f}", flush=True)
    ema.copy_to(model.parameters())
    return model.eval()


def report_of(name: str, model: str, options: argparse.Namespace, *sampling: str) -> dict[str, Any]:
    """The figures of a model of ours, measured by the command."""
    out = options.out / slug(name) / "report"
    if not (out / "report.json").is_file():
        about = ("--samples", str(options.samples), *sampling, "--device", "cpu", "-o", str(out))
        pochade(options.out / "evaluating", "evaluate", model, options.data, *about)
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def row_of(
    name: str, report: Any, options: argparse.Namespace, trained: int, steps: int, guidance: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "steps": options.steps, "trained parameters": trained}
    row |= {"sampling steps": steps, "guidance": guidance}
    spent = options.out / slug(name) / "processor.json"
    if spent.is_file():
        row |= json.loads(spent.read_text())
    row |= held_out_loss(options.out / slug(name))
    own = report["held_out"]["retrieval"]
    error, real = own["generated"]["R@1 standard error"], own["real"]["R@1"]
    return row | quality(report) | {"R@1 held_out error": error, "R@1 held_out real": real}


def held_out_loss(folder: Path) -> dict[str, float]:
    """The last and the lowest loss on held-out pictures of a run of ours; none of others."""
    lines = [line for log in folder.glob("1-*/metrics.jsonl") for line in log.read_text().splitlines()]
    losses = [loss for line in lines if (loss := json.loads(line).get("held_out_loss")) is not None]
    return {"held-out loss": losses[-1], "lowest held-out loss": min(losses)} if losses else {}


def encode(options: argparse.Namespace, pipeline: TextToImagePipeline) -> CachedLatents:
    """The latents of the training pictures, encoded once for all runs; its seconds are counted apart."""
    folder = options.out / "encoding"
    cache, begin, device = folder / "cache", time.process_time(), torch.device("cpu")
    with encoding_on(device, pipeline.autoencoder, text_of(pipeline)) as encoders:
        train, _ = (
            cache_latents(open_source(options.data, s), options.size, encoders, cache) for s in ("train", "held_out")
        )
    if not (folder / "processor.json").is_file():
        spend(folder, time.process_time() - begin, getrusage(RUSAGE_SELF).ru_maxrss / 1024)
    return train


def measure(
    name: str, options: argparse.Namespace, pipeline: TextToImagePipeline, samples: CachedLatents
) -> dict[str, Any]:
    """Trains and measures one of the runs, or the base."""
    steps, guidance = options.sampling_steps, options.guidance
    if name == "base":
        return row_of(
            name, report_of(name, BASE, options), options, 0, pipeline.default_steps, pipeline.default_guidance
        )
    if name == PIXART:
        peer = train_pixart(options, pipeline, samples)
        report: Any = evaluate(
            Sampler(pipeline, peer, torch.device("cpu")),
            options.data,
            samples=options.samples,
            steps=steps,
            guidance=guidance,
            out=options.out / slug(name) / "report",
            progress=False,
        ).figures
        return row_of(name, report, options, count(peer), steps, guidance)
    trained = train_ours(name, options, options.out / "encoding" / "cache")
    model, own = str(trained), (pipeline.default_steps, pipeline.default_guidance)
    if name == "a word":
        report = evaluate(
            Worded(pipeline, trained),
            options.data,
            samples=options.samples,
            steps=pipeline.default_steps,
            guidance=pipeline.default_guidance,
            out=options.out / slug(name) / "report",
            progress=False,
        ).figures
        return row_of(name, report, options, pipeline.denoiser.input_spec().text_dim, *own)
    if name == "LoRA":
        return row_of(name, report_of(name, model, options), options, adapted(options.out / slug(name)), *own)
    sampling = ("--steps", str(steps), "--guidance", str(guidance), "--guidance-interval", "0,1")  # as the peer's
    return row_of(name, report_of(name, model, options, *sampling), options, count(pipeline.denoiser), steps, guidance)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of captioned pictures")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=80, help="captions of each split")
    parser.add_argument("--sampling-steps", type=int, default=10, help="of networks that were not distilled")
    parser.add_argument("--guidance", type=float, default=3.0, help="of the same")
    parser.add_argument("--only", nargs="+", choices=["base", *RUNS, PIXART], default=["base", *RUNS, PIXART])
    parser.add_argument("--out", type=Path, default=Path("runs/evening"))
    parser.add_argument("--output", type=Path, default=DOCS / "evening.json")
    options = parser.parse_args(arguments)
    pipeline = TextToImagePipeline.from_pretrained(hub.resolve(BASE))
    options.size = int(pipeline.default_size)
    samples = encode(options, pipeline)
    found = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": []}
    about = {name: getattr(options, name) for name in ("data", "batch", "samples", "size")}
    about |= {"base": BASE, "processor": processor(), "pictures": len(samples)}
    about["encoding"] = json.loads((options.out / "encoding" / "processor.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    for name in options.only:
        rows[name] = measure(name, options, pipeline, samples)
        print(json.dumps(rows[name]), flush=True)
        write_text(options.output, json.dumps({**about, "rows": list(rows.values())}, indent=1) + "\n")


if __name__ == "__main__":
    main()
