"""What it costs to begin: time and peak memory of the import, the help, a cold picture, and a warm one.

    python benchmarks/startup.py [--model NAME_OR_FOLDER] [--rounds 3] [--json FILE]

Every row but the last is a new process, measured from outside (wall time, and the largest resident set as
the system counted it). ``cold generate`` samples by the graphs of the model, ``cold generate, PyTorch`` without them.
``bare torch`` is a process that imports torch and nothing else: the ratio to it,
taken in the same run, says more than seconds on a machine that does other things too. Minimum over the
rounds, rows interleaved. Where no model is shipped, one of the same size with random weights stands in.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pochade.files import write_text

MODEL = "lrf-openmoji"
"""The smallest that is shipped, so that the libraries count and not the network."""
LIMITS = {
    "import pochade": (0.2, None),
    "pochade --help": (0.5, None),
    "cold generate": (2.5, 450),
    "cold generate, PyTorch": (10.0, 900),
    "warm call": (1.0, 900),
}
"""Row -> seconds and mebibytes that it must stay below."""

STAND_IN = """
import sys
from pochade import TextToImagePipeline, denoisers, text_encoders
from pochade.autoencoders.tiny import TinyAutoencoder
encoder = text_encoders.load("minilm-l6-v2")
denoiser = denoisers.build("lrf", "nano", text_encoder=encoder.identity)
autoencoder = TinyAutoencoder(denoiser.config.latent_channels)
TextToImagePipeline(autoencoder, denoiser, text_encoder=encoder).save_pretrained(sys.argv[1])
"""

WARM = """
import sys, time, torch
from pochade import TextToImagePipeline
pipe = TextToImagePipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
times, cpus = [], []
for i in range(4):
    start, cpu = time.perf_counter(), time.process_time()
    sampling = {"num_inference_steps": 50, "guidance_scale": 3.0, "guidance_interval": (0.0, 1.0)}
    pipe("a red apple", **sampling, generator=torch.Generator().manual_seed(7))
    times.append(time.perf_counter() - start)
    cpus.append(time.process_time() - cpu)
print(min(times[1:]), min(cpus[1:]))
"""


def measure(command: list[str], cache: Path) -> tuple[dict[str, float], str]:
    """Seconds by the clock and of the processors, mebibytes, and the output of a process with a user's ``cache``."""
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:4])}: exit code {process.returncode}")
        out.seek(0)
        # Linux counts in kilobytes, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        figures = {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "mebibytes": usage.ru_maxrss / unit}
        return figures, out.read()


def main() -> None:
    """Measure, print a table, and say which limits do not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"default: {MODEL}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()

    from pochade.pipelines.hub import shipped

    with tempfile.TemporaryDirectory() as temporary:
        python = sys.executable
        model = options.model or MODEL
        standing_in = not options.model and not shipped()
        cache = Path(temporary) / "cache"
        if standing_in:
            model = str(Path(temporary) / "model")
            # In its own process: the size of this one counts as the least peak of every process that it starts.
            measure([python, "-c", STAND_IN, model], cache)
        measure([python, "-m", "pochade", "export", model], cache)
        sampling = ["--seed", "7", "--steps", "50", "--guidance-interval", "0,1"]
        generate = ["generate", "a red apple", *sampling, "--model", model, "-o"]
        cold = [python, "-m", "pochade", *generate, str(Path(temporary) / "out")]
        commands = {
            "bare python": [python, "-c", "pass"],
            "bare torch": [python, "-c", "import torch"],
            "import pochade": [python, "-c", "import pochade"],
            "pochade --help": [python, "-m", "pochade", "--help"],
            "cold generate": cold,
            "cold generate, PyTorch": [*cold, "--precision", "fp32"],
            "warm call": [python, "-c", WARM, model],
        }
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for name, command in commands.items():
                figures, output = measure(command, cache)
                if name == "warm call":
                    figures["seconds"], figures["cpu"] = (float(v) for v in output.split())
                row = best.setdefault(name, figures)
                best[name] = {key: min(value, figures[key]) for key, value in row.items()}

    torch_seconds = best["bare torch"]["seconds"]
    print(f"model: {'a stand-in with random weights' if standing_in else model}")
    print(f"{'':26s} {'seconds':>8s} {'cpu':>8s} {'MiB':>6s} {'/ torch':>8s}  limit")
    missed = False
    for name, row in best.items():
        row["ratio_to_torch"] = row["seconds"] / torch_seconds
        limit = LIMITS.get(name)
        verdict = ""
        if limit is not None:
            good = row["seconds"] <= limit[0] and (limit[1] is None or row["mebibytes"] <= limit[1])
            missed |= not good
            memory = f", {limit[1]} MiB" if limit[1] else ""
            verdict = f"{limit[0]} s{memory}: {'holds' if good else 'MISSED'}"
        figures = f"{row['seconds']:8.2f} {row['cpu']:8.2f} {row['mebibytes']:6.0f} {row['ratio_to_torch']:8.2f}"
        print(f"{name:26s} {figures}  {verdict}")
    if options.json:
        write_text(options.json, json.dumps(best, indent=2) + "\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
