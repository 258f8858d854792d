"""What it takes to choose pictures: processor seconds and memory by their number.

    python benchmarks/curate.py

Noise of 384 x 384 pixels as JPEG, 125 a shard, is read, scored, hashed, compared and written at 256 x 256
(``pochade data prepare folder --size 256 --deduplicate --min-score 0``), for several numbers of pictures, each in a
process of its own; and hashes alone are compared, of many more. Processor time, so that other work on the machine
matters little. Writes docs/benchmarks/curate.json; takes two minutes of one core and 0.3 GB of disk.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from measuring import processor
from pochade.data.near_duplicates import THUMB, first_alike
from pochade.data.prepare.curate import Curation, curate
from pochade.data.prepare.writer import ShardWriter, picture_record
from pochade.data.sources import FolderSource
from pochade.files import write_text

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
COUNTS = (250, 500, 1000)
HASHES = (10_000, 100_000, 1_000_000)
SIDE, SIZE, PER_SHARD = 384, 256, 125


def write(folder: Path, count: int) -> None:
    with ShardWriter(folder, samples_per_shard=PER_SHARD) as writer:
        for number in range(count):
            grid = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            writer.add(picture_record(f"{number:07d}", buffer.getvalue(), ".jpg", [f"noise {number}"]))


def one(count: int) -> None:
    """Prints what ``count`` pictures take in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "in", count)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        chosen = Curation(size=SIZE, deduplicate=True, min_score=0)
        report = curate(FolderSource(folder / "in"), folder / "out", chosen, progress=False)
        seconds = time.process_time() - start
        assert report["kept"] == count
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "before": before / 1024, "peak": after / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, help="only so many pictures, in this process")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    if options.one is not None:
        one(options.one)
        return
    pictures: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)], check=True, capture_output=True, text=True
        )
        pictures[str(count)] = json.loads(done.stdout)
        print(count, pictures[str(count)], flush=True)
    hashes: dict[str, float] = {}
    for count in HASHES:
        bits = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
        start = time.process_time()
        first_alike(bits, lambda places: np.zeros((len(places), THUMB, THUMB, 3), np.uint8))
        hashes[str(count)] = time.process_time() - start
        print(count, hashes[str(count)], flush=True)
    found = {"processor": processor(), "cores": os.cpu_count(), "pictures": pictures, "hashes": hashes}
    write_text(options.out / "curate.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
