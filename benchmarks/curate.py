"""What it takes to choose pictures: processor seconds and memory by their number.

    python benchmarks/curate.py

Noise of 384 x 384 pixels as JPEG, 125 a shard, is read, scored, hashed, compared and written at 256 x 256
(``pochade data prepare folder --size 256 --deduplicate --min-score 0``), for several numbers of pictures, each in a
process of its own; and hashes alone are compared, of many more. Processor time, so that other work on the machine
matters little.

Then pictures a second of the networks that preparation may use, with random weights of published sizes: a score by
ViT-B/16, a caption of 77 tokens, the longest, by BLIP base, each one picture at a time, and latents of 256 x 256 pixels
by DC-AE f32, as ``pochade cache`` encodes them; on one core, and on the first GPU where there is one.

Writes docs/benchmarks/curate.json; takes three minutes of one core and 2 GB of disk.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from measuring import processor, resident
from pochade.autoencoders.pretrained import PretrainedAutoencoder
from pochade.data.near_duplicates import THUMB, first_alike
from pochade.data.prepare.annotators import captioner, classifier
from pochade.data.prepare.curate import REPORT, Curation, curate
from pochade.data.prepare.writer import ShardWriter, picture_record
from pochade.data.sources import FolderSource
from pochade.device import resolve_device
from pochade.files import write_text

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
COUNTS = (250, 500, 1000)
SEEN = {"cpu": 2, "cuda": 128}
"""Pictures that a network is timed with, after one batch to warm up."""
DC_AE = {
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
}
"""As published for SANA."""
HASHES = (10_000, 100_000, 1_000_000)
SIDE, SIZE, PER_SHARD, BATCH = 384, 256, 125, 64


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
        chosen, start = Curation(size=SIZE, deduplicate=True, min_score=0), time.process_time()
        before, most = resident(lambda: curate(FolderSource(folder / "in"), folder / "out", chosen, progress=False))
        seconds = time.process_time() - start
        assert json.loads((folder / "out" / REPORT).read_bytes())["kept"] == count
    print(json.dumps({"seconds": seconds, "before": before / 2**20, "peak": most / 2**20}))


def networks(folder: Path) -> dict[str, Callable[[int], Any]]:
    """By name, what a network does with so many pictures."""
    import transformers
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(30519))]
    (folder / "vocab.txt").write_text("\n".join(words))
    scoring, describing = str(folder / "score"), str(folder / "caption")
    one_class: Any = transformers.ViTConfig
    transformers.ViTForImageClassification(one_class(num_labels=1)).save_pretrained(scoring)
    transformers.ViTImageProcessor().save_pretrained(scoring)
    blip = transformers.BlipForConditionalGeneration(transformers.BlipConfig())
    bias = blip.text_decoder.cls.predictions.bias.data
    bias[:200] = -1e4  # it never ends a caption
    blip.save_pretrained(describing)
    images = transformers.BlipImageProcessor(size={"height": 384, "width": 384})
    transformers.BlipProcessor(images, transformers.BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(
        describing
    )
    rate, describe = classifier(scoring), captioner(describing)
    device = resolve_device("auto")
    encoder = PretrainedAutoencoder.from_network(AutoencoderDC(**DC_AE))
    nn.Module.to(encoder, device)
    picture = Image.effect_noise((SIDE, SIDE), 64).convert("RGB")

    @torch.no_grad()
    def encode(count: int) -> None:
        for part in torch.zeros(count, 3, SIZE, SIZE).split(BATCH):
            encoder.encode(part.to(device)).cpu()

    return {
        "score": lambda count: [rate(picture) for _ in range(count)],
        "caption": lambda count: [describe(picture) for _ in range(count)],
        "encode": encode,
    }


def models() -> None:
    """Prints the pictures a second of each network, on the GPU where this process sees one, else on one core, of whose
    processor time."""
    device = resolve_device("auto").type
    clock = time.perf_counter if device == "cuda" else time.process_time
    torch.set_num_threads(1)
    on = processor(device)
    found: dict[str, Any] = {"on": on if device == "cuda" else f"a core of {on}"}
    with tempfile.TemporaryDirectory() as name:
        for network, work in networks(Path(name)).items():
            work(min(BATCH, SEEN[device]))
            start = clock()
            work(SEEN[device])
            found[network] = SEEN[device] / (clock() - start)
    print(json.dumps(found))


def run(*arguments: str, **environment: str) -> Any:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, help="only so many pictures, in this process")
    parser.add_argument("--models", action="store_true", help="only the networks, in this process")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    if options.one is not None:
        one(options.one)
        return
    if options.models:
        models()
        return
    pictures: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        pictures[str(count)] = run("--one", str(count))
        print(count, pictures[str(count)], flush=True)
    hashes: dict[str, float] = {}
    for count in HASHES:
        bits = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
        start = time.process_time()
        first_alike(bits, lambda places: np.zeros((len(places), THUMB, THUMB, 3), np.uint8))
        hashes[str(count)] = time.process_time() - start
        print(count, hashes[str(count)], flush=True)
    on = [run("--models", CUDA_VISIBLE_DEVICES="")] + ([run("--models")] if torch.cuda.is_available() else [])
    print(*on, sep="\n", flush=True)
    found = {"processor": processor(), "cores": os.cpu_count(), "pictures": pictures, "hashes": hashes, "models": on}
    write_text(options.out / "curate.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
