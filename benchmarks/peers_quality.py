"""The four families beside diffusers' PixArt and SANA transformers of equal parameters, trained alike and compared.

    python benchmarks/peers_quality.py
    python benchmarks/peers_quality.py --device cuda --model open-drawings --data drawings:npm --steps 4000 --batch 256

All are trained on the same latents, captions, noises and times, by the project's loop: for equal steps, and then for
the seconds that the fastest of them took (``equal seconds``). Each is measured by KID (Lite0) and retrieval on trained
and held-out captions, by the loss on held-out pictures with noises that are the same for all, by seconds a step and by
memory. Writes docs/benchmarks/peers_quality.json, and runs and pictures below --out: an interrupted run goes on, and
what is measured is not measured again.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from denoiser_step import count, equal, pixart, sana
from measuring import processor, quality
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.data.sources import open_source
from pochade.denoisers import build
from pochade.device import resolve_device
from pochade.evaluation.report import evaluate
from pochade.files import write_text
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.path import interpolate, velocity
from pochade.flow.sampling import sample
from pochade.nn.keyed_random import sample_keys
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import ImageData
from pochade.training.loop import train
from pochade.training.stage import Stage
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow, encoded_conditioning
from pochade.training.stages.models import encoding_on, text_of
from pochade.types import Conditioning, DenoiserOutput, InputSpec

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
FAMILIES = ("lrf", "iris", "lira", "microforge")
PEERS: dict[str, Callable[..., nn.Module]] = {"PixArt": pixart, "SANA": sana}
WIDTH, HEAD = 256, 64
"""Of a peer, near which its width is chosen; the depth follows from the parameters."""
LOSSES = 8
"""Noises for each held-out picture."""
ROUND = 64


class Peer(nn.Module):
    """A transformer of diffusers, called as a denoiser of ours."""

    def __init__(self, network: nn.Module, spec: InputSpec, further: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.spec, self.further = network, spec, further
        self.config: Any = network.config
        self.null = nn.Parameter(torch.zeros(1, 1, spec.text_dim))
        """In place of a text that is dropped, of which nothing is left to attend to."""

    @property
    def dtype(self) -> torch.dtype:
        return self.null.dtype

    @property
    def device(self) -> torch.device:
        return self.null.device

    def input_spec(self) -> InputSpec:
        return self.spec

    def forward(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: None = None, depth: None = None
    ) -> DenoiserOutput:
        del state, depth
        assert conditioning.tokens is not None
        assert conditioning.mask is not None
        batch = len(latents)
        tokens = torch.cat([self.null.expand(batch, -1, -1).to(conditioning.tokens), conditioning.tokens], 1)
        mask = torch.cat([conditioning.mask.new_ones(batch, 1), conditioning.mask], 1)
        (predicted,) = self.network(
            latents,
            timestep=1000 * t.expand(batch),
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask.long(),
            return_dict=False,
            **self.further,
        )
        return DenoiserOutput(predicted)


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    pipeline: TextToImagePipeline
    """Whose autoencoder and text encoder serve all."""
    data: str
    latents: CachedLatents
    held_out: CachedLatents
    device: torch.device
    batch: int
    rate: float
    samples: int
    sampling_steps: int
    out: Path


@dataclass
class Images:
    """What a pipeline gives."""

    images: Tensor


class Sampler:
    """A pipeline (``pochade.evaluation.generation.TextToImage``) of any network that is called as ours are."""

    def __init__(self, setting: Setting, denoiser: nn.Module) -> None:
        self.denoiser, self.device = denoiser, setting.device
        self.autoencoder: Any = setting.pipeline.autoencoder.to(setting.device)
        self.text_encoder: Any = setting.pipeline.text_encoder.to(setting.device)
        self.default_size = int(setting.pipeline.default_size)
        self.spec = setting.pipeline.denoiser.input_spec()
        self.name_or_path: str | None = None

    @property
    def components(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder, "denoiser": self.denoiser, "text_encoder": self.text_encoder}

    def set_progress_bar_config(self, **_: Any) -> None:
        pass

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        generator: list[torch.Generator],
        **_: Any,
    ) -> Images:
        side = self.spec.sample_size
        noise = torch.cat([torch.randn(1, self.spec.latent_channels, side, side, generator=g) for g in generator])
        text = self.text_encoder.encode(prompts)
        conditioning = Conditioning(tokens=text.tokens, mask=text.mask, pooled=text.pooled).to(self.device)
        guided = GuidedDenoiser(self.denoiser, Guidance(guidance_scale))  # pyright: ignore[reportArgumentType]
        scheduler = FlowMatchEulerDiscreteScheduler()
        latents = sample(
            guided, scheduler, noise.to(self.device), conditioning, num_inference_steps=num_inference_steps
        )
        return Images((self.autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1))


def network(name: str, seed: int, spec: InputSpec) -> nn.Module:
    """One of the six for latents of ``spec``, with random weights."""
    torch.manual_seed(seed)
    shape = {"latent_channels": spec.latent_channels, "sample_size": spec.sample_size, "patch_size": spec.size_multiple}
    if name not in PEERS:
        return build(name, "nano", **shape, text_dim=spec.text_dim, pooled_dim=spec.pooled_dim)
    with torch.device("meta"):
        target = count(build("lrf", "nano", **shape, text_dim=spec.text_dim, pooled_dim=spec.pooled_dim))
    side = spec.sample_size // spec.size_multiple
    options = {"head": HEAD, "channels": spec.latent_channels, "patch": spec.size_multiple, "side": side}
    sizes = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}} if name == "PixArt" else {}
    return Peer(equal(PEERS[name], target, WIDTH, **options), spec, sizes)


@torch.no_grad()
def held_out_loss(task: FlowTask, setting: Setting) -> float:
    """The mean squared error of the velocity on held-out pictures, with the same noises and times for every network."""
    denoiser, data = task.parts["denoiser"].eval(), setting.held_out
    total, rows = 0.0, 0
    for first in range(0, len(data) * LOSSES, ROUND):
        indices = torch.arange(first, min(first + ROUND, len(data) * LOSSES))
        keys = sample_keys(1, indices)
        batch = data.batch(indices % len(data), keys)
        batch = {k: v.to(setting.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        draw = draw_flow(batch["latents"], keys, FlowSettings(cfg_dropout=0.0))
        out = denoiser(interpolate(batch["latents"], draw.eps, draw.t), draw.t, encoded_conditioning(batch))
        error = (out.velocity.float() - velocity(batch["latents"], draw.eps)).square().mean((1, 2, 3))
        total, rows = total + float(error.sum()), rows + len(indices)
    return total / rows


def measure(name: str, seed: int, steps: int, label: str, setting: Setting) -> dict[str, Any]:
    """Trains one network, or goes on with it, and measures it."""
    cuda = setting.device.type == "cuda"
    stage = Stage(
        name=f"{name}_{seed}",
        task=FlowSettings(),
        data=ImageData(),
        steps=steps,
        batch_size=setting.batch,
        learning_rate=setting.rate,
        warmup_steps=min(100, steps // 10),
        ema_decay=0.999,
        seed=seed,
        save_every=500,
        log_every=20,
        sample_every=0,
        device=setting.device.type,
        precision="bf16" if cuda else "fp32",
    )
    spec = setting.pipeline.denoiser.input_spec()
    denoiser = network(name, seed, spec)
    task = FlowTask(denoiser, stage.task)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    folder = setting.out / f"{name}-{seed}-{steps}"
    train(stage, task, setting.latents, folder, resume=True)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    row: dict[str, Any] = {
        "network": name,
        "seed": seed,
        "kind": label,
        "steps": steps,
        "parameters": count(denoiser),
        "seconds a step": statistics.median(line["seconds_per_step"] for line in log),
        "training loss": log[-1]["loss"],
        "held-out loss": held_out_loss(task, setting),
    }
    if cuda:
        row["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    pipeline = Sampler(setting, denoiser.eval())
    report = evaluate(
        pipeline,
        setting.data,
        samples=setting.samples,
        steps=setting.sampling_steps,
        guidance=3.0,
        out=folder / "report",
        progress=False,
    ).figures
    row |= quality(report)  # pyright: ignore[reportArgumentType]
    print(json.dumps(row), flush=True)
    return row


def setting_of(options: argparse.Namespace) -> Setting:
    """Encodes the data, once for all runs."""
    device = resolve_device(options.device)
    pipeline = TextToImagePipeline.from_pretrained(options.model)
    size, on_gpu = int(pipeline.default_size), device.type == "cuda"
    with encoding_on(device, pipeline.autoencoder, text_of(pipeline)) as encoders:
        train_on, held_out = (
            cache_latents(open_source(options.data, split), size, encoders, options.out / "cache", one_length=on_gpu)
            for split in ("train", "held_out")
        )
    return Setting(
        pipeline=pipeline,
        data=options.data,
        latents=train_on,
        held_out=held_out,
        device=device,
        batch=options.batch,
        rate=options.rate,
        samples=options.samples,
        sampling_steps=options.sampling_steps,
        out=options.out,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lrf-openmoji", help="whose autoencoder and text encoder serve all")
    parser.add_argument("--data", default="openmoji")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=[*FAMILIES, *PEERS], choices=[*FAMILIES, *PEERS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--output", type=Path, default=DOCS / "peers_quality.json")
    options = parser.parse_args(arguments)
    setting = setting_of(options)
    about = {
        "device": processor("cpu" if setting.device.type == "cpu" else "cuda"),
        **{name: getattr(options, name) for name in ("model", "data", "batch", "rate", "samples", "sampling_steps")},
    }
    found = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": []}
    rows: list[dict[str, Any]] = found["rows"] if found == {**about, "rows": found["rows"]} else []

    def measured(name: str, seed: int, steps: int, label: str) -> dict[str, Any]:
        key = {"network": name, "seed": seed, "steps": steps, "kind": label}
        for row in rows:
            if {k: row[k] for k in key} == key:
                return row
        rows.append(measure(name, seed, steps, label, setting))
        write_text(options.output, json.dumps({**about, "rows": rows}, indent=1) + "\n")
        return rows[-1]

    seconds: dict[str, float] = {}
    for seed in options.seeds:
        for name in options.networks:
            row = measured(name, seed, options.steps, "equal steps")
            seconds[name] = min(row["seconds a step"], seconds.get(name, row["seconds a step"]))
    least = min(seconds.values())
    for seed in options.seeds:
        for name in options.networks:
            steps = round(options.steps * least / seconds[name])
            if steps < options.steps:
                measured(name, seed, steps, "equal seconds")


if __name__ == "__main__":
    main()
