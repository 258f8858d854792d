"""What autoencoders keep of photographs, which the shipped ones have not seen.

    python benchmarks/photographs.py --tiles PHOTOGRAPHS tiles     squares to train on, from a folder of photographs
    python benchmarks/photographs.py --own runs/photographs/1-autoencoder/model --squares pictures:tiles

The test set are eight photographs that scikit-image, scikit-learn and matplotlib carry (licences: docs/photographs.md).
Writes docs/benchmarks/photographs.json, in which rows of other autoencoders stay, and docs/images/photographs.webp.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import skimage
import sklearn
import torch
from PIL import Image

from denoiser_step import count
from measuring import processor
from pochade.data.sources import open_source
from pochade.evaluation.reconstruction import psnr, ssim
from pochade.files import atomic_file, write_json
from pochade.images.decode import MAX_MEGAPIXELS, load_image, square, to_image, to_tensor
from pochade.images.sheets import sheet
from pochade.pipelines.autoencoders import load_autoencoder

DOCS = Path(__file__).parents[1] / "docs"
PHOTOGRAPHS: dict[str, tuple[ModuleType, str]] = {
    "astronaut": (skimage, "data/astronaut.png"),
    "cat": (skimage, "data/chelsea.png"),
    "coffee": (skimage, "data/coffee.png"),
    "rocket": (skimage, "data/rocket.jpg"),
    "motorcycle": (skimage, "data/motorcycle_left.png"),
    "temple": (sklearn, "datasets/images/china.jpg"),
    "flower": (sklearn, "datasets/images/flower.jpg"),
    "admiral": (matplotlib, "mpl-data/sample_data/grace_hopper.jpg"),
}
"""Name -> package and file in it."""
SHIPPED = ("lrf-openmoji", "open-drawings", "iris-nano", "microforge-edit")
"""Those with an autoencoder of their own."""
SHOWN = ("cat", "astronaut", "temple", "flower")
LARGEST = 1200
"""Pixels of the longer side that photographs are reduced to before tiles are cut."""


def photographs(size: int) -> Iterator[tuple[str, Image.Image]]:
    """The test set: the largest square in the middle of each, in pixels of ``size``."""
    for name, (package, file) in PHOTOGRAPHS.items():
        data = (Path(str(package.__file__)).parent / file).read_bytes()
        image, _ = load_image(data, size=size, max_megapixels=MAX_MEGAPIXELS, background=(255, 255, 255), name=name)
        yield name, square(image, size)


def cut(folder: Path, out: Path, size: int) -> int:
    """Squares of all photographs of a folder, at full and at half scale; returns how many."""
    out.mkdir(parents=True)
    number = 0
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as opened:
            whole = opened.convert("RGB")
        for scale in (1.0, 0.5):
            by = scale * min(1.0, LARGEST / max(whole.size))
            image = whole.resize((round(whole.width * by), round(whole.height * by)), Image.Resampling.LANCZOS)
            for top in range(0, image.height - size + 1, size):
                for left in range(0, image.width - size + 1, size):
                    with atomic_file(out / f"{path.stem}-{scale:g}-{top}-{left}.png") as file:
                        image.crop((left, top, left + size, top + size)).save(file, format="PNG")
                    number += 1
    return number


@torch.no_grad()
def measure(
    name: str, images: dict[str, torch.Tensor], squares: Sequence[torch.Tensor]
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """A row of the table, and the photographs as they come back."""
    autoencoder = load_autoencoder(name)
    kept = [
        float(psnr(autoencoder.decode(autoencoder.encode(image[None])).clamp(-1, 1), image[None])) for image in squares
    ]
    size = autoencoder.downsampling
    values: dict[str, float] = {}
    likeness: list[float] = []
    given: dict[str, Image.Image] = {}
    for picture, image in images.items():
        decoded = autoencoder.decode(autoencoder.encode(image[None])).clamp(-1, 1)
        values[picture] = float(psnr(decoded, image[None]))
        likeness.append(float(ssim(decoded, image[None])))
        given[picture] = to_image(decoded[0])
    row = {
        "autoencoder": name,
        "downsampling": size,
        "latent channels": int(autoencoder.config.latent_channels),
        "parameters": count(autoencoder),
        "psnr": values,
        "mean psnr": math.fsum(values.values()) / len(values),
        "mean ssim": math.fsum(likeness) / len(likeness),
        "mean psnr of squares": math.fsum(kept) / len(kept) if kept else None,
    }
    return row, given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", nargs=2, type=Path, metavar=("PHOTOGRAPHS", "OUT"), help="cut squares, and stop")
    parser.add_argument("--tile", type=int, default=128, help="their pixels")
    parser.add_argument("--shipped", nargs="*", default=SHIPPED, help="which of the shipped ones are measured (anew)")
    parser.add_argument("--own", nargs="*", default=[], help="further autoencoders: folders or names on the hub")
    parser.add_argument("--squares", help="a source, such as pictures:squares, whose held-out part is measured, too")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument(
        "--output", type=Path, default=DOCS / "benchmarks" / "photographs.json", help="others stay in it"
    )
    parser.add_argument("--image", type=Path, default=DOCS / "images" / "photographs.webp")
    options = parser.parse_args()
    if options.tiles:
        given, out = options.tiles
        print(cut(given, out, options.tile), "squares")
        return
    pictures = dict(photographs(options.size))
    images = {name: to_tensor(image) for name, image in pictures.items()}
    held_out = open_source(options.squares, "held_out") if options.squares else None
    squares = [to_tensor(held_out.image(i, options.tile)) for i in range(len(held_out))] if held_out else []
    before = json.loads(options.output.read_text()) if options.output.is_file() else {"rows": []}
    rows: dict[str, Any] = {row["autoencoder"]: row for row in before["rows"]}
    shown: list[Image.Image] = [pictures[name] for name in SHOWN]
    labels: list[str] = [*SHOWN]
    for name in (*options.shipped, *options.own):
        row, given = measure(name, images, squares)
        rows[name] = row
        shown += [given[picture] for picture in SHOWN]
        labels += [f"f{row['downsampling']} {row['mean psnr']:.1f} dB"] * len(SHOWN)
        print(json.dumps(row), flush=True)
    about = {"size": options.size, "squares": len(squares), "processor": processor()}
    write_json(options.output, {**about, "rows": list(rows.values())})
    with atomic_file(options.image) as file:
        sheet(shown, labels, columns=len(SHOWN), cell=options.size).save(file, format="WEBP", quality=80)


if __name__ == "__main__":
    main()
