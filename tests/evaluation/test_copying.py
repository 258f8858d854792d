"""Nearest training pictures, by pixels and by features."""

import torch
from torch import Tensor

from pochade.evaluation import copying


def noise(n: int, seed: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def test_copies_are_found_and_named() -> None:
    train, held_out = noise(300, 0), noise(40, 1)
    copies = train[[7, 299, 0]].clone()
    found = copying.nearest_in_pixels(copies, train)
    assert found.index.tolist() == [7, 299, 0]
    assert found.distance.tolist() == [0, 0, 0]
    summary = copying.summarise(found, copying.nearest_in_pixels(held_out, train))
    assert summary["nearer"] == 1.0
    assert summary["generated"]["median"] == 0 < summary["held_out"]["minimum"]
    fresh = copying.summarise(
        copying.nearest_in_pixels(noise(200, 2), train), copying.nearest_in_pixels(held_out, train)
    )
    assert fresh["nearer"] < 0.2


def test_pixel_distance_is_the_smallest_root_mean_square() -> None:
    a, b = noise(5, 0), noise(9, 1)
    every = torch.stack([(x.float() - b.float()).square().mean((1, 2, 3)).sqrt() / 255 for x in a])
    found = copying.nearest_in_pixels(a, b)
    torch.testing.assert_close(found.distance, every.min(1).values)
    assert found.index.tolist() == every.argmin(1).tolist()


def test_feature_distance_is_cosine_about_the_training_mean() -> None:
    train = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 5
    found = copying.nearest_in_features(torch.tensor([[8.0, 5.0], [5.0, 4.0], [6.0, 6.0]]), train)
    assert found.index.tolist()[:2] == [0, 3]
    torch.testing.assert_close(found.distance, torch.tensor([0.0, 0.0, 1 - 0.5**0.5]), atol=1e-6, rtol=0)
