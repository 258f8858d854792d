"""Batches without a cache are those of one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.cache.toys import Counting
from data.memory import MemoryDataset, captioned, labelled
from pochade.data.cache.latents import cache_latents
from pochade.data.cache.on_the_fly import encode_on_the_fly
from pochade.errors import PochadeError
from pochade.nn.keyed_random import sample_keys


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("dataset", [captioned(), labelled()], ids=["captions", "classes"])
def test_the_same_batches_with_and_without_a_cache(tmp_path: Path, dataset: MemoryDataset, text: bool) -> None:
    cached = cache_latents(dataset, 8, Counting(text).encoders, tmp_path, progress=False)
    samples = encode_on_the_fly(dataset, 8, Counting(text).encoders)
    assert len(samples) == len(cached)
    indices, keys = torch.arange(40) % 7, sample_keys(3, torch.arange(40))
    found, expected = samples.batch(indices, keys), cached.batch(indices, keys)
    assert list(found) == list(expected)
    for name, value in found.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, expected[name])
        else:
            assert value == expected[name]


def test_no_pictures() -> None:
    with pytest.raises(PochadeError, match="dataset: it holds no pictures"):
        encode_on_the_fly(MemoryDataset([]), 8, Counting().encoders)
