"""A data set of CIFAR-10's form where its archive is not at hand: 60,000 drawings of 32 px in ten classes.

    python benchmarks/cifar10_stand_in.py stand-in.tar.gz
    pochade train lrf-cifar10 data.source=cifar10:stand-in.tar.gz --out runs/stand-in

Drawings of OpenMoji on a ground of one colour, mirrored, turned, made smaller and moved: each class 5,000 times, of the
concepts that are trained on, and 1,000 times in the test batch, of those held out. The classes are Unicode's nine
groups, of which hands are one more. The archive is in the python form, and the same for the same version of OpenMoji.
"""

import argparse
import gzip
import io
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset, Split
from pochade.data.sources import open_source
from pochade.files import atomic_file

SIZE = 32
DRAWN = 64
"""Pixels that a drawing is turned and made smaller from."""
BATCHES, IN_BATCH = 5, 10_000
HANDS = re.compile(r"\b((?<!holding )hands?|fingers?|fist|thumbs|palms?|vulcan salute|victory|pinch\w*)\b")
"""Concepts of the group of people that are the tenth class."""
MOST_TURNED = 15
"""Degrees."""
LEAST_SIDE = 0.7
"""Of a drawing, as a fraction of the picture's."""
PALEST, DARKEST = 255, 176
"""Channels of the ground."""


def labels(drawings: Dataset) -> list[int]:
    people = drawings.classes.index("people and body")
    found: list[int] = []
    for index in range(len(drawings)):
        item = drawings.item(index)
        if item.label is None:
            raise ValueError(f"{item.name} has no class")
        hand = item.label == people and HANDS.search(item.group)
        found.append(len(drawings.classes) if hand else item.label)
    return found


def picture(drawing: Image.Image, random: np.random.Generator) -> np.ndarray:
    """Bytes [3, 32, 32] of a drawing on white, changed at random."""
    ground = tuple(int(channel) for channel in random.integers(DARKEST, PALEST + 1, 3))
    side = round(DRAWN * random.uniform(LEAST_SIDE, 1))
    left, top = (int(random.integers(0, DRAWN - side + 1)) for _ in range(2))
    if random.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turn = drawing.rotate(random.uniform(-MOST_TURNED, MOST_TURNED), Image.Resampling.BICUBIC, fillcolor="white")
    whole = Image.new("RGB", (DRAWN, DRAWN), "white")
    whole.paste(turn.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    small = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.LANCZOS), np.float32)
    return np.rint(small * ground / 255).astype(np.uint8).transpose(2, 0, 1)


def pictures(split: Split, count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Bytes [count, 3072] and labels, as many of each class as of any other, in random order."""
    drawings = open_source("openmoji:groups", split)
    of_drawing = np.array(labels(drawings))
    random = np.random.default_rng(seed)
    order = random.permutation(np.arange(count) % (len(drawings.classes) + 1))
    data = np.empty((count, 3 * SIZE * SIZE), np.uint8)
    for row, label in enumerate(order):
        drawing = drawings.image(int(random.choice(np.flatnonzero(of_drawing == label))), DRAWN)
        data[row] = picture(drawing, random).reshape(-1)
    return data, order.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if out.exists():
        parser.error(f"{out} exists already")
    train = pictures("train", BATCHES * IN_BATCH, 0)
    test = pictures("held_out", IN_BATCH, 1)
    names = [*open_source("openmoji:groups", "train").classes, "hands"]
    files: dict[str, object] = {"batches.meta": {b"label_names": [name.encode() for name in names]}}
    for number in range(BATCHES):
        rows = slice(number * IN_BATCH, (number + 1) * IN_BATCH)
        files[f"data_batch_{number + 1}"] = {b"data": train[0][rows], b"labels": train[1][rows]}
    files["test_batch"] = {b"data": test[0], b"labels": test[1]}
    with (
        atomic_file(out) as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in files.items():
            written = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(written)
            archive.addfile(member, io.BytesIO(written))
    print(f"{out}: 50,000 + 10,000 pictures of {len(names)} classes, {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
