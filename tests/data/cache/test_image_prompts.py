"""Views of pictures as image prompts, and the cache of their features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.cache.toys import Counting
from data.memory import MemoryDataset, captioned
from pochade.data.cache.image_prompts import CachedImagePrompts, cache_image_prompts, views
from pochade.data.cache.latents import CachedLatents, cache_latents
from pochade.errors import PochadeError
from pochade.nn.keyed_random import sample_keys

VIEWS, SIZE = 3, 16


class Shaded(MemoryDataset):
    """Each with a shade from left to right of its own."""

    def image(self, index: int, size: int) -> Image.Image:
        self.read.append(index)
        ramp = np.linspace(0, 20 + 20 * index, size).astype(np.uint8)
        return Image.fromarray(np.broadcast_to(ramp[None, :, None], (size, size, 3)).copy())


def encode(images: Tensor) -> Tensor:
    """Mean colour, and one that never varies: [B, 1, 4]."""
    mean = images.mean((2, 3))[:, None]
    return torch.cat((mean, torch.ones_like(mean[..., :1])), 2)


def prompts(folder: Path, dataset: MemoryDataset) -> tuple[CachedLatents, CachedImagePrompts]:
    latents = cache_latents(dataset, SIZE, Counting().encoders, folder, progress=False)
    dataset.read.clear()
    return latents, cache_image_prompts(dataset, SIZE, latents, encode, "mean", VIEWS, folder, progress=False)


def test_views_are_the_picture_and_parts_of_it() -> None:
    image = Shaded(captioned().pictures).image(5, SIZE)
    found = views(image, 4, seed=3)
    assert found[0] is image
    assert [view.size for view in found] == [image.size] * 4
    assert [v.tobytes() for v in found] == [v.tobytes() for v in views(image, 4, seed=3)]
    assert [v.tobytes() for v in found] != [v.tobytes() for v in views(image, 4, seed=4)]
    # A part of a shade is a flatter one, and some are mirrored.
    spans = [np.asarray(view)[0, :, 0].astype(int) for s in range(8) for view in views(image, 4, seed=s)[1:]]
    rises = [int(span[-1] - span[0]) for span in spans]
    whole = np.asarray(image)[0, -1, 0]
    assert all(0.4 * whole < abs(rise) <= whole for rise in rises)
    assert min(rises) < 0 < max(rises)
    assert views(image, 1, seed=3) == [image]


def test_every_sample_has_a_view_of_its_picture(tmp_path: Path) -> None:
    dataset = Shaded(captioned().pictures)
    latents, data = prompts(tmp_path, dataset)
    assert (len(data), data.views) == (len(latents), VIEWS)
    every = torch.stack([data.features(torch.arange(11), torch.full((11,), view)) for view in range(VIEWS)], 1)
    for picture in range(11):
        ramp = float(np.linspace(0, 20 + 20 * picture, SIZE).astype(np.uint8).mean()) / 127.5 - 1
        assert torch.allclose(every[picture, 0], torch.tensor([ramp, ramp, ramp, 1.0]), atol=1e-3)
    assert torch.equal(data.features(torch.arange(11)), every[:, 0])
    assert not torch.equal(every[:, 1], every[:, 2])
    indices, keys = torch.full((80,), 2), sample_keys(0, torch.arange(80))
    batch: dict[str, Any] = data.batch(indices, keys)
    alone = latents.batch(indices, keys)
    assert {*batch} == {*alone, "image_prompt"}
    assert batch["name"] == alone["name"]
    seen: set[tuple[str, int]] = set()
    for name, prompt in zip(batch["name"], batch["image_prompt"], strict=True):
        of_picture = every[int(name.removeprefix("picture "))]
        seen.add((name, next(view for view in range(VIEWS) if torch.equal(of_picture[view], prompt))))
    different = sum(len(every[picture].flatten(1).unique(dim=0)) for picture in (3, 4, 5))
    assert len(seen) == different > 6
    mean, deviation = data.statistics()
    torch.testing.assert_close(mean, every.flatten(0, 2).mean(0))
    torch.testing.assert_close(deviation, every.flatten(0, 2).std(0), atol=1e-6, rtol=1e-5)
    assert deviation[3] == 0


def test_views_belong_to_a_picture_and_not_to_its_place(tmp_path: Path) -> None:
    dataset = Shaded(captioned().pictures)
    _, before = prompts(tmp_path, dataset)
    assert len(dataset.read) == 11
    fewer = Shaded(dataset.pictures[1:])
    _, after = prompts(tmp_path, fewer)
    assert fewer.read == []
    second = torch.full((10,), 1)
    assert torch.equal(after.features(torch.arange(10), second), before.features(torch.arange(1, 11), second))


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    dataset = captioned()
    latents = cache_latents(dataset, SIZE, Counting().encoders, tmp_path, progress=False)
    with pytest.raises(PochadeError, match="dataset: 2 pictures given, there are latents of 11"):
        cache_image_prompts(MemoryDataset(dataset.pictures[:2]), SIZE, latents, encode, "mean", 2, tmp_path)
    with pytest.raises(PochadeError, match="views: 0 given, allowed is 1 and more"):
        cache_image_prompts(dataset, SIZE, latents, encode, "mean", 0, tmp_path)
