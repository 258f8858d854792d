"""Views of pictures as references, and the cache of their features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pochade.data.cache.references as module
from data.cache.test_latents import Pictures, build
from pochade.data.cache.references import build_references, views
from pochade.data.dataset import Dataset
from pochade.errors import PochadeError
from pochade.images.decode import to_tensor

VIEWS = 3


class Shaded(Pictures):
    """Each with a shade from left to right of its own."""

    def image(self, index: int) -> Image.Image:
        ramp = np.linspace(0, 20 + 20 * index, 16).astype(np.uint8)
        return Image.fromarray(np.broadcast_to(ramp[None, :, None], (8, 16, 3)).copy())


def encode(images: Tensor) -> Tensor:
    """Mean colour, and one that never varies: [B, 1, 4]."""
    mean = images.mean((2, 3))[:, None]
    return torch.cat((mean, torch.ones_like(mean[..., :1])), 2)


def test_views_are_the_picture_and_parts_of_it() -> None:
    image = Shaded().image(5)
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


def test_every_sample_has_a_view_of_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(module, "BATCH", 3)
    pictures = Shaded()
    latents = build(tmp_path / "latents", pictures)
    data = build_references(latents, pictures, encode, tmp_path / "references", VIEWS, progress=False)
    assert isinstance(data, Dataset)
    assert len(data) == len(latents)
    for item in range(len(pictures)):
        expected = encode(torch.stack([to_tensor(view) for view in views(pictures.image(item), VIEWS, item)]))
        for view in range(VIEWS):
            torch.testing.assert_close(data.reference(item, view), expected[view], atol=1e-3, rtol=0)
    seen: set[tuple[str, float]] = set()
    for seed in range(80):
        sample = data.sample(2, np.random.default_rng(seed))
        alone = latents.sample(2, np.random.default_rng(seed))
        reference = sample.pop("reference")
        assert any(torch.equal(reference, data.reference(int(sample["name"]), view)) for view in range(VIEWS))
        assert sample.keys() == alone.keys()
        assert torch.equal(sample["latents"], alone["latents"])
        seen.add((sample["name"], float(reference[0, 0])))
    assert len(seen) == 3 * VIEWS
    mean, deviation = data.statistics()
    every = torch.stack([data.reference(i, v)[0] for i in range(len(pictures)) for v in range(VIEWS)])
    torch.testing.assert_close(mean, every.mean(0))
    torch.testing.assert_close(deviation, every.std(0, correction=0))
    assert deviation[3] == 0

    first, *rest = sorted((tmp_path / "references").glob("part-*"))
    kept = {path: path.stat().st_mtime_ns for path in rest}
    first.unlink()
    again = build_references(latents, pictures, encode, tmp_path / "references", VIEWS, progress=False)
    assert {path: path.stat().st_mtime_ns for path in rest} == kept
    assert torch.equal(again.reference(0, 1), data.reference(0, 1))
    first.write_bytes(b"no")
    with pytest.raises(PochadeError, match="damaged"):
        build_references(latents, pictures, encode, tmp_path / "references", VIEWS, progress=False)


def test_pictures_and_latents_belong_together(tmp_path: Path) -> None:
    class Fewer(Pictures):
        def __len__(self) -> int:
            return 2

    with pytest.raises(PochadeError, match="pictures: 2 given, there are latents of 11"):
        build_references(build(tmp_path / "latents"), Fewer(), encode, tmp_path / "references", 2, progress=False)
    assert not (tmp_path / "references").exists()
