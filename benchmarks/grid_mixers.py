"""Time a token of the mixers over the token grid: spectral, by FFT and by DFT products, and Manhattan decay.

    python benchmarks/grid_mixers.py

Writes docs/benchmarks/grid_mixers.json. Forward without gradients, and forward + backward with those of the input and
of every weight, float32; the minimum of interleaved runs. What is promised:
"spectral" (the cheaper transform by grid size, as used) and "manhattan" take at 64 x 64 at most 1.5 times as long a
token as at 16 x 16.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pochade.files import write_text
from pochade.nn.manhattan import ManhattanMixer
from pochade.nn.spectral import SpectralMixer

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks" / "grid_mixers.json"
HEAD_WIDTH = 64
LIMIT = 1.5


@dataclass
class Entry:
    """A mixer on one grid, and what was measured."""

    mixer: str
    threads: int
    batch: int
    dim: int
    height: int
    width: int
    forward_microseconds_per_token: float = math.inf
    forward_backward_microseconds_per_token: float = math.inf


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def mixers(dim: int) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {
        "spectral": SpectralMixer(dim),
        "spectral, dft": SpectralMixer(dim, transform="dft"),
        "spectral, fft": SpectralMixer(dim, transform="fft"),
        "manhattan": ManhattanMixer(dim, dim // HEAD_WIDTH),
    }
    return found


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(entries: list[Entry], networks: dict[str, nn.Module], rounds: int) -> None:
    """Fills the entries of one thread count, batch and width; all grids and mixers take turns in every round."""
    grids: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for e in entries:
        shape = (e.batch, e.height * e.width, e.dim)
        grids.setdefault((e.height, e.width), (torch.randn(shape, requires_grad=True), torch.randn(shape)))
    for _ in range(rounds):
        for e in entries:
            network, (x, gradient) = networks[e.mixer], grids[e.height, e.width]

            def forward(e: Entry = e, network: nn.Module = network, x: Tensor = x) -> Tensor:
                return network(x, e.height, e.width)

            def both(
                forward: Callable[[], Tensor] = forward,
                network: nn.Module = network,
                x: Tensor = x,
                gradient: Tensor = gradient,
            ) -> None:
                network.zero_grad()
                x.grad = None
                forward().backward(gradient)

            share = 1e6 / (e.batch * e.height * e.width)
            with torch.no_grad():
                forward()  # not counted: the run before it was a backward pass of another mixer
                e.forward_microseconds_per_token = min(e.forward_microseconds_per_token, share * timed(forward))
            spent = share * timed(both)
            e.forward_backward_microseconds_per_token = min(e.forward_backward_microseconds_per_token, spent)


def growth(entries: list[Entry]) -> list[dict[str, object]]:
    """Time a token at 64 x 64 over that at 16 x 16, for each mixer and setting."""
    at = {(e.mixer, e.threads, e.batch, e.dim, e.height): e for e in entries}
    found: list[dict[str, object]] = []
    for (mixer, threads, batch, dim, height), e in at.items():
        small = at.get((mixer, threads, batch, dim, 16))
        if height == 64 and small is not None:
            forward = e.forward_microseconds_per_token / small.forward_microseconds_per_token
            both = e.forward_backward_microseconds_per_token / small.forward_backward_microseconds_per_token
            row = {"mixer": mixer, "threads": threads, "batch": batch, "dim": dim}
            found.append({**row, "forward": forward, "forward_backward": both})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sides", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--dims", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if options.rounds < 1 or any(d < HEAD_WIDTH or d % HEAD_WIDTH for d in options.dims):
        parser.error(f"--rounds: at least 1; --dims: multiples of {HEAD_WIDTH}")
    torch.manual_seed(0)
    entries: list[Entry] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for batch in options.batches:
            for dim in options.dims:
                networks = mixers(dim)
                found = [Entry(name, threads, batch, dim, s, s) for s in options.sides for name in networks]
                measure(found, networks, options.rounds)
                entries += found
                for e in found:
                    print(
                        f"{e.threads} thread(s), batch {e.batch}, D {e.dim}, {e.height:2} x {e.width:2} {e.mixer:13} "
                        f"{e.forward_microseconds_per_token:7.2f} "
                        f"{e.forward_backward_microseconds_per_token:7.2f} us a token",
                        flush=True,
                    )
    grown = growth(entries)
    for row in grown:
        print(
            "64 x 64 over 16 x 16:",
            ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v}" for k, v in row.items()),
        )
    used = [row for row in grown if row["mixer"] in ("spectral", "manhattan")]
    if used:
        worst = max(max(float(str(row[k])) for k in ("forward", "forward_backward")) for row in used)
        print(
            f"largest of those in use: {worst:.2f}, allowed {LIMIT}: {'holds' if worst <= LIMIT else 'DOES NOT HOLD'}"
        )
    record = {
        "benchmark": "grid_mixers",
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "head_width": HEAD_WIDTH,
        "limit": LIMIT,
        "time_64_over_16": grown,
        "entries": [asdict(e) for e in entries],
    }
    write_text(options.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
