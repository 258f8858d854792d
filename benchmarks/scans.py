"""The linear recurrences of ``pochade.nn.scan`` beside their peers: time, memory, cold start.

    python benchmarks/scans.py [--quick] [--device cuda]

Three kinds, in float32, forward (without a graph) and forward + backward (gradients of every input, for a given
gradient of the output):

diagonal   ``linear_recurrence`` of a, b [B, N, D]; beside it mambapy's pscan, the plain loop up to N = 1024, and
           torch.cumsum of b, which is the recurrence with a = 1 and reads one tensor where ours reads two.
selective  Mamba-1 in four directions: one ``selective_scan`` of x [B, N, 4 D] with A [4 D, S] and B, C [B, N, 4, S],
           exponentials, output and skip included; beside it four calls of mambapy's scan, as its block makes them.
ssd        Mamba-2's scalar decays, heads of 64 channels: time a token, and the share of the matrix-product rate, which
           is the time that the matrix products of the chunked matrix form alone (``products``) would take at the rate
           of a 1024^3 product timed in the same rounds, divided by the time measured.

Sides alternate in every round, and short steps run three times in a row there (the first finds the caches that
another side left); a time is the minimum of all, with the allocator as it is by default. Memory is the most that a
step holds in tensors beside its inputs, in units of the bytes of the inputs; small arrays inside the compiled loops
(a few hundred kilobytes a thread) are not tensors and not counted. A peer, or our scan composed of torch operators,
is left out where it would take more than 2 GB, our own loops and cumsum where they would take more than 8 GB. On a
GPU the sides are the Triton form, the composed form, and a device copy that moves the same bytes once.

Writes docs/benchmarks/scans.json (scans_cuda.json) and a plot of it.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the memory profile is silent; read when torch is imported
# Threads wait as in the commands: torch's would else spin on the core on which one of ours is to work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from torch import Tensor

from measuring import MATRIX, peak, processor, timed
from pochade.files import write_text
from pochade.nn.scan import Backend, linear_recurrence, linear_recurrence_reference, selective_scan, use_backend
from scans_plot import draw

DOCS = Path(__file__).parents[1] / "docs"
TOKENS = (64, 256, 1024, 4096, 16384)
STATES = 16
DIRECTIONS = 4
HEAD = 64
CHUNK = 64
LOOP_TOKENS = 1024
GIGABYTE = 10**9
PEER_LIMIT, OWN_LIMIT = 2 * GIGABYTE, 8 * GIGABYTE
SHORT = 0.02
MODES = ("forward", "both")

Step = Callable[[], Any]
Sides = dict[str, dict[str, Step]]


class Case(NamedTuple):
    """One size of one kind."""

    kind: str
    width: int
    states: int
    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.kind:9} D={self.width} S={self.states:2} batch={self.batch:2} N={self.tokens:5}"


def modes(
    call: Callable[[], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    gradients: Sequence[Tensor],
    form: Backend | None = None,
) -> dict[str, Step]:
    """The two steps of a side."""

    def forward() -> None:
        with torch.no_grad(), use_backend(form):
            call()

    def both() -> None:
        with use_backend(form):
            torch.autograd.grad(call(), inputs, gradients)

    return {"forward": forward, "both": both}


def copies(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, Step]:
    """Copies that move the bytes that a step must: of inputs and outputs, then of those and the gradients."""
    once = sum(t.numel() for t in (*inputs, *outputs))
    # Backward: the gradient of the output and the inputs again are read, the gradients of the inputs are written.
    again = once + sum(t.numel() for t in inputs)
    moved = {"forward": once, "both": once + again}
    pairs = {mode: torch.zeros(2, count // 2, device=inputs[0].device) for mode, count in moved.items()}
    return {mode: lambda p=pair: p[0].copy_(p[1]) for mode, pair in pairs.items()}


def forms(device: str) -> tuple[Backend, ...]:
    return ("numba", "torch") if device == "cpu" else ("triton", "torch")


def left_out(case: Case) -> set[str]:
    """The sides that would take too much memory, or too long."""
    row = 4 * case.batch * case.tokens * case.width
    extra = {  # tensors of ``row`` bytes that forward + backward hold at the worst moment, as small sizes tell
        "diagonal": {"numba": 3, "triton": 3, "copy": 4, "cumsum": 4, "mambapy": 6, "torch": 10},
        "selective": {
            **dict.fromkeys(("numba", "triton", "copy"), 5 * DIRECTIONS),
            "mambapy": 4.5 * DIRECTIONS * case.states,
            "torch": 12 * DIRECTIONS * case.states * min(1, 256 / case.tokens) + 50,  # 256 tokens at once
        },
        "ssd": {"numba": 8, "triton": 8, "copy": 8, "torch": 16},
    }[case.kind]
    peers = ("mambapy", "torch")
    sides = {name for name, count in extra.items() if count * row > (PEER_LIMIT if name in peers else OWN_LIMIT)}
    return sides | ({"loop"} if case.tokens > LOOP_TOKENS else set())


def diagonal(case: Case, device: str) -> tuple[Sides, int]:
    """The sides, and the bytes of the inputs."""
    shape = case.batch, case.tokens, case.width
    a = (0.9 + 0.1 * torch.rand(shape, device=device)).requires_grad_()
    b = torch.randn(shape, device=device, requires_grad=True)
    grad = (torch.randn(shape, device=device),)
    skipped = left_out(case)
    sides: Sides = {
        name: modes(lambda: [linear_recurrence(a, b)], (a, b), grad, name)
        for name in forms(device)
        if name not in skipped
    }
    if device == "cpu":
        sides["cumsum"] = modes(lambda: [b.cumsum(1)], (b,), grad)
        if "mambapy" not in skipped:
            from mambapy.pscan import pscan

            sides["mambapy"] = modes(lambda: [pscan(a[..., None], b[..., None])[..., 0]], (a, b), grad)
    elif "copy" not in skipped:
        sides["copy"] = copies((a, b), grad)
    if "loop" not in skipped:
        sides["loop"] = modes(lambda: [linear_recurrence_reference(a, b)], (a, b), grad)
    return {k: v for k, v in sides.items() if k not in skipped}, 4 * (a.numel() + b.numel())


def selective(case: Case, device: str) -> tuple[Sides, int]:
    """The sides, and the bytes of the inputs."""
    batch, tokens, states, skipped = case.batch, case.tokens, case.states, left_out(case)

    def inputs(width: int, groups: tuple[int, ...]) -> tuple[Tensor, ...]:
        x = torch.randn(batch, tokens, width, device=device)
        dt = 0.001 + 0.1 * torch.rand(batch, tokens, width, device=device)
        A = -torch.arange(1.0, states + 1, device=device).repeat(width, 1)
        B, C = (torch.randn(batch, tokens, *groups, states, device=device) for _ in range(2))
        return tuple(t.requires_grad_() for t in (x, dt, A, B, C, torch.ones(width, device=device)))

    own = inputs(DIRECTIONS * case.width, (DIRECTIONS,))
    grad = (torch.randn_like(own[0]),)
    sides: Sides = {
        name: modes(lambda: [selective_scan(*own)], own, grad, name) for name in forms(device) if name not in skipped
    }
    if device != "cpu":
        sides["copy"] = copies(own, grad)
    elif "mambapy" not in skipped:
        from mambapy.pscan import pscan

        def one(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
            decay = torch.exp(dt.unsqueeze(-1) * A)
            h = pscan(decay, dt.unsqueeze(-1) * B.unsqueeze(2) * x.unsqueeze(-1))
            return (h @ C.unsqueeze(-1)).squeeze(3) + D * x

        each = [inputs(case.width, ()) for _ in range(DIRECTIONS)]
        flat = [t for direction in each for t in direction]
        grads = [torch.randn_like(direction[0]) for direction in each]
        sides["mambapy"] = modes(lambda: [one(*direction) for direction in each], flat, grads)
    return {k: v for k, v in sides.items() if k not in skipped}, 4 * sum(t.numel() for t in own)


def ssd(case: Case, device: str) -> tuple[Sides, int]:
    """The sides, and the bytes of the inputs."""
    batch, tokens, width, states = case.batch, case.tokens, case.width, case.states
    heads = width // HEAD
    made = (
        torch.randn(batch, tokens, width, device=device),
        0.001 + 0.1 * torch.rand(batch, tokens, heads, device=device),
        -1 - 15 * torch.rand(heads, device=device),
        torch.randn(batch, tokens, states, device=device),
        torch.randn(batch, tokens, states, device=device),
        torch.ones(width, device=device),
    )
    own = tuple(t.requires_grad_() for t in made)
    grad = (torch.randn_like(own[0]),)
    sides: Sides = {name: modes(lambda: [selective_scan(*own)], own, grad, name) for name in forms(device)}
    if device != "cpu":
        sides["copy"] = copies(own, grad)
    skipped = left_out(case)
    return {k: v for k, v in sides.items() if k not in skipped}, 4 * sum(t.numel() for t in own)


KINDS = {"diagonal": diagonal, "selective": selective, "ssd": ssd}


def products(case: Case) -> dict[str, float]:
    """Operations of the matrix products of the chunked matrix form, chunks of Q = 64 tokens, one group.

    Forward, a token: C B^T (2 Q S), the decayed scores times the values (2 Q D), what a chunk adds to the state
    (2 D S), what the state gives to the outputs (2 D S). Backward: five products within a chunk (C B^T again, gradient
    times values, scores times gradient; the gradients of B and of C from that of the scores) and four with a state
    (its gradient; what it gives to values, B and C).
    """
    within, scores, state = 2 * CHUNK * case.width, 2 * CHUNK * case.states, 2 * case.width * case.states
    forward = scores + within + 2 * state
    backward = 2 * within + 3 * scores + 4 * state
    count = case.batch * case.tokens
    return {"forward": count * forward, "both": count * (forward + backward)}


def cases(quick: bool) -> Iterator[Case]:
    tokens, widths, batches = ((64, 1024, 4096), (256,), (1,)) if quick else (TOKENS, (256, 512), (1, 16))
    for kind in ("diagonal", "selective"):
        for width in widths:
            for batch in batches:
                for n in tokens:
                    yield Case(kind, width, STATES if kind == "selective" else 1, batch, n)
    for width in widths:
        for states in (16, 64):
            for n in tokens:
                if n >= 1024:
                    yield Case("ssd", width, states, 1, n)


def measure(case: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every side and number of threads."""
    device = options.device
    sides, size = KINDS[case.kind](case, device)
    if not sides:
        return []
    torch.set_num_threads(options.threads[-1])
    memory = {name: {mode: peak(step, device) / size for mode, step in both.items()} for name, both in sides.items()}
    left, right = torch.randn(2, MATRIX, MATRIX, device=device)
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        best: dict[str, dict[str, float]] = {name: dict.fromkeys(sides[name], math.inf) for name in sides}
        spent, product = dict.fromkeys(sides, 0.0), math.inf
        for _ in range(options.rounds):
            running = [name for name in sides if spent[name] < options.seconds]
            if running and case.kind == "ssd":
                product = min(product, timed(lambda: left @ right, device))
            for name in running:
                for mode, step in sides[name].items():
                    for _ in range(1 if best[name][mode] > SHORT else 3):
                        seconds = timed(step, device)
                        spent[name] += seconds
                        best[name][mode] = min(best[name][mode], seconds)
        for name, found in best.items():
            row: dict[str, Any] = {**case._asdict(), "threads": threads, "side": name}
            for mode in MODES:
                row[f"{mode}_ms"] = 1e3 * found[mode]
                row[f"{mode}_memory"] = memory[name][mode]
            if case.kind == "ssd":
                rate = 2 * MATRIX**3 / product
                row["matmul_gigaflop_per_second"] = rate / 1e9
                for mode, operations in products(case).items():
                    row[f"{mode}_products_ms"] = 1e3 * operations / rate
            rows.append(row)
            figures = "  ".join(f"{row[f'{m}_ms']:9.3f} ms {row[f'{m}_memory']:5.2f}x" for m in MODES)
            print(f"{case} threads={threads} {name:8} {figures}", flush=True)
    return rows


COLD = """
import json, time
import torch
from pochade.nn.scan import backend, linear_recurrence, selective_scan

times = {}

def first(name, step):
    start = time.perf_counter()
    result = step()
    times[name] = time.perf_counter() - start
    return result

first("loading numba", lambda: backend("cpu"))
x, dt, A, B, C = (torch.rand(*s) for s in ((1, 64, 64), (1, 64, 64), (64, 16), (1, 64, 16), (1, 64, 16)))
x.requires_grad_()
h = first("linear_recurrence, forward", lambda: linear_recurrence(dt, x))
first("linear_recurrence, backward", lambda: h.sum().backward())
y = first("selective_scan, forward", lambda: selective_scan(x, dt, -A, B, C))
first("selective_scan, backward", lambda: y.sum().backward())
print(json.dumps(times))
"""


def cold_start() -> dict[str, dict[str, float]]:
    """Seconds of the first calls in new processes: without compiled code on disk, then with it."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "POCHADE_SCAN": ""}
        for name in ("empty", "warm"):
            command = [sys.executable, "-c", COLD]
            found[name] = json.loads(subprocess.check_output(command, env=environment, text=True))
    return found


def ratios(
    rows: Sequence[dict[str, Any]], kind: str, side: str, value: Callable[[dict[str, Any], dict[str, Any]], float]
) -> dict[str, float]:
    """Where -> ``value`` of our row and that of ``side`` at the same size."""
    keys = (*Case._fields, "threads")
    ours = {tuple(r[k] for k in keys): r for r in rows if r["side"] in ("numba", "triton") and r["kind"] == kind}
    theirs = {tuple(r[k] for k in keys): r for r in rows if r["side"] == side and r["kind"] == kind}
    return {place(ours[at]): value(ours[at], theirs[at]) for at in ours if at in theirs}


def place(row: dict[str, Any]) -> str:
    states = f", S = {row['states']}" if row["kind"] == "ssd" else ""
    return f"N = {row['tokens']}, D = {row['width']}{states}, batch {row['batch']}, {row['threads']} thread(s)"


def target(name: str, limit: float, found: dict[str, float], *, at_least: bool = False) -> dict[str, Any] | None:
    """Whether what was found keeps to a limit everywhere, and where it is worst; None where nothing was found."""
    if not found:
        return None
    held = sum(value >= limit if at_least else value <= limit for value in found.values())
    worst = (min if at_least else max)(found, key=lambda at: found[at])
    named = {"name": name, "at_least": at_least, "limit": limit}
    return {**named, "sizes": len(found), "held": held, "worst": found[worst], "where": worst}


def targets(rows: Sequence[dict[str, Any]], cold: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What was aimed at, beside what was found."""
    long = [r for r in rows if r["tokens"] >= 1024]
    own = [r for r in rows if r["side"] in ("numba", "triton")]
    memory = {place(r): r["both_memory"] for r in own if r["kind"] == "selective"}
    shares: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    slowest_to_fastest: dict[str, float] = {}
    for mode in MODES:
        tokens: dict[str, list[float]] = {}
        for r in own:
            if r["kind"] == "ssd":
                shares[mode][place(r)] = r[f"{mode}_products_ms"] / r[f"{mode}_ms"]
                at = place(r).partition(", ")[2] + (", forward" if mode == "forward" else ", forward + backward")
                tokens.setdefault(at, []).append(r[f"{mode}_ms"] / r["tokens"])
        slowest_to_fastest |= {at: max(each) / min(each) for at, each in tokens.items()}

    def faster(kind: str, side: str, mode: str, among: Sequence[dict[str, Any]] = rows) -> dict[str, float]:
        return ratios(among, kind, side, lambda ours, peer: peer[f"{mode}_ms"] / ours[f"{mode}_ms"])

    found = [
        target("diagonal, forward: cumsum / pochade", 1, faster("diagonal", "cumsum", "forward"), at_least=True),
        target(
            "diagonal, forward + backward, N ≥ 1024: mambapy / pochade",
            6,
            faster("diagonal", "mambapy", "both", long),
            at_least=True,
        ),
        target(
            "Mamba-1, four directions, forward + backward: mambapy / pochade",
            10,
            faster("selective", "mambapy", "both"),
            at_least=True,
        ),
        target("Mamba-1, four directions: extra memory / inputs", 3, memory),
        target("SSD, time a token from N = 1024 to 16,384: slowest / fastest", 1.15, slowest_to_fastest),
        target("SSD, forward: share of the matrix-product rate", 0.6, shares["forward"], at_least=True),
        target("SSD, forward + backward: share of the matrix-product rate", 0.6, shares["both"], at_least=True),
        target(
            "first calls, nothing compiled: seconds", 2, {"a new process": sum(cold["empty"].values())} if cold else {}
        ),
        target(
            "diagonal, forward: pochade / a copy of the same bytes",
            1.5,
            ratios(rows, "diagonal", "copy", lambda ours, copy: ours["forward_ms"] / copy["forward_ms"]),
        ),
    ]
    return [t for t in found if t]


def versions(device: str) -> dict[str, str]:
    from importlib.metadata import version

    packages = ("torch", "numba", "mambapy") if device == "cpu" else ("torch", "triton")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def main() -> None:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="at most so many")
    parser.add_argument("--seconds", type=float, default=0.5, help="a side takes part until it has used so much")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds, to see that all works")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, cores)}))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=DOCS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 5), min(options.seconds, 0.2)
    if options.device != "cpu":
        options.threads = [torch.get_num_threads()]
    torch.manual_seed(0)
    rows = [row for case in cases(options.quick) for row in measure(case, options)]
    cold = cold_start() if options.device == "cpu" else {}
    record = {
        "benchmark": "scans",
        "processor": processor(options.device),
        "cores": cores,
        "threads": options.threads,
        "versions": versions(options.device),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "quick": options.quick,
        "targets": targets(rows, cold),
        "cold_start": cold,
        "rows": rows,
    }
    name = "scans" if options.device == "cpu" else f"scans_{options.device}"
    write_text(options.output / "benchmarks" / f"{name}.json", json.dumps(record, indent=1) + "\n")
    draw(record, options.output / "images" / f"benchmarks-{name.replace('_', '-')}.svg")
    for t in record["targets"]:
        sign = ">=" if t["at_least"] else "<="
        print(f"{t['name']} {sign} {t['limit']}: {t['held']} of {t['sizes']}, worst {t['worst']:.2f} at {t['where']}")


if __name__ == "__main__":
    main()
