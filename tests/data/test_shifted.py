from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pochade.data.cache.latents import LatentEncoders, cache_latents
from pochade.data.shifted import LEAST, PLAIN, Shifted
from pochade.data.sources import open_source
from pochade.data.sources.synthetic import Synthetic
from pochade.errors import PochadeError


class Black(Synthetic):
    """Black squares that fill their pictures."""

    def image(self, index: int, size: int) -> Image.Image:
        return Image.new("RGB", (size, size))


def test_copies_are_smaller_and_lie_inside() -> None:
    data = Shifted(Black("all", 40), 2)
    assert len(data) == 40 * (PLAIN + 2)
    places: set[tuple[int, int]] = set()
    for index in range(len(data)):
        dark = np.asarray(data.image(index, 64))[..., 0] < 128
        rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height == width
        if index % (PLAIN + 2) < PLAIN:
            assert height == 64
        else:
            assert LEAST * 64 - 1 <= height < 64
            assert dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 20


def test_a_copy_is_the_same_each_time_and_of_its_pictures_group() -> None:
    data = open_source("synthetic:6", "all")
    one, other = Shifted(data, 2), Shifted(data, 2)
    for index in range(len(one)):
        assert replace(one.item(index), name="") == replace(data.item(index // 5), name="")
        assert one.identity(index) == other.identity(index)
        assert np.array_equal(np.asarray(one.image(index, 32)), np.asarray(other.image(index, 32)))
    assert len({one.item(index).name for index in range(len(one))}) == len(one)
    assert len({one.identity(index) for index in range(5)}) == 3
    assert len(one.groups()) == len(data.groups())
    with pytest.raises(PochadeError, match="shifts: 0 given"):
        Shifted(data, 0)


def test_each_of_three_views_is_encoded_once(tmp_path: Any) -> None:
    encoded: list[int] = []

    def encode(images: Any) -> Any:
        encoded.append(len(images))
        return images[:, :, ::8, ::8]

    data = Shifted(open_source("synthetic:6:classes=cat,dog", "all"), 2)
    cached = cache_latents(data, 16, LatentEncoders(encode, "mean"), tmp_path, progress=False)
    assert sum(encoded) == 6 * 3
    assert cached.pictures == 30
