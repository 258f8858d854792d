"""A run of the recipe lrf, and what else several files of tests train on."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from once import made_once
from recipes.running import FAST, OPTIONS, TINY_AUTOENCODER, train
from small import small_trainings

COLOURS = ("red", "green", "blue", "yellow", "black", "grey", "pink", "brown", "orange", "purple")
SHAPES = ("apple", "house", "boat", "star")


@pytest.fixture(scope="module", autouse=True)
def small_everywhere(small: None) -> None:
    """All of these tests."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 32 x 32 with captions, of which a few are held out."""

    def make(path: Path) -> None:
        path.mkdir()
        rng = np.random.default_rng(0)
        for i, colour in enumerate(COLOURS):
            for j, shape in enumerate(SHAPES):
                pixels = np.full((32, 32, 3), 25 * i, np.uint8)
                pixels[8 : 12 + 4 * j, 8:24] = rng.integers(0, 256, 3)
                Image.fromarray(pixels).save(path / f"{colour}-{shape}.png")
                (path / f"{colour}-{shape}.txt").write_text(f"a {colour} {shape}\n{shape}, {colour}\n")

    return made_once(tmp_path_factory, "captioned", make)


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole recipe ``lrf``, with a text encoder that is trained along; the run's folder."""
    data = (f"data.source={folder}", "data.size=32", "flow.task.text_encoder=bag")

    def make(out: Path) -> None:
        with small_trainings():
            model = train("lrf", [*data, *FAST, *TINY_AUTOENCODER, OPTIONS, "autoencoder.sample_every=2"], out)
        assert model == out / "3-flow" / "model"

    return made_once(tmp_path_factory, "lrf-run", make)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cifar-10-python.tar.gz with 8 pictures in each batch."""
    path = tmp_path_factory.mktemp("cifar") / "cifar-10-python.tar.gz"
    rng = np.random.default_rng(0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files: dict[str, dict[bytes, Any]] = {"batches.meta": {b"label_names": [name.encode() for name in names]}}
    for batch in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        labels = rng.integers(0, 10, 8).tolist()
        files[batch] = {b"data": rng.integers(0, 256, (8, 3072), dtype=np.uint8), b"labels": labels}
    with tarfile.open(path, "w:gz") as tar:
        for name, value in files.items():
            data = pickle.dumps(value, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("taesd")
    blocks: dict[str, Any] = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, **blocks).save_pretrained(
        path
    )
    return path
