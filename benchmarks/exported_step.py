"""A step of every family's nano in ONNX Runtime beside PixArt and SANA of equal parameters, written by one exporter.

    python benchmarks/exported_step.py

Writes docs/benchmarks/exported_step.json. Times are the minimum of interleaved runs. The form is that of a bundle
(``pochade export``), with a batch of one. IRIS, which iterates its core, stands beside peers of as many parameters as
it uses, LRF with its blocks applied twice and once.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from denoiser_step import FAMILIES, TEXT_DIM, build_config, equal, pixart, sana
from measuring import processor, rounds_for
from pochade.denoisers import build
from pochade.export.networks import Network
from pochade.export.onnx import export
from pochade.export.parity import Input
from pochade.files import write_text
from pochade.types import Conditioning

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks" / "exported_step.json"
TEXT_TOKENS = 16
DEPTHS: dict[str, tuple[int, ...]] = {"lrf": (2, 1), "iris": (4,)}
"""Of the families that iterate: what is measured of each."""
SIZES = (64, 256, 1024)


@dataclass(frozen=True)
class Entry:
    """A network at one grid; ``peer`` is None for the family's own."""

    family: str
    name: str
    tokens: int
    parameters: int
    nodes: int
    """Of the graph as ONNX Runtime runs it."""
    milliseconds: float
    peer: bool


class Own(nn.Module):
    def __init__(self, denoiser: nn.Module, depth: int | None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.depth = depth

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        conditioning = Conditioning(tokens=tokens, mask=mask, pooled=tokens.mean(1))
        return self.denoiser(latents, t, conditioning, depth=self.depth).velocity


class PixArt(nn.Module):
    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        # The model squeezes an axis of tokens, which torch leaves alone and ONNX does not.
        transformer.proj_out.register_forward_hook(lambda _module, _inputs, out: out.unsqueeze(1))

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        sizes = {"resolution": None, "aspect_ratio": None}
        text = {"encoder_hidden_states": tokens, "encoder_attention_mask": mask.float()}
        return self.transformer(latents, timestep=t * 1000, added_cond_kwargs=sizes, return_dict=False, **text)[0]


class Sana(nn.Module):
    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        text = {"encoder_hidden_states": tokens, "encoder_attention_mask": mask.float()}
        return self.transformer(latents, timestep=t * 1000, return_dict=False, **text)[0]


def networks(family: str, tokens: int) -> dict[str, nn.Module]:
    """Name -> what is exported, the peers last."""
    config = build_config(family, "nano")
    side = math.isqrt(tokens)
    own: Any = build(family, "nano", sample_size=side * config["patch_size"])
    depths = DEPTHS.get(family, (None,))
    title = FAMILIES[family].title
    found: dict[str, nn.Module] = {title if d is None else f"{title}, depth {d}": Own(own, d) for d in depths}
    target = sum(p.numel() for p in own.parameters()) if family != "iris" else own.effective_parameters(*depths)
    sizes = {"channels": config["latent_channels"], "patch": config["patch_size"], "side": side}
    options = {"head": config["dim"] // config["heads"], **sizes}
    found["PixArt"] = PixArt(equal(pixart, target, config["dim"], **options))
    found["SANA"] = Sana(equal(sana, target, config["dim"], **options))
    return found


def opened(name: str, module: nn.Module, latents: tuple[int, ...], folder: Path, threads: int) -> tuple[Any, int]:
    """A step of a network in ONNX Runtime, and its nodes."""
    inputs = (
        Input("latents", latents),
        Input("t", (), bounded=True),
        Input("tokens", (TEXT_TOKENS, TEXT_DIM)),
        Input("mask", (TEXT_TOKENS,), torch.bool, low=TEXT_TOKENS),
    )
    path = folder / f"{name}.onnx"
    # SANA's scores overflow in places on random weights: what counts here is the form.
    export(Network(name, module.eval().requires_grad_(False), inputs, ("velocity",)), path, batch=1, tolerance=1e-2)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = len(onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node)
    generator = torch.Generator().manual_seed(0)
    values = {item.name: item.random(1, generator).numpy() for item in inputs}
    feed = {item.name: values[item.name] for item in session.get_inputs()}
    return lambda: session.run(None, feed), nodes


def measure(family: str, tokens: int, rounds: int, threads: int, clock: Callable[[], float]) -> list[Entry]:
    config = build_config(family, "nano")
    side = math.isqrt(tokens) * config["patch_size"]
    latents = (config["latent_channels"], side, side)
    modules = networks(family, tokens)
    with tempfile.TemporaryDirectory() as folder:
        steps = {n: opened(n, module, latents, Path(folder), threads) for n, module in modules.items()}
    least, wanted, done = dict.fromkeys(steps, math.inf), rounds, 0
    while done < wanted:
        for name, (step, _) in steps.items():
            start = clock()
            step()
            least[name] = min(least[name], clock() - start)
        done += 1
        wanted = rounds_for(max(least.values()), rounds)
    return [
        Entry(
            family,
            name,
            tokens,
            sum(p.numel() for p in modules[name].parameters()),
            nodes,
            1e3 * least[name],
            name in ("PixArt", "SANA"),
        )
        for name, (_, nodes) in steps.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--tokens", nargs="+", type=int, default=SIZES)
    parser.add_argument("--rounds", type=int, default=40, help="the most runs of a network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    torch.manual_seed(0)
    # One thread is timed by what the processor spent on it: other programs count little.
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    entries: list[Entry] = []
    for family in args.families:
        for tokens in args.tokens:
            for e in measure(family, tokens, args.rounds, args.threads, clock):
                entries.append(e)
                size = f"{e.parameters / 1e6:5.2f} M"
                print(f"{family:10} {tokens:5} {e.name:18} {size} {e.milliseconds:8.2f} ms", flush=True)
    record = {
        "processor": processor(),
        "threads": args.threads,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "text_tokens": TEXT_TOKENS,
        "rounds": args.rounds,
        "entries": [asdict(e) for e in entries],
    }
    write_text(args.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
