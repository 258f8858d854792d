"""The four families beside diffusers' PixArt and SANA transformers of equal parameters, trained alike and compared.

    python benchmarks/peers_quality.py --data drawings:FOLDER:sets=openmoji,twemoji
    python benchmarks/peers_quality.py --device cuda --model open-drawings --data drawings:FOLDER --steps 4000

All are trained on the same latents, captions, noises and times, by the project's loop, at a constant learning rate
with averaged weights, so that a run is comparable at every step. Each is measured for equal steps, and for the seconds
that the fastest of them takes for those (``equal seconds``). Seconds are the minimum over interleaved rounds of one
step of each; on a CPU they are the process's own, which do not count what others compute meanwhile.

Measured are the loss on held-out pictures with noises that are the same for all, KID (Lite0) and retrieval on captions
of training, of composed pairs where the data has them, and of held-out concepts, and the bytes of a training step.
Writes docs/benchmarks/peers_quality.json, and runs and pictures below --out: an interrupted run goes on, and what is
measured is not measured again. ``--rate`` changes the learning rate of the networks that are named, as a further run.
"""

import argparse
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the memory profile is silent; read when torch is imported

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from denoiser_step import count, equal, pixart, sana
from measuring import peak, processor, timed
from pochade.arguments import EVERYWHERE
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.data.sources import open_source
from pochade.denoisers import build
from pochade.device import resolve_device
from pochade.evaluation import bootstrap
from pochade.evaluation.generation import PictureStore, fingerprint, generate, read
from pochade.evaluation.kid import kid
from pochade.evaluation.pictures import Pictures, caption_embeddings, pooled_features, read_splits
from pochade.evaluation.retrieval import RetrievalProbe
from pochade.features.lite0 import EfficientNetLite0, load_lite0
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
VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "LRF, applied once": ("lrf", {"recursions": 1}),
    "IRIS, 4 iterations": ("iris", {"iterations": 4, "depths": (4,)}),
    "LiRA, residual": ("lira", {"connections": "residual"}),
    "MicroForge, no convolution": ("microforge", {"depthwise": False}),
}
"""A family with another configuration, to find a cause or to test a claim: not run unless it is named."""
PEERS: dict[str, Callable[..., nn.Module]] = {"PixArt": pixart, "SANA": sana}
NETWORKS = (*FAMILIES, *PEERS, *VARIATIONS)
WIDTH, HEAD = 256, 64
"""Of a peer, near which its width is chosen; the depth follows from the parameters."""
WARMUP = 20
EMA = 0.95
LOSSES = 128
"""Held-out samples, each with a noise of its own, that a loss is the mean of."""
POINTS = 4
"""Of the curve of a run, at equal distances."""
ROUND = 64
ROUNDS = 9
"""In which each network's step is timed once."""


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
class Real:
    """One split's real pictures, and what the figures need of them."""

    pictures: Pictures
    features: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class Evaluator:
    """Measures pictures by the captions and the real pictures of each split."""

    net: EfficientNetLite0
    sides: Mapping[str, Real]
    probe: RetrievalProbe

    @classmethod
    def read(cls, data: str, size: int, most: int) -> "Evaluator":
        net, sides = load_lite0(), {}
        for split, found in read_splits(open_source(data, "all"), size).present().items():
            pictures = replace(found, rows=found.rows[:most])
            sides[split] = Real(pictures, pooled_features(net, pictures.images), caption_embeddings(pictures.captions))
        return cls(net, sides, RetrievalProbe.fit(sides["train"].features, sides["train"].embeddings))

    def figures(self, split: str, made: Tensor) -> dict[str, Any]:
        """KID (Lite0) and R@1 of pictures of the first captions of a split, with intervals."""
        real, features = self.sides[split], pooled_features(self.net, made)
        mean, _ = kid(real.features, features)
        hits = self.probe.hits(features, real.embeddings, real.pictures.concepts)[1]
        return {
            "pictures": len(made),
            "kid": mean,
            "kid 95 %": bootstrap.of_kid(mean, real.features, features),
            "R@1": float(hits.mean()),
            "R@1 95 %": bootstrap.of_mean(hits),
        }


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    pipeline: TextToImagePipeline
    """Whose autoencoder and text encoder serve all."""
    evaluator: Evaluator | None
    """None: no pictures are made."""
    latents: CachedLatents
    held_out: CachedLatents
    device: torch.device
    batch: int
    samples: int
    sampling_steps: int
    guidance: float
    out: Path


@dataclass
class Images:
    """What a pipeline gives."""

    images: Tensor


class Sampler:
    """A pipeline (``pochade.evaluation.generation.TextToImage``) of any network that is called as ours are."""

    def __init__(self, pipeline: TextToImagePipeline, denoiser: nn.Module, device: torch.device) -> None:
        self.denoiser, self.device = denoiser, device
        self.autoencoder: Any = pipeline.autoencoder.to(device)
        self.text_encoder: Any = pipeline.text_encoder.to(device)
        self.default_size = int(pipeline.default_size)
        self.default_guidance_interval = EVERYWHERE
        self.spec = pipeline.denoiser.input_spec()
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
        family, changes = VARIATIONS.get(name, (name, {}))
        return build(family, "nano", **shape, text_dim=spec.text_dim, pooled_dim=spec.pooled_dim, **changes)
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
    total = 0.0
    for first in range(0, LOSSES, ROUND):
        indices = torch.arange(first, first + ROUND)
        keys = sample_keys(1, indices)
        batch = on(setting.device, data.batch(indices % len(data), keys))
        draw = draw_flow(batch["latents"], keys, FlowSettings(cfg_dropout=0.0))
        out = denoiser(interpolate(batch["latents"], draw.eps, draw.t), draw.t, encoded_conditioning(batch))
        error = (out.velocity.float() - velocity(batch["latents"], draw.eps)).square().mean((1, 2, 3))
        total += float(error.sum())
    return total / LOSSES


def on(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def costs(names: Sequence[str], setting: Setting) -> dict[str, dict[str, float]]:
    """Seconds, bytes and parameters of a training step of each network."""
    spec, device = setting.pipeline.denoiser.input_spec(), setting.device
    keys = sample_keys(0, torch.arange(setting.batch))
    batch = on(device, setting.latents.batch(torch.arange(setting.batch) % len(setting.latents), keys))
    steps: dict[str, Callable[[], None]] = {}
    found: dict[str, dict[str, float]] = {}
    for name in names:
        task = FlowTask(network(name, 0, spec).to(device), FlowSettings()).train()
        optimiser = torch.optim.AdamW(task.parameters(), 1e-4)

        steps[name] = step = partial(training_step, task, optimiser, batch, keys.to(device))
        step()
        found[name] = {"parameters": count(task.parts["denoiser"]), "bytes": peak(step, device.type)}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            found[name]["seconds"] = min(seconds(step, device.type), found[name].get("seconds", math.inf))
    return found


def training_step(task: FlowTask, optimiser: torch.optim.Optimizer, batch: dict[str, Any], keys: Tensor) -> None:
    """Forward, backward and update."""
    with torch.autocast(keys.device.type, torch.bfloat16, enabled=keys.device.type == "cuda"):
        loss = task(batch | {"seed": keys})["loss"]
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def seconds(step: Callable[[], None], device: str) -> float:
    """Of a step: of this process alone on a CPU."""
    if device != "cpu":
        return timed(step, device)
    start = time.process_time()
    step()
    return time.process_time() - start


def run(name: str, seed: int, rate: float, stops: Mapping[int, tuple[str, ...]], setting: Setting) -> list[Any]:
    """Trains one network, or goes on with it, and measures it after each of ``stops``: steps -> what they are."""
    cuda = setting.device.type == "cuda"
    spec = setting.pipeline.denoiser.input_spec()
    folder = setting.out / f"{name}-{seed}-{rate:g}"
    rows: list[Any] = []
    for steps, kinds in sorted(stops.items()):
        stage = Stage(
            name=re.sub(r"\W+", "_", f"{name}_{seed}"),
            task=FlowSettings(),
            data=ImageData(),
            steps=steps,
            batch_size=setting.batch,
            learning_rate=rate,
            schedule="constant",
            warmup_steps=WARMUP,
            ema_decay=EMA,
            seed=seed,
            keep=1,
            sample_every=0,
            log_every=10,
            device=setting.device.type,
            precision="bf16" if cuda else "fp32",
        )
        task = FlowTask(network(name, seed, spec), stage.task)
        done = folder / f"{steps}.json"
        if not done.is_file():
            train(stage, task, setting.latents, folder, resume=True, console=False)
            row: dict[str, Any] = {"network": name, "seed": seed, "rate": rate, "steps": steps, "kinds": kinds}
            row["held-out loss"] = held_out_loss(task, setting)
            if kinds and setting.evaluator is not None:
                row |= pictures(task, f"{name}-{seed}-{rate:g}-{steps}", setting, setting.evaluator)
            write_text(done, json.dumps(row))
            print(json.dumps(row), flush=True)
        rows.append(json.loads(done.read_text()))
    return rows


def pictures(task: FlowTask, label: str, setting: Setting, evaluator: Evaluator) -> dict[str, Any]:
    """Figures of pictures of each split."""
    pipeline = Sampler(setting.pipeline, task.parts["denoiser"].eval(), setting.device)
    store = PictureStore(setting.out / "samples" / label, {"weights": fingerprint(pipeline)})
    found: dict[str, Any] = {}
    for split, real in evaluator.sides.items():
        captions = real.pictures.captions[: setting.samples]
        generate(
            pipeline,
            captions,
            store,
            steps=setting.sampling_steps,
            guidance=setting.guidance,
            seed=0,
            batch_size=40,
        )
        found[split] = evaluator.figures(split, read(store, captions, 0))
    return found


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
        evaluator=Evaluator.read(options.data, size, options.real) if options.samples else None,
        latents=train_on,
        held_out=held_out,
        device=device,
        batch=options.batch,
        samples=options.samples,
        sampling_steps=options.sampling_steps,
        guidance=options.guidance,
        out=options.out,
    )


def stops_of(name: str, steps: int, costs: Mapping[str, Mapping[str, float]]) -> dict[int, tuple[str, ...]]:
    """Where a run is measured: along it, after as many seconds as the fastest takes for all steps, and at the end."""
    least = min(costs[each]["seconds"] for each in (*FAMILIES, *PEERS))
    equal_seconds = max(1, round(steps * least / costs[name]["seconds"]))
    along = {round(steps * point / POINTS): () for point in range(1, POINTS)}
    if equal_seconds == steps:
        return {**along, steps: ("equal steps", "equal seconds")}
    return {**along, equal_seconds: ("equal seconds",), steps: ("equal steps",)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lrf-openmoji", help="whose autoencoder and text encoder serve all")
    parser.add_argument("--data", required=True, help="as pochade data prints it, such as openmoji")
    parser.add_argument("--name", help="of the data in the record; left out, as given")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=[*FAMILIES, *PEERS], choices=NETWORKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, default=40, help="pictures of each split, 0 for losses alone")
    parser.add_argument("--sampling-steps", type=int, default=6)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--real", type=int, default=1000, help="real pictures of each split, at most")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--output", type=Path, default=DOCS / "peers_quality.json")
    options = parser.parse_args(arguments)
    setting = setting_of(options)
    shared = ("model", "steps", "batch", "samples", "sampling_steps", "guidance", "real")
    about = {
        "device": processor("cpu" if setting.device.type == "cpu" else "cuda"),
        "threads": torch.get_num_threads(),
        "data": options.name or options.data,
        "training pictures": setting.latents.pictures,
        **{name: getattr(options, name) for name in shared},
    }
    costs_file = options.out / "costs.json"
    measured: dict[str, dict[str, float]] = json.loads(costs_file.read_text()) if costs_file.is_file() else {}
    if missing := [name for name in (*FAMILIES, *PEERS, *options.networks) if name not in measured]:
        measured |= costs(list(dict.fromkeys(missing)), setting)
        write_text(costs_file, json.dumps(measured, indent=1))
    print(measured, flush=True)
    found = json.loads(options.output.read_text()) if options.output.is_file() else {**about, "rows": []}
    if {name: found.get(name) for name in about} != about:
        raise SystemExit(f"{options.output} holds runs of other settings")
    rows: list[Any] = found["rows"]
    for seed in options.seeds:
        for name in options.networks:
            new = run(name, seed, options.rate, stops_of(name, options.steps, measured), setting)
            own = (name, seed, options.rate)
            rows = [row for row in rows if (row["network"], row["seed"], row["rate"]) != own] + new
            write_text(options.output, json.dumps({**about, "costs": measured, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
