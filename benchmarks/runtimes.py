"""A model in every runtime that it exports to: the first picture cold, the next ones warm, size on disk, memory.

    python benchmarks/conversions.py [MODEL ...] [--work build/runtimes]
    python benchmarks/runtimes.py [MODEL ...] [--rounds 5] [--threads 2] [--work build/runtimes]

The first writes the bundles, the second measures those that there are, some seconds each, on a quiet machine. Each has
a process of its own, which starts, loads, samples one picture (cold: from the start of the process, its imports
included), then more of them (warm: the fastest). Memory is the largest resident set of the process; the load before
each measurement is kept with it. Rows that docs/benchmarks/runtimes.json has are not measured again without
``--force``, so that an interrupted run goes on. ``benchmarks/browser.py`` measures the page.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pochade.arguments import EVERYWHERE
from pochade.files import write_json

ROOT = Path(__file__).resolve().parent.parent
DEFAULT, PEER = "open-drawings", "pixart-taesd"
MODELS = (DEFAULT, "lrf-openmoji", "iris-nano", "lira-nano", "microforge-nano", PEER)
"""The default, the nano of every family, and a peer of the default (``benchmarks/peer.py``), of random weights."""
FORMS = {
    "PyTorch, float32": None,
    "ONNX Runtime, float32": ("onnx", "fp32"),
    "ONNX Runtime, int8": ("onnx", "int8"),
    "OpenVINO, float32": ("openvino", "fp32"),
    "OpenVINO, int8": ("openvino", "int8"),
    "ExecuTorch, float32": ("executorch", "fp32"),
    "ExecuTorch, int8": ("executorch", "int8"),
    "LiteRT, float32": ("litert", "fp32"),
    "LiteRT, int8": ("litert", "int8"),
}
"""Row -> target and precision; None is the model itself."""
PROMPT, STEPS, SEED = "a red apple", 4, 7


def eager(model: str, threads: int) -> Any:
    import torch

    from pochade import TextToImagePipeline

    torch.set_num_threads(threads)
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe(
        PROMPT, num_inference_steps=STEPS, guidance_interval=EVERYWHERE, generator=torch.Generator().manual_seed(SEED)
    )


def bundled(folder: str, threads: int) -> Any:
    from pochade.runtime import Bundle
    from pochade.runtime.engines import OPENERS
    from pochade.runtime.manifest import read_manifest

    if read_manifest(Path(folder)).target in OPENERS:
        bundle = Bundle(folder, threads=threads)
    else:
        from pochade.export.targets import open_bundle

        bundle = open_bundle(folder, threads=threads)
    return lambda: bundle.generate(PROMPT, seed=SEED, steps=STEPS, guidance_interval=EVERYWHERE)


def measure(kind: str, place: str, threads: int, rounds: int, start: float) -> None:
    """The work of one process; its figures as JSON on the last line that it prints."""
    sample = (eager if kind == "eager" else bundled)(place, threads)
    sample()
    cold = time.time() - start
    times: list[float] = []
    for _ in range(rounds):
        before = time.perf_counter()
        sample()
        times.append(time.perf_counter() - before)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps({"cold_s": cold, "warm_s": min(times), "memory_mb": peak}))


def size(folder: Path) -> float:
    """MB of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def place(work: Path, model: str, target: str, precision: str) -> Path:
    """The folder of a bundle."""
    return work / f"{model}-{target}-{precision}"


def row(form: tuple[str, str] | None, model: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """The figures of one model in one form; None where there is no such bundle."""
    from pochade.pipelines import hub

    if form is not None:
        folder, kind = place(options.work, model, *form), "bundle"
    elif model != PEER:
        folder, kind = Path(hub.resolve(model)), "eager"
    else:
        return None
    if not folder.exists():
        return None
    load = os.getloadavg()[0]
    given = [kind, str(folder), str(options.threads), str(options.rounds), str(time.time())]
    done = subprocess.run([sys.executable, __file__, "--measure", *given], check=False, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "disk_mb": size(folder), "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=5, help="warm pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "runtimes", help="folder of the bundles")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "runtimes.json")
    parser.add_argument("--only", help="rows whose name has this")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    options = parser.parse_args()

    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    record |= {"steps": STEPS, "threads": options.threads, "processor": processor()}
    for model in options.models or MODELS:
        rows = record.setdefault("models", {}).setdefault(model, {})
        for name, form in FORMS.items():
            if (name in rows and not options.force) or (options.only and options.only not in name):
                continue
            found = row(form, model, options)
            print(f"{model}, {name}: {'no bundle' if found is None else found}", flush=True)
            if found is not None:
                rows[name] = found
                write_json(options.out, record)


def processor() -> str:
    """The model of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        what, where, threads, rounds, start = sys.argv[2:]
        measure(what, where, int(threads), int(rounds), float(start))
    else:
        main()
