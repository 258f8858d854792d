import pytest
import torch

from pochade.images.canvas import LONGEST, Canvas, resample


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
    mask = torch.zeros(1, 1, 640, 320)
    mask[..., 100, 200] = 1
    canvas = Canvas.fit(640, 320, 64, 16)
    cells = canvas.put_mask(mask, 8)
    assert cells.shape == (1, 1, canvas.outer[0] // 8, canvas.outer[1] // 8)
    assert cells.sum() == 1
    assert canvas.put_mask(torch.ones_like(mask), 8).eq(1).all()
