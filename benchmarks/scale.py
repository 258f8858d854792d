"""What grows with the data and what does not: index of shards, cache, loader, checkpoint and resume; the preparation
of shards; and the order of data that are read by windows.

    python benchmarks/scale.py
    python benchmarks/scale.py --only prepare

For 10 thousand to 10 million records: seconds to read the index of their shards, to open their cache, to draw a batch
of 512 from anywhere in it, to write a checkpoint of a network of 5 M parameters, and to find, check and read it and
draw the batch that a resumed run begins with. Records are 8 numbers in float16; nothing is encoded. Least of three.

For a thousand to ten million pictures of 32 x 32 pixels, a thousand a shard: processor seconds to score, compare and
write them (``pochade data prepare folder --size 16 --deduplicate --min-score 0``), and the memory of it, with and
without what is mapped from files, once, each number in a process of its own on one core: on several, threads that have
so little to do wait for each other, which counts as work. For 10 thousand to a billion pictures in shards of a
thousand: processor seconds for the order of the shards of an epoch, and for that of a batch, in windows of as many
shards as a disk of 200 GB takes of 60 MB each. Least of three. Processor time, so that other work on the machine
matters little.

Writes docs/benchmarks/scale.json, with ``--only`` one part of it. Takes two hours and 50 GB of disk, with ``--most
1000000`` 20 minutes and 12 GB, with ``--most 100000`` two minutes and 2 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from measuring import own_memory, processor, resident
from pochade.data.cache.part_cache import Contents, PartCache, part_path, write_index
from pochade.data.cache.parts import DIGEST, KEYS, keys_tensor
from pochade.data.prepare.curate import REPORT, Curation, curate
from pochade.data.prepare.target import png
from pochade.data.prepare.writer import ShardWriter, picture_record
from pochade.data.samples import Batch, Samples
from pochade.data.sources import FolderSource
from pochade.data.sources.formats import INDEX
from pochade.data.sources.tars import find_shards
from pochade.data.windows import Windows
from pochade.files import write_json, write_text
from pochade.tensors import write_tensors
from pochade.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from pochade.training.loader import draw

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
PER_SHARD, PER_PART, NUMBERS, BATCH, ROUNDS = 1000, 8192, 8, 512, 3
PARAMETERS = 5_000_000
PICTURES, SQUARES, SIDE, SIZE = (1_000, 10_000, 100_000, 1_000_000, 10_000_000), 8, 32, 16
MANY = 100_000
STREAMED, WINDOW = tuple(10**n for n in range(4, 10)), 1111


class Records(Samples):
    """Rows of a cache."""

    def __init__(self, cache: PartCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache)

    def batch(self, indices: Tensor, keys: Tensor) -> Batch:
        del keys
        return {"x": self.cache.gather(indices, "x")}


def least(step: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    return min(_seconds(step, clock) for _ in range(ROUNDS))


def write_cache(folder: Path, count: int) -> Path:
    """The files of a finished cache of ``count`` rows; the parts by the dozen, without a checksum."""
    keys = np.random.default_rng(0).integers(0, 256, (count, 16), np.uint8).view("S16")[:, 0]
    contents: Contents[list[int]] = Contents("scale", (), keys, list, lambda _: {}, "", part=PER_PART)
    place = folder / contents.name
    place.mkdir()
    for part in range(contents.parts):
        rows = contents.rows(part)
        values = torch.zeros(len(rows), NUMBERS, dtype=torch.float16) + part
        tensors = {KEYS: keys_tensor(keys[rows.start : rows.stop]), "x": values}
        write_tensors(part_path(place, part), tensors, {DIGEST: ""})
    write_index(place, contents)
    return place


def write_shards(folder: Path, count: int) -> Path:
    """An index of shards, and the shards, empty: what is measured is finding them."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(count // PER_SHARD):
        name = f"{number:06d}.tar"
        (folder / name).touch()
        rows.append({"file": name, "samples": PER_SHARD, "bytes": 0, "sha256": f"{number:064x}"})
    write_json(folder / INDEX, {"shards": rows})
    return folder


def measure(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write_shards(folder / "shards", count)
        found = {"index": least(lambda: find_shards(shards))}
        place = write_cache(folder, count)
        found["open"] = least(lambda: PartCache.find(place))
        cache = PartCache.find(place)
        assert cache is not None
        samples = Records(cache)
        last = 10 * count - BATCH  # of the tenth epoch
        found["first batch"] = _seconds(lambda: draw(samples, 1, range(last, last + BATCH), BATCH))
        found["batch"] = least(lambda: draw(samples, 1, range(last, last + BATCH), BATCH))
        weight = torch.zeros(PARAMETERS)
        network, moments = {"weight": weight}, {"exp_avg/weight": weight, "exp_avg_sq/weight": weight.clone()}
        tensors = {"model": network, "ema": network, "optimizer": moments}
        state = {"samples": count, "loss": 0.0, "position": last}
        run = folder / "run"
        run.mkdir()
        found["checkpoint"] = least(lambda: save_checkpoint(run, 1, tensors, state, 1))

        def resume() -> None:
            path = find_checkpoint(run)
            assert path is not None
            saved = load_checkpoint(path)
            opened = PartCache.find(place)
            assert opened is not None
            start = saved.state["position"]
            draw(Records(opened), 1, range(start, start + BATCH), BATCH)

        found["resume"] = least(resume)
    return found


def write_pictures(folder: Path, count: int) -> None:
    """Noise of 8 x 8 squares, so that ten million pictures fit on the disk."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_pictures, *zip(*((folder, start, count) for start in range(0, count, MANY)), strict=True)))


def _write_pictures(folder: Path, start: int, count: int) -> None:
    with ShardWriter(folder / f"{start // MANY:03d}", samples_per_shard=PER_SHARD) as writer:
        for number in range(start, min(start + MANY, count)):
            noise = np.random.default_rng(number).integers(0, 256, (SQUARES, SQUARES, 3), np.uint8)
            picture = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            writer.add(picture_record(f"{number:08d}", png(picture), ".png", [f"noise {number}"]))


def prepare(folder: Path) -> None:
    """Prints what the pictures in a folder take in this process: processor seconds, and MiB before and at most."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    source, chosen = FolderSource(folder / "in"), Curation(size=SIZE, deduplicate=True, min_score=0)
    start = time.process_time()
    own = list[int]()
    before, most = resident(
        lambda: own.extend(own_memory(lambda: curate(source, folder / "out", chosen, progress=False)))
    )
    seconds = time.process_time() - start
    memory = {"before": before, "peak": most, "own before": own[0], "own peak": own[1]}
    print(json.dumps({"seconds": seconds} | {name: size / 2**20 for name, size in memory.items()}))


def order(count: int) -> dict[str, float]:
    """Processor seconds of a batch of the order, and of the first one of an epoch."""
    sizes, half = [PER_SHARD] * (count // PER_SHARD), count // 2
    batch = torch.arange(half, half + BATCH)
    first = least(lambda: Windows(sizes, WINDOW).order(1, batch), time.process_time)
    windows = Windows(sizes, WINDOW)
    windows.order(1, batch)
    return {"epoch": first, "batch": least(lambda: windows.order(1, batch), time.process_time)}


def _seconds(step: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    step()
    return clock() - start


def loading(most: int) -> dict[str, Any]:
    seconds: dict[str, dict[str, float]] = {}
    for count in (count for count in COUNTS if count <= most):
        seconds[str(count)] = measure(count)
        print(count, {name: round(1e3 * value, 1) for name, value in seconds[str(count)].items()}, flush=True)
    return {"seconds": seconds}


def preparing(most: int) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}
    for count in (count for count in PICTURES if count <= most):
        with tempfile.TemporaryDirectory() as name:
            write_pictures(Path(name) / "in", count)
            command = [sys.executable, __file__, "--prepare", name]
            found[str(count)] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            assert json.loads((Path(name) / "out" / REPORT).read_bytes())["kept"] == count
        print(count, {name: round(value, 2) for name, value in found[str(count)].items()}, flush=True)
    return {"prepare": found}


def ordering(most: int) -> dict[str, Any]:
    seconds: dict[str, dict[str, float]] = {}
    for count in (count for count in STREAMED if count <= most):
        seconds[str(count)] = order(count)
        print(count, {name: round(1e3 * value, 2) for name, value in seconds[str(count)].items()}, flush=True)
    return {"order": seconds}


PARTS = {"loading": loading, "prepare": preparing, "order": ordering}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=STREAMED[-1], help="records at most")
    parser.add_argument("--prepare", type=Path, help="only prepare the pictures of a folder, in this process")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone; the others stay as they are")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    if options.prepare is not None:
        prepare(options.prepare)
        return
    path = options.out / "scale.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if options.only is not None else {}
    for name, measured in PARTS.items():
        if options.only in (None, name):
            load = os.getloadavg()[0]
            where = {"processor": processor(), "cores": os.cpu_count(), "load": load}
            found |= measured(options.most)
            found[f"{name} on"] = where
    write_text(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
