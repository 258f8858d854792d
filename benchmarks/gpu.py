"""What a GPU makes of the networks: whether it computes what a CPU does, and how fast it trains and samples.

    python benchmarks/gpu.py [--quick] [--device cpu] [--only SECTION ...]

parity       every family at toy size and at nano against the CPU in float32, largest difference over largest value of
             the velocity and of the gradient: in float32 throughout, with TF32 as torch has it by default, and in bf16.
training     a step (forward, backward, clip, AdamW, average) of LRF tiny, 20 M parameters, and of every family at nano:
             written by hand, and by ``pochade.training.loop.train``; eager and compiled block by block. The share is
             the rate of arithmetic over that of a matrix product in bf16. Compiling counts the first step. (The loop
             evaluates MicroForge once more, without a gradient, for the state that it is trained on.) The losses of
             both loops are of the same samples.
kernels      the kernels that a compiled step of LRF tiny spends most time in.
convolutions the depthwise convolution of tokens in bf16, forward and backward: ours, torch's own, and a device copy
             that moves the same bytes.
scans        ``pochade.nn.scan`` beside a device copy.
sampling     a batch of pictures in float32 and in bf16, with guidance.
graphs       the step written by hand, eager and compiled, as one CUDA graph: what launching kernels costs.

Sections that there is no time left for (``--seconds``) are left out and said to be; one that fails takes no other with
it. Writes gpu.json into the folder $OUT, where that is set, or else docs/benchmarks/gpu.json. ``--quick`` runs toys for
a few rounds; with ``--device cpu`` it is a test of this script.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # read when torch is imported

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging
from torch import Tensor, nn

import scans
from measuring import processor
from pochade.data.samples import Samples
from pochade.denoisers import build
from pochade.files import write_text
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.sampling import CastDenoiser, sample
from pochade.nn.convolution import DepthwiseConv
from pochade.nn.depthwise import as_grid, as_tokens
from pochade.training.compute import CompiledBlocks, products_for
from pochade.training.costs import OperationCounter
from pochade.training.ema import EMA
from pochade.training.loop import train
from pochade.training.stage import DataSettings, Stage
from pochade.training.stages.flow import FlowSettings, FlowTask, lengthened
from pochade.types import Conditioning

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
TOYS: dict[str, dict[str, Any]] = {
    "lrf": {"dim": 32, "heads": 2, "hidden": 48, "blocks": 2, "sample_size": 8},
    "iris": {"dim": 32, "heads": 2, "hidden": 48, "iterations": 2, "depths": (2,), "sample_size": 8},
    "lira": {"dim": 32, "heads": 2, "hidden": 48, "blocks": 2, "state_size": 4, "sample_size": 8},
    "microforge": {"dim": 32, "heads": 2, "blocks": 2, "inner": 64, "state_size": 4, "attention_every": 2}
    | {"plan_tokens": 4, "plan_layers": 1, "plan_hidden": 48, "sample_size": 8},
}
FIXED: dict[str, dict[str, Any]] = {"iris": {"depths": (8,)}}
"""So that every step costs the same."""
TEXT_TOKENS = 28


@dataclass
class Bench:
    """Where, how long, and what was found."""

    device: torch.device
    quick: bool
    until: float
    """When to begin nothing more, by ``time.perf_counter``."""
    found: dict[str, Any] = field(default_factory=dict)
    rate: float = 0.0
    """Operations a second of a matrix product in bf16."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, step: Callable[[], Any], rounds: int = 20) -> float:
        """Seconds of a call, the mean over ``rounds`` that are started without waiting; after two to warm up."""
        rounds = 2 if self.quick else rounds
        for _ in range(2):
            step()
        self.sync()
        start = time.perf_counter()
        for _ in range(rounds):
            step()
        self.sync()
        return (time.perf_counter() - start) / rounds

    def put(self, section: str, name: str, row: dict[str, Any]) -> None:
        """Keeps a row and prints it."""
        self.found.setdefault(section, {})[name] = row
        figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"{section:12} {name:34} {figures}", flush=True)

    @contextmanager
    def item(self, section: str, name: str) -> Iterator[None]:
        """What fails within it is a row with the error."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            row = self.found.get(section, {}).get(name, {})
            self.put(section, name, {**row, "failed": f"{type(error).__name__}: {error}"[:300]})

    def left(self, section: str, name: str, needed: float = 5.0) -> bool:
        """Whether there is time for something that takes so many seconds; a row notes it where there is not."""
        if time.perf_counter() + needed < self.until:
            return True
        self.put(section, name, {"left out": "no time"})
        return False


def network(family: str, variant: str) -> nn.Module:
    """With noise on every weight, so that no gate is closed; the same on every device."""
    torch.manual_seed(0)
    changes = TOYS[family] if variant == "toy" else FIXED.get(family, {})
    denoiser = build(family, "nano" if variant == "toy" else variant, **changes)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return denoiser


def inputs(config: Any, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Conditioning]:
    """Latents, times and text, the same on every device."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, config.latent_channels, config.sample_size, config.sample_size, generator=generator)
    lengths = 4 + torch.arange(batch) % (TEXT_TOKENS - 4)
    mask = torch.arange(TEXT_TOKENS) < lengths[:, None]
    tokens = torch.randn(batch, TEXT_TOKENS, config.text_dim, generator=generator) * mask[..., None]
    text = Conditioning(*lengthened(tokens, mask), torch.randn(batch, config.pooled_dim, generator=generator))
    return z.to(device), torch.rand(batch, generator=generator).to(device), text.to(device)


# Parity.


@contextmanager
def tf32(products: bool, convolutions: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if products else "highest")
    torch.backends.cudnn.allow_tf32 = convolutions
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def answers(denoiser: nn.Module, family: str, device: torch.device, half: bool = False) -> tuple[Tensor, Tensor]:
    """Velocity and gradient on the CPU, for a depth that does not depend on the numbers."""
    denoiser = denoiser.to(device).eval()
    denoiser.zero_grad()
    z, t, text = inputs(denoiser.config, 4, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        velocity = denoiser(z, t, text, depth=4 if family == "lira" else None).velocity.float()
    velocity.square().mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])
    return velocity.detach().cpu(), gradient.float().cpu()


def parity(bench: Bench) -> None:
    kinds = {"fp32": (False, False, False), "torch's TF32": (False, True, False), "bf16": (False, True, True)}
    for family in TOYS:
        for variant in ("toy",) if bench.quick else ("toy", "nano"):
            name = f"{family} {variant}"
            if not bench.left("parity", name):
                continue
            with bench.item("parity", name):
                denoiser, row = network(family, variant), dict[str, Any]()
                expected = answers(denoiser, family, torch.device("cpu"))
                for kind, (products, convolutions, half) in kinds.items():
                    with tf32(products, convolutions):
                        found = answers(denoiser, family, bench.device, half)
                    for what, one, other in zip(("velocity", "gradient"), found, expected, strict=True):
                        row[f"{what} {kind}"] = float((one - other).abs().max() / other.abs().max())
                bench.put("parity", name, row)


# Training.


class InMemory(Samples):
    """Latents and text on the device (``pochade.data.samples.Samples``)."""

    def __init__(self, config: Any, count: int, device: torch.device) -> None:
        self.latents, _, self.text = inputs(config, count, device)

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: Tensor, keys: Tensor) -> dict[str, Tensor | list[str]]:
        del keys
        rows = indices.to(self.latents.device)
        text = self.text.map(lambda part: part[rows])
        assert text.tokens is not None
        assert text.mask is not None
        assert text.pooled is not None
        return {"latents": self.latents[rows], "tokens": text.tokens, "mask": text.mask, "pooled": text.pooled}


@dataclass(frozen=True)
class InMemoryData(DataSettings):
    """The settings of such data in a stage."""


def bare_step(
    denoiser: nn.Module, samples: InMemory, batch: int, half: bool, *, capturable: bool = False
) -> Callable[[], Tensor]:
    """A step as short as it can be written; its loss. ``capturable``: by a CUDA graph."""
    parameters = list(denoiser.parameters())
    optimizer = torch.optim.AdamW(parameters, 1e-3, betas=(0.9, 0.99), fused=True, capturable=capturable)
    average, device = EMA(denoiser, 0.999), samples.latents.device

    def step() -> Tensor:
        rows = torch.randint(len(samples), (batch,), device=device)
        z_0, text = samples.latents[rows], samples.text.map(lambda part: part[rows])
        eps, t = torch.randn_like(z_0), torch.sigmoid(torch.randn(batch, device=device))
        weight = t.view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            velocity = denoiser((1 - weight) * z_0 + weight * eps, t, text).velocity
        loss = F.mse_loss(velocity.float(), eps - z_0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(0)
        return loss

    return step


def loop_seconds(
    bench: Bench, denoiser: nn.Module, samples: InMemory, batch: int, *, compiled: bool
) -> tuple[float, list[float]]:
    """Seconds of a step of the project's own loop, the least of the lines of its log, and the losses of these lines."""
    each, lines = (2, 2) if bench.quick else (10, 4)
    stage = Stage(
        name="benchmark", task=FlowSettings(), data=InMemoryData(), steps=each * lines, batch_size=batch,
        log_every=each, save_every=each * lines, sample_every=0, device="cuda" if bench.cuda else "cpu",
        precision="bf16" if bench.cuda else "fp32", compile=compiled
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train(stage, FlowTask(denoiser, FlowSettings()), samples, Path(folder) / "run", console=False)
        log = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in log]
    return min(line["seconds_per_step"] for line in found[1:]), [line["loss"] for line in found]


def training_step(bench: Bench, family: str, variant: str, batch: int) -> None:
    name, rounds = f"{family} {variant}, batch {batch}", 20
    denoiser = network(family, variant).to(bench.device).train()
    samples = InMemory(denoiser.config, 2 * batch, bench.device)
    step = bare_step(denoiser, samples, batch, bench.cuda)
    half = "bf16" if bench.cuda else "fp32"
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in denoiser.parameters())}
    bench.found.setdefault("training", {})[name] = row  # what there is of it is kept where the rest fails
    with products_for(half, bench.device):
        with OperationCounter() as counter:
            step()
        operations = counter.total

        def add(kind: str, seconds: float) -> None:
            row[f"{kind} ms"] = 1e3 * seconds
            row[f"{kind} share"] = operations / seconds / bench.rate

        if bench.cuda:
            torch.cuda.reset_peak_memory_stats()
        add("bare eager", bench.seconds(step, rounds))
        if bench.cuda:
            row["eager GiB"] = torch.cuda.max_memory_allocated() / 2**30
        weights = {name: value.clone() for name, value in denoiser.state_dict().items()}
        seconds, losses = loop_seconds(bench, denoiser, samples, batch, compiled=False)
        add("loop eager", seconds)
        denoiser.train()
        if not bench.cuda or not bench.left("training", f"{name}, compiled", 30):
            return
        compiled = CompiledBlocks([denoiser])
        compiled.start()
        bench.sync()
        start = time.perf_counter()
        step()
        bench.sync()
        row["compiling s"] = time.perf_counter() - start
        torch.cuda.reset_peak_memory_stats()
        add("bare compiled", bench.seconds(step, rounds))
        row["compiled GiB"] = torch.cuda.max_memory_allocated() / 2**30
        compiled.stop()
    denoiser.load_state_dict(weights)
    seconds, compiled_losses = loop_seconds(bench, denoiser, samples, batch, compiled=True)
    add("loop compiled", seconds)
    row["loss, compiled over eager"] = [one / other for one, other in zip(compiled_losses, losses, strict=True)]


def training(bench: Bench) -> None:
    if bench.quick:
        todo = [(family, "toy", 4) for family in TOYS]
    else:
        todo = [("lrf", "tiny", 512), *((family, "nano", 256) for family in TOYS)]
    for family, variant, batch in todo:
        name = f"{family} {variant}, batch {batch}"
        if bench.left("training", name, 10):
            with bench.item("training", name):
                training_step(bench, family, variant, batch)
                bench.put("training", name, bench.found["training"][name])


def kernels(bench: Bench) -> None:
    if not bench.left("kernels", "lrf", 20):
        return
    denoiser = network("lrf", "toy" if bench.quick else "tiny").to(bench.device).train()
    batch = 4 if bench.quick else 512
    step = bare_step(denoiser, InMemory(denoiser.config, batch, bench.device), batch, bench.cuda)
    compiled = CompiledBlocks([denoiser] if bench.cuda else ())
    compiled.start()
    with products_for("bf16", bench.device):
        bench.seconds(step, 2)
        own = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[own.CUDA if bench.cuda else own.CPU]) as profile:
            step()
            bench.sync()
    compiled.stop()
    events = profile.key_averages()

    def microseconds(event: Any) -> float:
        return event.self_device_time_total if bench.cuda else event.self_cpu_time_total

    total = sum(map(microseconds, events))
    for event in sorted(events, key=microseconds, reverse=True)[:16]:
        share, count = microseconds(event) / total, event.count
        bench.put("kernels", event.key[:60], {"ms": microseconds(event) / 1e3, "share": share, "calls": count})


# Parts.


def convolution(bench: Bench, batch: int, side: int, dim: int) -> dict[str, Any]:
    kind = torch.bfloat16 if bench.cuda else torch.float32
    conv = DepthwiseConv(dim).to(bench.device, kind)
    wide = torch.randn(batch, side * side, 3 * dim, device=bench.device, dtype=kind, requires_grad=True)
    x, grad = wide[..., :dim], torch.randn(batch, side * side, dim, device=bench.device, dtype=kind)

    def plain() -> Tensor:
        return as_tokens(F.conv2d(as_grid(x, side, side), conv.weight, conv.bias, padding=1, groups=dim))

    def both(function: Callable[[], Tensor]) -> Any:
        return torch.autograd.grad(function(), (x, *conv.parameters()), grad)

    row: dict[str, Any] = {}
    for name, function in (("ours", lambda: conv(x, side, side)), ("torch", plain)):
        with torch.no_grad():
            row[f"{name} forward ms"] = 1e3 * bench.seconds(function)
        row[f"{name} both ms"] = 1e3 * bench.seconds(lambda f=function: both(f))
    pair = torch.empty(2, x.numel(), device=bench.device, dtype=kind)
    row["copy ms"] = 1e3 * bench.seconds(lambda: pair[0].copy_(pair[1]))
    return row


def convolutions(bench: Bench) -> None:
    for sizes in [(2, 4, 32)] if bench.quick else [(512, 8, 384), (64, 16, 768), (16, 32, 1024)]:
        name = "batch {}, {} x {}, D = {}".format(sizes[0], *sizes[1:2] * 2, sizes[2])
        with bench.item("convolutions", name):
            bench.put("convolutions", name, convolution(bench, *sizes))


def scanned(bench: Bench) -> None:
    case = scans.Case
    cases = [case("diagonal", 64, 1, 2, 64)]
    if not bench.quick:
        cases = [case("diagonal", 512, 1, 256, 64), case("diagonal", 512, 1, 16, 1024)]
        cases += [case("selective", 256, 16, 16, 256), case("selective", 256, 16, 4, 1024)]
        cases += [case("ssd", 512, 16, 64, 256), case("ssd", 512, 64, 16, 1024)]
    for one in cases:
        name = str(one).strip()
        if not bench.left("scans", name):
            continue
        with bench.item("scans", name):
            sides, _ = scans.KINDS[one.kind](one, bench.device.type)
            row = {
                f"{side} {mode} ms": 1e3 * bench.seconds(step, 10)
                for side, both in sides.items()
                if side != "torch"
                for mode, step in both.items()
            }
            bench.put("scans", name, row)


@torch.no_grad()
def sampling(bench: Bench) -> None:
    todo = [("lrf", "toy")] if bench.quick else [("lrf", "tiny"), *((family, "nano") for family in TOYS)]
    batch, steps = (2, 2) if bench.quick else (32, 16)
    for family, variant in todo:
        name = f"{family} {variant}, {batch} x {steps}"
        if not bench.left("sampling", name):
            continue
        with bench.item("sampling", name):
            denoiser, row = network(family, variant).to(bench.device).eval(), dict[str, Any]()
            z, _, text = inputs(denoiser.config, batch, bench.device)
            for kind in (torch.float32, torch.bfloat16):
                denoiser.to(kind)
                called: Any = denoiser if kind == torch.float32 else CastDenoiser(denoiser, kind)  # pyright: ignore[reportArgumentType]
                guided = GuidedDenoiser(called, Guidance(3.0))

                def run(guided: Any = guided, z: Tensor = z, text: Conditioning = text) -> Tensor:
                    scheduler = FlowMatchEulerDiscreteScheduler()
                    return sample(guided, scheduler, z, text, num_inference_steps=steps)

                seconds = bench.seconds(run, 2)
                row[f"{str(kind)[6:]} ms a step"] = 1e3 * seconds / steps
                row[f"{str(kind)[6:]} pictures/s"] = batch / seconds
            bench.put("sampling", name, row)


def as_graph(bench: Bench, step: Callable[[], Any]) -> float:
    """Seconds of the step as one CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return bench.seconds(graph.replay)


def graphs(bench: Bench) -> None:
    if not bench.cuda:
        return
    for family, variant, batch in [("lrf", "tiny", 512), ("lrf", "nano", 256)]:
        name = f"{family} {variant}, batch {batch}"
        if not bench.left("graphs", name, 10):
            continue
        with bench.item("graphs", name), products_for("bf16", bench.device):
            denoiser = network(family, variant).to(bench.device).train()
            samples = InMemory(denoiser.config, batch, bench.device)
            step = bare_step(denoiser, samples, batch, half=True, capturable=True)
            row = {"eager ms": 1e3 * bench.seconds(step), "graph ms": 1e3 * as_graph(bench, step)}
            bench.put("graphs", name, row)
            if not bench.left("graphs", f"{name}, compiled", 30):
                continue
            compiled = CompiledBlocks([denoiser])
            compiled.start()
            bench.seconds(step, 2)
            bench.put("graphs", name, {**row, "compiled graph ms": 1e3 * as_graph(bench, step)})
            compiled.stop()


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "parity": parity,
    "training": training,
    "kernels": kernels,
    "convolutions": convolutions,
    "scans": scanned,
    "sampling": sampling,
    "graphs": graphs,
}


def matrix_rate(bench: Bench) -> float:
    """Operations a second of a square product in bf16 (on a CPU in float32)."""
    size = 8192 if bench.cuda else 256
    kind = torch.bfloat16 if bench.cuda else torch.float32
    a, b = torch.randn(2, size, size, device=bench.device, dtype=kind)
    return 2 * size**3 / bench.seconds(lambda: a @ b)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toys and few rounds")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=225, help="begin nothing more after so many")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    logging.set_verbosity_error()
    bench = Bench(torch.device(options.device), options.quick, began + options.seconds)
    output = options.output or Path(os.environ.get("OUT", DOCS)) / "gpu.json"
    bench.rate = matrix_rate(bench)
    about = {"device": processor(options.device), "torch": torch.__version__, "quick": options.quick}
    about |= {"matrix product, TFLOP/s": bench.rate / 1e12}
    print(about, flush=True)
    for name in options.only:
        start = time.perf_counter()
        with bench.item(name, name), torch.random.fork_rng() if not bench.cuda else nullcontext():
            SECTIONS[name](bench)
        about[f"{name}, seconds"] = time.perf_counter() - start
        write_text(output, json.dumps({**about, **bench.found}, indent=2) + "\n")
    print(f"{time.perf_counter() - began:.0f} s in all, {output}", flush=True)
    return 1 if any("failed" in row for rows in bench.found.values() for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
