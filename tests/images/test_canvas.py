import pytest
import torch

from pochade.images.canvas import Canvas, resample
from pochade.runtime.canvas import LONGEST


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (37, 23), (64, 64), (300, 200)])
def test_a_canvas_keeps_proportions_and_gives_the_size_back(size: tuple[int, int]) -> None:
    canvas = Canvas.fit(*size, 64, 16)
    assert all(o % 16 == 0 and 0 <= o - i < 16 for o, i in zip(canvas.outer, canvas.inner, strict=True))
    assert max(canvas.inner) <= LONGEST * 64
    if max(size) < 1000:
        assert canvas.inner[0] * canvas.inner[1] == pytest.approx(64 * 64, rel=0.03)
        assert canvas.inner[0] / canvas.inner[1] == pytest.approx(size[0] / size[1], rel=0.03)
    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    put = canvas.put(picture)
    assert put.shape == (2, 3, *canvas.outer)
    assert canvas.take(put).shape == picture.shape
    if size == (64, 64):
        assert torch.equal(canvas.take(put), picture)
    larger = Canvas.fit(*size, 64, 16, shrink=False)
    assert (larger.inner == size) == (size[0] * size[1] >= 64 * 64)


def test_smooth_pictures_survive_the_canvas() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 130), indexing="ij")
    picture = torch.stack((x, y, x * y))[None]
    canvas = Canvas.fit(90, 130, 64, 16)
    assert (canvas.take(canvas.put(picture)) - picture).abs().max() < 0.02
    assert torch.equal(resample(picture, 90, 130), picture)


def test_a_cell_is_repainted_where_any_pixel_of_it_is() -> None:
    mask = torch.zeros(1, 1, 640, 320, dtype=torch.bool)
    mask[..., 100, 200] = True
    canvas = Canvas.fit(640, 320, 64, 16)
    marked = canvas.put_mask(mask)
    assert marked.shape == (1, 1, *canvas.outer)
    assert marked.sum() == 1
    assert canvas.put_mask(torch.ones_like(mask)).eq(1).all()
    # As torch's adaptive pooling has it, where it shrinks and where it grows.
    for size in ((37, 50), (200, 130)):
        random = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.8
        canvas = Canvas.fit(*size, 64, 1)
        expected = torch.nn.functional.adaptive_max_pool2d(random.float(), canvas.inner)
        assert torch.equal(canvas.put_mask(random), expected)


def test_bytes_and_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.rand(1, 3, 90, 130, generator=torch.Generator().manual_seed(0))
    bytes_ = (picture * 255).round().to(torch.uint8)
    canvas = Canvas.fit(90, 130, 64, 16)
    assert torch.equal(canvas.put(bytes_), canvas.put(bytes_ / 255))
    put = canvas.put(picture)
    taken = canvas.take(put)
    monkeypatch.setattr("pochade.images.canvas.BAND", 1000)
    assert torch.equal(canvas.put(picture), put)
    assert torch.equal(canvas.take(put), taken)
