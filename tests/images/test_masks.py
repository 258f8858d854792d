import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.images.masks import Box, crop_around, depth_inside, inside_seam


def shown(marked: Tensor, width: int) -> Tensor:
    part, whole = inside_seam(marked, width)
    return part / whole


def test_the_seam_lies_inside_the_mask() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[4:16, 4:16] = True
    assert torch.equal(shown(mask, 3) > 0, mask)
    torch.testing.assert_close(shown(mask, 3)[10, 3:9], torch.tensor([0, 0.25, 0.5, 0.75, 1, 1]))
    # Beyond the border of the picture nothing is kept, so that there is no seam; a thin stroke has none either.
    assert shown(torch.ones(5, 5, dtype=torch.bool), 3).eq(1).all()
    stroke = mask & (torch.arange(20) == 9)
    assert torch.equal(shown(stroke, 3), stroke.float())


def test_depth_is_the_number_of_erosions_that_a_pixel_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((1, 9), (43, 61), (30, 7)):
        marked = F.interpolate(torch.rand(1, 1, 6, 5, generator=generator), size, mode="bilinear")[0, 0] > 0.4
        expected, rest = torch.zeros(size), marked.float()
        for _ in range(9):
            expected += rest
            rest = 1 - F.max_pool2d(1 - rest[None], 3, stride=1, padding=1)[0]
        assert torch.equal(depth_inside(marked, 9).float(), expected)


def test_a_square_is_cropped_around_what_is_marked() -> None:
    def box(height: int, width: int, rows: slice, columns: slice, least: int) -> Box:
        marked = torch.zeros(height, width, dtype=torch.bool)
        marked[rows, columns] = True
        return crop_around(marked, least)

    assert box(1024, 1024, slice(100, 164), slice(100, 164), 64) == Box(84, 84, 96, 96)
    # At least what the model samples, moved into the picture, and cut where that is smaller.
    assert box(1024, 1024, slice(100, 110), slice(300, 310), 64) == Box(73, 273, 64, 64)
    assert box(1024, 1024, slice(0, 10), slice(1014, 1024), 64) == Box(0, 960, 64, 64)
    assert box(100, 1000, slice(40, 60), slice(100, 500), 64) == Box(0, 0, 100, 600)
    assert box(30, 40, slice(0, 30), slice(20, 40), 64) == Box(0, 0, 30, 40)
    assert Box(1, 2, 3, 4).of(torch.arange(80).view(1, 8, 10)).tolist()[0][0] == [12, 13, 14, 15]
