"""How fast batches of cached latents with text are drawn, and what a large cache costs to open.

    python benchmarks/loader.py

Writes docs/benchmarks/loader.md and .json. Samples are 16 x 16 x 16 latents with one of 4 captions of 12 to 20 tokens
of 384 numbers. "Before" are the figures of the loader with a generator and a loop for every sample, on two quiet cores
of the same machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from measuring import processor
from pochade.data.cache import latents as latents_module
from pochade.data.cache.latents import CachedLatents, LatentEncoders, cache_latents
from pochade.data.cache.part_cache import INDEX, part_path, stamp
from pochade.data.cache.parts import KEYS, LENGTHS
from pochade.data.dataset import Dataset, Item
from pochade.data.samples import Samples
from pochade.denoisers import build
from pochade.files import write_text
from pochade.nn.keyed_random import keyed_normal, permuted, sample_keys
from pochade.tensors import write_tensors
from pochade.training.loader import Loader, draw
from pochade.training.stages.flow import FlowSettings, FlowTask, draw_flow
from pochade.types import TextEncoding

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
SHAPE, TEXT_DIM, LONGEST, CAPTIONS = (16, 16, 16), 384, 20, 4
BEFORE = {"loader": 28_000, "draws": 54_000}
"""Rows a second of the loader and of the tasks' draws before."""
LARGE = 10_000_000
"""Pictures of the cache that is opened without its data."""
LARGE_PART, LARGE_TEXT_PART = 2048, 8192


class Numbered(Dataset):
    """Pictures that are known by their number alone."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def item(self, index: int) -> Item:
        captions = tuple(f"picture {index}, caption {number}" for number in range(CAPTIONS))
        return Item(str(index), captions, None, str(index), "train")

    def image(self, index: int, size: int) -> Image.Image:
        return Image.new("RGB", (size, size), (index % 256, index // 256 % 256, 0))

    def identity(self, index: int) -> str:
        return sha256(str(index).encode()).hexdigest()

    def fingerprint(self) -> str:
        return self.identity(self.count)


def encode_images(images: Tensor) -> Tensor:
    return keyed_normal(torch.arange(len(images)), SHAPE)


def encode_text(captions: Sequence[str]) -> TextEncoding:
    lengths = torch.tensor([12 + len(caption) % (LONGEST - 11) for caption in captions])
    tokens = keyed_normal(torch.arange(len(captions)), (LONGEST, TEXT_DIM))
    return TextEncoding(tokens, torch.arange(LONGEST) < lengths[:, None], tokens[:, 0])


def fastest(step: Callable[[], Any], rounds: int) -> float:
    """Seconds of processor time, of this thread, of the fastest of some rounds: others may use the machine too."""
    seconds: list[float] = []
    for _ in range(rounds):
        start = time.thread_time()
        step()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def samples_per_second(samples: Samples, batch: int, rounds: int) -> int:
    """Of what the thread of a loader does, over an epoch; the first one is not counted."""

    def epoch() -> None:
        for first in range(0, len(samples), batch):
            draw(samples, 1, range(first, first + batch), batch)

    epoch()
    return round(-(-len(samples) // batch) * batch / fastest(epoch, rounds))


def step_shares(samples: CachedLatents, batch: int, steps: int) -> dict[str, float]:
    """Of steps of LRF nano: their seconds, and the shares that are waited for data and spent on the draws."""
    torch.manual_seed(0)
    options = {"latent_channels": SHAPE[0], "sample_size": SHAPE[1], "text_dim": TEXT_DIM, "pooled_dim": TEXT_DIM}
    settings = FlowSettings()
    task = FlowTask(build("lrf", "nano", **options), settings)
    optimizer = torch.optim.AdamW(task.trainable().parameters(), fused=True)
    loader = Loader(samples, seed=1, batch_size=batch, start=0, stop=steps + 2)
    waited = spent = drawn = 0.0
    batches = iter(loader)
    for number in range(steps + 2):
        start = time.perf_counter()
        found = next(batches)
        there = time.perf_counter()
        draw_flow(found["latents"], found["seed"], settings)
        done = time.perf_counter()
        task(found)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if number >= 2:  # the first two warm up
            waited, drawn = waited + there - start, drawn + done - there
            spent += time.perf_counter() - done + there - start
    loader.close()
    return {"seconds": spent / steps, "waited": waited / spent, "draws": drawn / spent}


def write_large(folder: Path) -> None:
    """A finished cache of ``LARGE`` pictures, its parts of their true size but empty, its tables true ones of zeros."""
    captions = CAPTIONS * LARGE
    row = 2 * TEXT_DIM * LONGEST + 2 * TEXT_DIM
    for name, rows, part, size in (
        ("images", LARGE, LARGE_PART, 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]),
        ("captions", captions, LARGE_TEXT_PART, row),
    ):
        (folder / name).mkdir(parents=True)
        paths = [part_path(folder / name, number) for number in range(-(-rows // part))]
        for path in paths:
            with path.open("wb") as file:
                file.truncate(part * size)
        is_text = name == "captions"
        shapes = {"tokens": [TEXT_DIM], "pooled": [TEXT_DIM], "caption": []} if is_text else {"latents": list(SHAPE)}
        tables = {KEYS: torch.zeros(rows, 16, dtype=torch.uint8), "#stamps": torch.tensor([stamp(p) for p in paths])}
        for ragged in ("tokens", "caption") if is_text else ():
            tables[ragged + LENGTHS] = torch.zeros(rows, dtype=torch.int32)
            tables[ragged + "#starts"] = torch.zeros(rows, dtype=torch.int64)
        longest = {"tokens": LONGEST, "caption": 40} if is_text else {}
        about = {"rows": rows, "part": part, "shapes": shapes, "longest": longest}
        write_tensors(folder / name / INDEX, tables, {"about": json.dumps(about)})
    lengths = {"image_row": LARGE, "label": LARGE, "name_first": LARGE + 1, "caption_first": LARGE + 1}
    tables = {name: torch.zeros(length, dtype=torch.int64) for name, length in lengths.items()}
    tables |= {"caption_row": torch.zeros(captions, dtype=torch.int64), "name": torch.zeros(10, dtype=torch.uint8)}
    tables[KEYS] = torch.zeros(LARGE, 16, dtype=torch.uint8)
    about = {"dataset": "", "images": "images", "captions": "captions"}
    write_tensors(folder / "latents" / INDEX, tables, {"about": json.dumps(about)})


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opened(folder: Path) -> dict[str, float]:
    """Seconds and bytes that opening that cache takes."""
    before, start = resident(), time.perf_counter()
    found = CachedLatents.find(folder / "latents")
    seconds = time.perf_counter() - start
    assert found is not None
    assert found.pictures == LARGE
    return {"pictures": LARGE, "seconds": seconds, "bytes": resident() - before}


def measure(pictures: int, batch: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)  # as a training step leaves it to the loader's thread
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoders = LatentEncoders(encode_images, "random", encode_text, "random")
        text = cache_latents(Numbered(pictures), 8, encoders, folder)
        found: dict[str, Any] = {"samples per second": {"with text": samples_per_second(text, batch, rounds)}}
        separate = scattered(pictures, encoders, folder / "separate")
        rates = found["samples per second"]
        rates["with text, each sample in another file"] = samples_per_second(separate, batch, rounds)
        keys = sample_keys(1, torch.arange(batch))
        z_0 = text.batch(permuted(1, torch.arange(batch), pictures), keys)["latents"]
        assert isinstance(z_0, Tensor)
        found["samples per second"]["draws"] = round(batch / fastest(lambda: draw_flow(z_0, keys, FlowSettings()), 20))
        torch.set_num_threads(os.cpu_count() or 1)
        found["step of LRF nano"] = {"batch": 32, **step_shares(text, 32, 12)}
    return found


def scattered(pictures: int, encoders: LatentEncoders, folder: Path) -> CachedLatents:
    """The same cache in parts so small that hardly two samples of a batch share one."""
    build_cache = latents_module.build_cache

    def with_small_parts(contents: Any, *given: Any, **options: Any) -> Any:
        rows = max(1, len(contents.keys) // 2048)
        return build_cache(type(contents)(**{**vars(contents), "part": rows}), *given, **options)

    latents_module.build_cache = with_small_parts
    try:
        return cache_latents(Numbered(pictures), 8, encoders, folder)
    finally:
        latents_module.build_cache = build_cache


def table(found: dict[str, Any]) -> str:
    rates, step, large = found["samples per second"], found["step of LRF nano"], found["large cache"]
    held = LARGE * (4 * np.prod(SHAPE) + CAPTIONS * 2 * TEXT_DIM * 17)
    lines = [
        f"Measured on {found['processor']}, {found['cores']} cores (load average {found['load']:.1f}), with "
        "`python benchmarks/loader.py`. Samples are 16 x 16 x 16 latents with text; their rates are per second of "
        "processor time of one thread, those of before are of a quiet machine.",
        "",
        "| | before | now |",
        "|---|---:|---:|",
        f"| loader, samples per second | {BEFORE['loader']:,} | {rates['with text']:,} |",
        f"| the same, each sample in another file | | {rates['with text, each sample in another file']:,} |",
        f"| noise, times and dropout, samples per second | {BEFORE['draws']:,} | {rates['draws']:,} |",
        f"| waited for data in a step of LRF nano (batch 32, {step['seconds']:.2f} s) | | {step['waited']:.2%} |",
        f"| its draws | | {step['draws']:.2%} |",
        f"| opening a cache of {LARGE:,} pictures, seconds | | {large['seconds']:.2f} |",
        f"| its memory, MB | {held / 1e6:,.0f} | {large['bytes'] / 1e6:,.0f} |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)  # in a process of its own: its memory is measured
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(opened(options.open)))
        return
    found = measure(options.pictures, options.batch, options.rounds)
    with tempfile.TemporaryDirectory() as name:
        write_large(Path(name))
        command = [sys.executable, __file__, "--open", name]
        found["large cache"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found |= {"before": BEFORE, "processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(table(found))
    write_text(options.out / "loader.md", table(found))
    write_text(options.out / "loader.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
