"""Small decoders beside the full one: pictures, time and memory, in torch and in ONNX Runtime.

    python benchmarks/decoders.py --decoders tiny=runs/tiny/model small=runs/small/model

Writes docs/benchmarks/decoders.md and .json. A size may stand for a folder (``tiny=tiny``): a decoder of random
weights, for time and memory alone. Times are the minimum of interleaved runs; memory is the most that a decode adds to
what a fresh process has resident (Linux only).
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import processor, resident, timed
from pochade.autoencoders.tiny_decoder import SIZES, TinyVAEDecoder, for_autoencoder
from pochade.data.sources.openmoji import OpenMoji
from pochade.evaluation.reconstruction import psnr
from pochade.export.onnx import export_decoder
from pochade.features.lite0 import load_lite0
from pochade.features.perceptual import PerceptualLoss
from pochade.files import write_text
from pochade.images.decode import to_tensor
from pochade.pipelines.autoencoders import load_autoencoder
from pochade.pipelines.loading import load_component

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
RUNTIMES = ("torch", "onnxruntime")
FULL = "full"


@dataclass
class Entry:
    """A decoder, and what was measured; keys of the tables are "RUNTIME SIZE"."""

    name: str
    parameters: int
    psnr: float | None = None
    perceptual: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)


def load(name: str, source: str, teacher: Any) -> Any:
    """The network that decodes: the teacher, one of random weights, or the one in a folder."""
    if name == FULL:
        return teacher
    if source in SIZES:
        torch.manual_seed(0)
        return for_autoencoder(source, teacher.config.latent_channels, teacher.downsampling).eval()
    return load_component(TinyVAEDecoder, Path(source))


@torch.no_grad()
def quality(decoder: Any, teacher: Any, images: torch.Tensor, perceptual: PerceptualLoss) -> tuple[float, float]:
    """Mean PSNR and perceptual distance over pictures [B, 3, H, W]."""
    pairs = [(decoder.decode(teacher.encode(x)), x) for x in images.split(16)]
    distances = torch.cat([perceptual.per_image(a, b) for a, b in pairs])
    return float(torch.cat([psnr(a, b).clamp(max=60) for a, b in pairs]).mean()), float(distances.mean())


def caller(runtime: str, place: str, latents: np.ndarray, threads: int) -> Callable[[], Any]:
    """A decode of ``latents``: by the exported graph at ``place``, or by the pickled module there."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"latents": latents})
    network = torch.load(place, weights_only=False)  # written by this process's parent
    tensor = torch.from_numpy(latents)

    @torch.no_grad()
    def step() -> Any:
        return network.decode(tensor)

    return step


def child(runtime: str, place: str, channels: int, side: int, threads: int) -> None:
    """Prints the bytes that the first decode adds."""
    torch.set_num_threads(threads)
    latents = np.random.default_rng(0).standard_normal((1, channels, side, side), np.float32)
    step = caller(runtime, place, latents, threads)
    before, most = resident(step)
    print(most - before)


def memory(runtime: str, place: Path, channels: int, side: int, threads: int) -> float:
    """Megabytes that a decode adds, in a process of its own."""
    arguments = [runtime, str(place), str(channels), str(side), str(threads)]
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) / 2**20


def measure(networks: dict[str, Any], entries: dict[str, Entry], sizes: list[int], rounds: int, threads: int) -> None:
    """Fills in time and memory, the networks in turn."""
    for size in sizes:
        steps: dict[tuple[str, str], Callable[[], Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, network in networks.items():
                channels, side = int(network.config.latent_channels), size // int(network.downsampling)
                latents = np.random.default_rng(0).standard_normal((1, channels, side, side), np.float32)
                for runtime in RUNTIMES:
                    place = Path(folder) / f"{name}.{runtime}"
                    if runtime == "torch":
                        torch.save(network, place)
                    else:
                        export_decoder(network, place, latent_size=side, batch=1)
                    entries[name].megabytes[f"{runtime} {size}"] = memory(runtime, place, channels, side, threads)
                    steps[name, runtime] = caller(runtime, str(place), latents, threads)
            for _ in range(rounds):
                for (name, runtime), step in steps.items():
                    seconds, key = entries[name].seconds, f"{runtime} {size}"
                    seconds[key] = min(seconds.get(key, math.inf), timed(step, "cpu"))


def markdown(entries: list[Entry], about: dict[str, Any]) -> str:
    full = entries[0]
    text = [
        "# Small decoders beside the full one",
        f"""`python benchmarks/decoders.py` repeats this page. The latents are those of `{about["teacher"]}`, whose own
decoder is *{FULL}*. PSNR and perceptual distance: {about["pictures"]} held-out OpenMoji drawings at
{about["quality_size"]} px, from their own latents; a dash is a decoder of random weights.""",
        f"""Times are the minimum of {about["rounds"]} interleaved runs of one picture, *ratio* is the full decoder's
time over this one's. Memory is the most that a decode adds to a fresh process, weights and library not counted.
{about["processor"]}, {about["threads"]} thread(s), torch {about["torch"]}, ONNX Runtime {about["onnxruntime"]}.""",
    ]
    lines = ["\n\n".join(text), "", "| decoder | parameters | PSNR, dB | perceptual |", "|---|---|---|---|"]
    for e in entries:
        figures = ("-", "-") if e.psnr is None else (f"{e.psnr:.2f}", f"{e.perceptual:.3f}")
        lines.append(f"| {e.name} | {e.parameters / 1e6:.2f} M | {figures[0]} | {figures[1]} |")
    lines += ["", "| decoder | runtime | pixels | seconds | ratio | memory, MB |", "|---|---|---|---|---|---|"]
    for key in full.seconds:
        runtime, size = key.split()
        for e in entries:
            row = f"{e.seconds[key]:.3f} | {full.seconds[key] / e.seconds[key]:.1f} | {e.megabytes[key]:.0f}"
            lines.append(f"| {e.name} | {runtime} | {size} | {row} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        runtime, place, *numbers = sys.argv[2:]
        child(runtime, place, *map(int, numbers))
        return
    import onnxruntime

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--teacher", default="lrf-openmoji")
    parser.add_argument("--decoders", nargs="+", default=["tiny=tiny", "small=small"], metavar="NAME=FOLDER")
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--quality-size", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    teacher = load_autoencoder(args.teacher)
    sources = {FULL: args.teacher, **dict(pair.split("=", 1) for pair in args.decoders)}
    networks = {name: load(name, source, teacher) for name, source in sources.items()}
    halves = {name: network.decoder if name == FULL else network for name, network in networks.items()}
    entries = {name: Entry(name, sum(p.numel() for p in half.parameters())) for name, half in halves.items()}
    data = OpenMoji("held_out")
    firsts = [variants[0] for variants in data.groups().values()][: args.pictures]
    images = torch.stack([to_tensor(data.image(i, args.quality_size)) for i in firsts])
    perceptual = PerceptualLoss(load_lite0())
    for name, source in sources.items():
        if source not in SIZES:
            entries[name].psnr, entries[name].perceptual = quality(networks[name], teacher, images, perceptual)
    measure(networks, entries, args.sizes, args.rounds, args.threads)
    about = {
        "teacher": args.teacher,
        "pictures": len(firsts),
        "quality_size": args.quality_size,
        "rounds": args.rounds,
        "threads": args.threads,
        "processor": processor(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    rows = list(entries.values())
    text = markdown(rows, about)
    write_text(args.output / "decoders.md", text)
    write_text(
        args.output / "decoders.json", json.dumps({**about, "entries": [asdict(e) for e in rows]}, indent=2) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
