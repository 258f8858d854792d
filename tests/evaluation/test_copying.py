"""Nearest training pictures, by pixels and by features."""

import pytest
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


@pytest.mark.parametrize("count", [63, 64, 65, 130])
def test_blocks_of_pictures_give_what_all_at_once_give(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, made = noise(40, 0, 4), noise(count, 1, 4)
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 24, generator=generator) for n in (count, 40)]
    whole = copying.nearest_in_features(features[0], features[1])
    between = copying.between(made)
    monkeypatch.setattr(copying, "_ROWS", 64)
    monkeypatch.setattr(copying, "_AT_ONCE", 1)
    done: list[int] = []
    found = copying.nearest_in_pixels(made, train, done.append)
    every = torch.stack([(x.float() - train.float()).square().mean((1, 2, 3)).sqrt() / 255 for x in made])
    assert found.index.tolist() == every.argmin(1).tolist()
    torch.testing.assert_close(found.distance, every.amin(1))
    parts = copying.nearest_in_features(features[0], features[1], done.append)
    assert parts.index.tolist() == whole.index.tolist()
    torch.testing.assert_close(parts.distance, whole.distance, atol=1e-6, rtol=0)
    torch.testing.assert_close(copying.between(made, done.append), between)
    assert sum(done) == 3 * count
    monkeypatch.setattr(copying, "MOST", 50)
    torch.testing.assert_close(copying.between(made), between[:50])


def test_feature_distance_is_cosine_about_the_training_mean() -> None:
    train = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 5
    found = copying.nearest_in_features(torch.tensor([[8.0, 5.0], [5.0, 4.0], [6.0, 6.0]]), train)
    assert found.index.tolist()[:2] == [0, 3]
    torch.testing.assert_close(found.distance, torch.tensor([0.0, 0.0, 1 - 0.5**0.5]), atol=1e-6, rtol=0)


def test_a_copy_is_flagged_though_it_is_blurred_and_a_new_picture_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 3, 8, 8, generator=generator)
    pictures = (torch.nn.functional.interpolate(coarse, 64, mode="bilinear") * 255).to(torch.uint8)
    train, new = pictures[:50], pictures[50:]
    thumbs = copying.thumbnails(train)
    every = torch.cdist(thumbs.flatten(1).float(), thumbs.flatten(1).float()) / 255 / (3 * 32 * 32) ** 0.5
    every.fill_diagonal_(torch.inf)
    between = copying.between(thumbs)
    torch.testing.assert_close(between, every.amin(1), atol=1e-5, rtol=0)
    assert copying.typical(thumbs) == pytest.approx(float(between.median()))
    assert copying.typical(thumbs[:1].expand(4, -1, -1, -1)) == 1 / 255
    blurred = torch.nn.functional.avg_pool2d(train[7:8].float(), 5, 1, 2).to(torch.uint8)
    made = torch.cat([new, blurred])
    names = [f"new {i}" for i in range(10)] + ["blurred"]
    found = copying.nearest_in_pixels(copying.thumbnails(made), thumbs)
    check = copying.check(found, names, copying.typical(thumbs), [str(i) for i in range(50)])
    assert check["share"] == 1 / 11
    first, *others = check["nearest"]
    assert (first["caption"], first["nearest"], first["copied"]) == ("blurred", "7", True)
    assert len(others) == 10
    assert not any(row["copied"] for row in others)
