"""Batches of one shape: which shapes there are, which step takes which, and what is cropped."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.cache.toys import Counting, encode_images
from pochade.data.buckets import Bucketed, lost, nearest_shape, shapes
from pochade.data.cache.latents import cache_latents
from pochade.data.cache.on_the_fly import encode_on_the_fly
from pochade.data.dataset import Dataset, Shape
from pochade.data.samples import Samples
from pochade.data.sources import FolderSource
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError
from pochade.images.decode import fitted, to_tensor
from pochade.training.data import ImageData
from pochade.training.loader import Loader, draw

SIZES = [(40, 40)] * 14 + [(60, 30)] * 9 + [(20, 40)] * 4 + [(90, 10)] * 2 + [(41, 40)] * 3


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """32 pictures of 4 ratios, one of them beyond 2:1; picture i is captioned i."""
    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(str(number))
    return FolderSource(folder).open("all", reading=Reading(progress=False))


def bucketed(dataset: Dataset) -> Bucketed:
    def encoded(part: Dataset, shape: Shape) -> Samples:
        return encode_on_the_fly(part, shape, Counting().encoders)

    return Bucketed(dataset, shapes(32, 8, 2), encoded)


@pytest.mark.parametrize(("size", "multiple"), [(64, 8), (64, 16), (128, 16), (256, 32), (512, 32), (1024, 64)])
def test_shapes_have_about_one_area(size: int, multiple: int):
    found = shapes(size, multiple, 2)
    assert (size, size) in found
    assert {(height, width) for width, height in found} == set(found)
    assert [width / height for width, height in found] == sorted(width / height for width, height in found)
    for width, height in found:
        assert width % multiple == height % multiple == 0
        assert 1 / 2 <= width / height <= 2
        assert abs(width * height - size * size) <= size * size / 8
    assert max(width for width, _ in found) >= 1.25 * size
    # Whatever ratio a picture has, it loses little: half the way to the next ratio.
    widths = np.geomspace(found[0][0] / found[0][1], found[-1][0] / found[-1][1], 200)
    shares = [lost([at := (round(1000 * w), 1000)], lambda _, at=at: found[nearest_shape(at, found)]) for w in widths]
    assert max(shares) <= (0.23 if size // multiple < 8 else 0.12)


def test_the_ratio_is_limited_as_asked():
    assert shapes(32, 8, 1.2) == [(32, 32)]
    assert shapes(64, 16, 2) == [(48, 96), (48, 80), (64, 64), (80, 48), (96, 48)]
    assert {(192, 320), (320, 192), (192, 352)} < set(shapes(256, 32, 2))
    assert (64, 16) in shapes(32, 8, 4)
    with pytest.raises(PochadeError, match=r"data\.ratios: 5 given"):
        ImageData(FolderSource(Path("x")), 32, ratios=5.0).open()
    with pytest.raises(PochadeError, match=r"data\.ratios: 2 given with data\.shifts"):
        ImageData(FolderSource(Path("x")), 32, ratios=2.0, shifts=2).open()


def test_the_nearest_shape_crops_least():
    allowed = shapes(64, 8, 2)
    for dimensions in ((64, 64), (100, 75), (75, 100), (640, 330), (10, 300), (1, 1)):
        own = [lost([dimensions], lambda _, shape=shape: shape) for shape in allowed]
        assert own[nearest_shape(dimensions, allowed)] == pytest.approx(min(own))
    assert allowed[nearest_shape(None, allowed)] == (64, 64)


def test_what_is_lost_is_the_share_of_all_pixels():
    # Of 200 x 100 a square keeps half; of 100 x 100 all; 3:2 keeps 150 x 100.
    assert lost([(200, 100), (100, 100), None], lambda _: (1, 1)) == pytest.approx(1 / 3)
    assert lost([(200, 100)], lambda _: (3, 2)) == pytest.approx(1 / 4)
    assert lost([None], lambda _: (1, 1)) == 0


def test_a_part_of_that_ratio_is_taken_from_the_middle(wide: Dataset, tmp_path: Path):
    index = SIZES.index((60, 30))
    whole = Image.open(wide.picture(index).file)
    assert wide.dimensions(index) == (60, 30)
    assert (np.asarray(wide.fitted(index, 60, 30)) == np.asarray(whole)).all()
    assert (np.asarray(wide.fitted(index, 40, 30)) == np.asarray(whole.crop((10, 0, 50, 30)))).all()
    assert (np.asarray(wide.fitted(index, 60, 20)) == np.asarray(whole.crop((0, 5, 60, 25)))).all()
    square = Image.new("RGB", (8, 8), "teal")
    assert fitted(square, 8, 8) is square


def test_every_batch_is_of_one_shape_and_no_picture_is_rarer(wide: Dataset):
    samples = bucketed(wide)
    assert sum(samples.shapes.values()) == len(SIZES)
    seen, steps = Counter[str](), 320
    taken = Counter[tuple[int, ...]]()
    for step in range(steps):
        batch = draw(samples, 7, range(4 * step, 4 * step + 4), 4)
        names = batch["name"]
        assert isinstance(names, list)
        part = {nearest_shape(wide.dimensions(int(name[:2])), shapes(32, 8, 2)) for name in names}
        assert len(part) == 1
        taken[tuple(part)] += 1
        seen.update(names)
    assert len(taken) == len(samples.parts)
    # 1280 samples of 32 pictures: 40 each, within the few steps that a bucket can be ahead or behind.
    sizes = Counter(nearest_shape(wide.dimensions(i), shapes(32, 8, 2)) for i in range(len(wide)))
    for (part,), count in taken.items():
        assert abs(count - steps * sizes[part] / len(SIZES)) <= 3
    assert len(seen) == len(SIZES)
    assert max(seen.values()) <= 40 + 4 * 3 / 2 + 1


def test_within_a_bucket_each_epoch_is_a_permutation(wide: Dataset):
    samples = bucketed(wide)
    order = samples.order(3, torch.arange(4000), 5)
    starts = [0, *np.cumsum([len(part) for part in samples.parts])]
    for first, end in pairwise(starts):
        inside = order[(order >= first) & (order < end)].tolist()
        count = end - first
        epochs = [inside[i : i + count] for i in range(0, len(inside) - count + 1, count)]
        assert len(epochs) > 10
        assert all(sorted(epoch) == list(range(first, end)) for epoch in epochs)
        assert count == 1 or len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 4), (2, 2)])
def test_the_samples_of_a_step_are_those_of_any_number_of_processes(wide: Dataset, world_size: int, accumulate: int):
    def batches(start: int, **options: int) -> list[list[tuple[int, str]]]:
        loader = Loader(bucketed(wide), seed=3, batch_size=8, start=start, stop=12, **options)
        try:
            given = [(batch["seed"], batch["name"], batch["latents"]) for batch in loader]
        finally:
            loader.close()
        assert all(torch.is_tensor(latents) and latents.ndim == 4 for _, _, latents in given)
        return [sorted(zip(seeds.tolist(), names, strict=True)) for seeds, names, _ in given]

    whole = batches(0)
    assert batches(9) == whole[9:]
    shares = [batches(0, rank=rank, world_size=world_size, accumulate=accumulate) for rank in range(world_size)]
    for step, expected in enumerate(whole):
        parts = [share[step * accumulate + part] for share in shares for part in range(accumulate)]
        assert sorted(row for part in parts for row in part) == expected


def test_latents_are_those_of_the_fitted_pictures(wide: Dataset, tmp_path: Path):
    counting = Counting()

    def encoded(part: Dataset, shape: Shape) -> Samples:
        return cache_latents(part, shape, counting.encoders, tmp_path, progress=False)

    samples = Bucketed(wide, shapes(32, 8, 2), encoded)
    assert counting.images == len(SIZES)
    direct = bucketed(wide)
    for step in range(20):
        one, other = (draw(source, 1, range(3 * step, 3 * step + 3), 3) for source in (samples, direct))
        for name in ("latents", "tokens", "pooled", "seed"):
            assert torch.equal(one[name], other[name])
        number = int(one["name"][0][:2])
        width, height = shapes(32, 8, 2)[nearest_shape(wide.dimensions(number), shapes(32, 8, 2))]
        picture = to_tensor(wide.fitted(number, width, height))[None]
        assert torch.allclose(one["latents"][:1], encode_images(picture))
    Bucketed(wide, shapes(32, 8, 2), encoded)
    assert counting.images == len(SIZES)  # nothing is encoded again
    (line,) = samples.notes()
    assert f"{len(samples.parts)} shapes" in line
    assert "with squares" in line
    with pytest.raises(PochadeError, match="shapes given"):
        samples.batch(torch.tensor([0, len(samples) - 1]), torch.tensor([1, 2]))
