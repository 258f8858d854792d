"""Autoencoders at equal bytes of latent, beside JPEG and WebP in files of as many bytes.

    python benchmarks/autoencoders.py --autoencoder f16=runs/f16/model --autoencoder f8=lrf-openmoji@176

NAME=SOURCE[@PIXELS]: SOURCE as in a recipe's task.autoencoder; with @PIXELS the picture is reduced to so many pixels a
side before it is coded, and what is decoded is enlarged again, so that autoencoders of different compression come to
the same bytes. Latents are rounded to 8 bits. Writes docs/benchmarks/autoencoders.md and .json, and
docs/images/autoencoders.png (--name changes these names).
"""

import argparse
import io
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from measuring import write_png
from pochade.data.sources import open_source
from pochade.evaluation.reconstruction import psnr, sharpness, ssim
from pochade.features.lite0 import load_lite0
from pochade.features.perceptual import PerceptualLoss
from pochade.files import write_text
from pochade.images.decode import to_image, to_tensor
from pochade.images.sheets import sheet
from pochade.pipelines.autoencoders import load_autoencoder

DOCS = Path(__file__).parents[1] / "docs"
MEASURES = ("psnr", "ssim", "perceptual", "sharpness")
RANGE = 4.0
"""Latents are rounded within so many deviations of their channel on either side; beyond they are clipped."""
NEAR = 0.9
"""Autoencoders whose bytes differ by no more than this share the files that they are compared with."""
SHOWN = 8
BATCH = 8
CODECS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "optimize": True},
    "WebP": {"format": "WEBP", "method": 6},
}


@dataclass
class Entry:
    """One way to code the pictures, and the means and standard errors of what came back."""

    name: str
    pixels: int
    """Rows and columns of what was coded; of a codec, of most pictures."""
    bytes: float
    """Of a picture; of a codec, the mean."""
    kind: str
    parameters: int = 0
    ceiling: float | None = None
    """Of an autoencoder that was given reduced pictures: the PSNR that the reduction alone leaves."""
    reduced: dict[str, int] = field(default_factory=dict)
    """Of a codec: pictures that did not fit at the lowest quality, by the factor of their reduction."""
    means: dict[str, float] = field(default_factory=dict)
    standard_errors: dict[str, float] = field(default_factory=dict)


def rounded(latents: Tensor) -> Tensor:
    """Latents [B, C, H, W] of unit variance in each channel, in 256 levels from -``RANGE`` to ``RANGE``."""
    levels = ((latents.clamp(-RANGE, RANGE) + RANGE) * (255 / (2 * RANGE))).round()
    return levels * (2 * RANGE / 255) - RANGE


def resized(image: Image.Image, side: int) -> Image.Image:
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


@torch.no_grad()
def reconstructed(autoencoder: Any, pictures: list[Image.Image], pixels: int) -> list[Image.Image]:
    """What comes back from rounded latents, at the size of the pictures."""
    back: list[Image.Image] = []
    for start in range(0, len(pictures), BATCH):
        images = torch.stack([to_tensor(resized(picture, pixels)) for picture in pictures[start : start + BATCH]])
        decoded = autoencoder.decode(rounded(autoencoder.encode(images)))
        back += [resized(to_image(image), pictures[0].width) for image in decoded]
    return back


def smallest(codec: str) -> int:
    """Bytes of a file that holds next to nothing."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, quality=0, **CODECS[codec])
    return file.tell()


def coded(picture: Image.Image, codec: str, limit: int) -> tuple[bytes, int]:
    """The file of at most ``limit`` bytes of the highest quality, and the factor by which its sides had to shrink.

    ``limit`` is at least ``smallest``.
    """
    for factor in (2**i for i in range(picture.width.bit_length())):
        smaller = resized(picture, picture.width // factor)
        best, low, high = b"", 0, 100
        while low <= high:
            quality = (low + high) // 2
            file = io.BytesIO()
            smaller.save(file, quality=quality, **CODECS[codec])
            if file.tell() <= limit:
                best, low = file.getvalue(), quality + 1
            else:
                high = quality - 1
        if best:
            return best, factor
    raise SystemExit(f"{codec}: {limit} bytes hold no picture")


def psnr_of(back: list[Image.Image], pictures: list[Image.Image]) -> float:
    """The mean over pictures."""
    values = [psnr(to_tensor(a)[None], to_tensor(b)[None]).clamp(max=60) for a, b in zip(back, pictures, strict=True)]
    return float(torch.cat(values).mean())


def measure(entry: Entry, back: list[Image.Image], pictures: list[Image.Image], perceptual: PerceptualLoss) -> None:
    """Fills in means and standard errors."""
    columns: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    for start in range(0, len(pictures), BATCH):
        a, b = (torch.stack([to_tensor(x) for x in part[start : start + BATCH]]) for part in (back, pictures))
        columns["psnr"].append(psnr(a, b).clamp(max=60).double())
        columns["ssim"].append(ssim(a, b))
        with torch.no_grad():
            columns["perceptual"].append(perceptual.per_image(a, b).double())
        columns["sharpness"].append(sharpness(a, b))
    for name, parts in columns.items():
        values = torch.cat(parts)
        entry.means[name] = float(values.mean())
        entry.standard_errors[name] = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def grouped(entries: list[Entry]) -> list[list[Entry]]:
    """Entries of about the same bytes together, the largest first."""
    groups: list[list[Entry]] = []
    for entry in sorted(entries, key=lambda e: -e.bytes):
        if groups and entry.bytes >= NEAR * groups[-1][0].bytes:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def compare(
    pictures: list[Image.Image], codec: str, limit: int, perceptual: PerceptualLoss
) -> tuple[Entry, list[Image.Image]]:
    """A codec at ``limit`` bytes."""
    files = [coded(picture, codec, limit) for picture in pictures]
    size = pictures[0].width
    back = [resized(Image.open(io.BytesIO(data)).convert("RGB"), size) for data, _ in files]
    factors = Counter(factor for _, factor in files)
    reduced = {str(factor): factors[factor] for factor in sorted(factors) if factor > 1}
    usual = factors.most_common(1)[0][0]
    mean = sum(len(data) for data, _ in files) / len(files)
    entry = Entry(codec, size // usual, mean, codec, reduced=reduced)
    measure(entry, back, pictures, perceptual)
    return entry, back


def chosen(source: str, size: int, limit: int | None) -> list[Image.Image]:
    """Held-out pictures, one of each group of variants, in an order drawn once."""
    pictures = open_source(source, "held_out")
    order = np.random.default_rng(0).permutation([variants[0] for variants in pictures.groups().values()])[:limit]
    return [pictures.image(int(index), size) for index in order]


def markdown(groups: list[list[Entry]], about: dict[str, Any]) -> str:
    size, n = about["size"], about["pictures"]

    def cell(entry: Entry, name: str, digits: int) -> str:
        return f"{entry.means[name]:.{digits}f} ± {entry.standard_errors[name]:.{digits}f}"

    def shrunk(entry: Entry) -> str:
        if entry.kind not in CODECS:
            return "-" if entry.ceiling is None else f"all ({entry.ceiling:.1f} dB)"
        return ", ".join(f"{100 * k / n:.0f} % to 1/{factor}" for factor, k in entry.reduced.items()) or "-"

    text = [
        "# Autoencoders at equal bytes",
        f"""`python benchmarks/autoencoders.py` repeats this page. {n} held-out pictures ({about["source"]}) of {size} x
{size} pixels; mean and its standard error. Latents count one byte a number: each is rounded to 256 levels
within {RANGE:g} deviations of its channel on either side, and nothing is packed any further. Files of JPEG and
WebP count whole, each in the highest quality that is no larger than the largest latents of its group; where
even the lowest is, the picture is halved until it fits; a format whose emptiest file is larger is left out.
What was *reduced* is enlarged again (Lanczos) and compared at full size; in brackets the PSNR that reducing and
enlarging alone leave. *Sharpness* is the energy of the high frequencies over the original's: below 1 is blur;
noise and ringing raise it.""",
    ]
    head = "| bytes | what | coded pixels | reduced | compression | PSNR, dB | SSIM | perceptual | sharpness |"
    lines = ["\n\n".join(text), "", head, "|---" * 9 + "|"]
    for group in groups:
        for e in group:
            ratio = 3 * size * size / e.bytes
            measured = f"{cell(e, 'psnr', 2)} | {cell(e, 'ssim', 3)} | {cell(e, 'perceptual', 3)}"
            lines.append(
                f"| {e.bytes:,.0f} | {e.name} | {e.pixels} | {shrunk(e)} | {ratio:.0f} | {measured}"
                f" | {cell(e, 'sharpness', 3)} |"
            )
    return "\n".join(lines) + "\n"


def parsed(text: str, size: int) -> tuple[str, str, int]:
    """NAME=SOURCE[@PIXELS]."""
    name, _, source = text.partition("=")
    place, at, pixels = source.rpartition("@")
    if at and pixels.isdigit():
        return name, place, int(pixels)
    return name, source, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", action="append", required=True, metavar="NAME=SOURCE[@PIXELS]")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--source", default="openmoji")
    parser.add_argument("--limit", type=int, help="pictures; all where it is left out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=DOCS)
    parser.add_argument("--name", default="autoencoders", help="of the files that are written")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = [parsed(text, args.size) for text in args.autoencoder]
    if len({name for name, _, _ in wanted} | set(CODECS)) < len(wanted) + len(CODECS):
        parser.error("--autoencoder: every NAME only once, and none called JPEG or WebP")
    pictures = chosen(args.source, args.size, args.limit)
    perceptual = PerceptualLoss(load_lite0())
    entries: list[Entry] = []
    decoded: dict[str, list[Image.Image]] = {}
    for name, source, pixels in wanted:
        autoencoder = load_autoencoder(source)
        down, channels = int(autoencoder.downsampling), int(autoencoder.config.latent_channels)
        if not down <= pixels <= args.size or pixels % down:
            parser.error(f"--autoencoder {name}: {pixels} pixels given, allowed are multiples of {down} up to --size")
        kind = f"{type(autoencoder).__name__}, f{down}, {channels} channels"
        parameters = sum(p.numel() for p in autoencoder.parameters())
        entry = Entry(name, pixels, channels * (pixels // down) ** 2, kind, parameters)
        decoded[name] = reconstructed(autoencoder, pictures, pixels)
        measure(entry, decoded[name], pictures, perceptual)
        if pixels < args.size:
            entry.ceiling = psnr_of([resized(resized(p, pixels), args.size) for p in pictures], pictures)
        entries.append(entry)
        print(entry, flush=True)
    images, labels = [pictures[:SHOWN]], ["original"]
    groups = grouped(entries)
    for group in groups:
        images += [decoded[e.name][:SHOWN] for e in group]
        labels += [f"{e.name}, {e.bytes:,.0f} bytes" for e in group]
        limit = int(group[0].bytes)
        for codec in (c for c in CODECS if smallest(c) <= limit):
            entry, back = compare(pictures, codec, limit, perceptual)
            group.append(entry)
            images.append(back[:SHOWN])
            labels.append(f"{codec}, {entry.bytes:,.0f} bytes")
            print(entry, flush=True)
    about = {"source": args.source, "size": args.size, "pictures": len(pictures), "range": RANGE}
    text = markdown(groups, about)
    record = {**about, "groups": [[asdict(e) for e in group] for group in groups]}
    write_text(args.output / "benchmarks" / f"{args.name}.md", text)
    write_text(args.output / "benchmarks" / f"{args.name}.json", json.dumps(record, indent=2) + "\n")
    rows = len(images[0])
    cells = [column[row] for row in range(rows) for column in images]
    page = sheet(cells, labels * rows, columns=len(images), cell=128)
    write_png(args.output / "images" / f"{args.name}.png", page)
    print(text)


if __name__ == "__main__":
    main()
