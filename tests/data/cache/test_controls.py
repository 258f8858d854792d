"""Cached latents of edges: those of encoding directly, whichever variant is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.cache.toys import Counting, encode_images
from data.memory import MemoryDataset, captioned
from pochade.data.cache.controls import cache_controls
from pochade.data.cache.latents import cache_latents
from pochade.errors import PochadeError
from pochade.images.controls import encode_control
from pochade.images.edges import edges
from pochade.nn.keyed_random import sample_keys

SIZE = 16


class Shaped(MemoryDataset):
    """Each picture has a dark square of its own size; the last is of one colour."""

    def image(self, index: int, size: int) -> Image.Image:
        image = np.asarray(super().image(index, size)).copy()
        if index < len(self) - 1:
            image[2 : 5 + index, 3 : 6 + index] = 0
        return Image.fromarray(image)


def test_every_sample_has_the_edges_of_its_picture(tmp_path: Path) -> None:
    dataset, counting = Shaped(captioned().pictures), Counting()
    latents = cache_latents(dataset, SIZE, counting.encoders, tmp_path, progress=False)
    data = cache_controls(dataset, SIZE, "edges", counting.encoders, latents, tmp_path, progress=False)
    assert len(data) == len(latents)
    indices, keys = torch.arange(70) % 7, sample_keys(0, torch.arange(70))
    batch: dict[str, Any] = data.batch(indices, keys)
    alone = latents.batch(indices, keys)
    assert {*batch} == {*alone, "control"}
    assert batch["name"] == alone["name"]
    control = batch["control"]
    for row, name in enumerate(batch["name"]):
        lines = edges(dataset.image(int(name.removeprefix("picture ")), SIZE))
        assert torch.equal(control[row], encode_control(lines[None], encode_images)[0])
    lined = control.flatten(1).any(1)
    assert lined[indices != 6].all()
    assert not lined[indices == 6].any()  # no lines, no control
    counting.images = 0
    cache_controls(dataset, SIZE, "edges", counting.encoders, latents, tmp_path, progress=False)
    assert counting.images == 0


def test_only_the_edges_of_what_changed_are_made_again(tmp_path: Path) -> None:
    for dataset, encoded in ((captioned(), 22), (captioned().repainted(4, (5, 5, 5)), 2)):
        counting = Counting()
        latents = cache_latents(dataset, SIZE, counting.encoders, tmp_path, progress=False)
        cache_controls(dataset, SIZE, "edges", counting.encoders, latents, tmp_path, progress=False)
        assert counting.images == encoded


def test_pictures_and_latents_belong_together(tmp_path: Path) -> None:
    counting = Counting()
    latents = cache_latents(captioned(), SIZE, counting.encoders, tmp_path, progress=False)
    fewer = MemoryDataset(captioned().pictures[:2])
    with pytest.raises(PochadeError, match="dataset: 2 pictures given, there are latents of 11"):
        cache_controls(fewer, SIZE, "edges", counting.encoders, latents, tmp_path, progress=False)
    other = captioned().repainted(4, (5, 5, 5))
    with pytest.raises(PochadeError, match="dataset: its pictures or captions are not those of the latents"):
        cache_controls(other, SIZE, "edges", counting.encoders, latents, tmp_path, progress=False)
