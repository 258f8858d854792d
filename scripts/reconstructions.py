"""A sheet of held-out OpenMoji drawings beside what the shipped autoencoder makes of them.

python scripts/reconstructions.py   writes docs/images/reconstructions.png
"""

from pathlib import Path

import torch

from pochade.data.sources.openmoji import OpenMoji
from pochade.files import atomic_file
from pochade.images.decode import to_image, to_tensor
from pochade.images.sheets import sheet
from pochade.pipelines.autoencoders import load_autoencoder

PAIRS = 24
OUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "reconstructions.png"


def main() -> None:
    data = OpenMoji("held_out")
    firsts = [variants[0] for variants in data.groups().values()]
    images = torch.stack([to_tensor(data.image(i, 64)) for i in firsts[:: -(-len(firsts) // PAIRS)]])
    autoencoder = load_autoencoder("lrf-openmoji")
    with torch.no_grad():
        decoded = autoencoder.decode(autoencoder.encode(images))
    pairs = [to_image(x) for pair in zip(images, decoded, strict=True) for x in pair]
    with atomic_file(OUT) as file:
        sheet(pairs, ["original", "decoded"] * len(images)).save(file, format="PNG")


if __name__ == "__main__":
    main()
