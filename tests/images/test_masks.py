import torch

from pochade.images.masks import inside_seam


def test_the_seam_lies_inside_the_mask() -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[:, :, 4:16, 4:16] = 1
    shown = inside_seam(mask, 3)
    assert torch.equal(shown > 0, mask > 0)
    torch.testing.assert_close(shown[0, 0, 10, 3:9], torch.tensor([0, 0.25, 0.5, 0.75, 1, 1]))
    # Beyond the border of the picture nothing is kept, so that there is no seam; a thin stroke has none either.
    assert inside_seam(torch.ones(1, 1, 5, 5), 3).eq(1).all()
    assert torch.equal(inside_seam(mask * (torch.arange(20) == 9), 3), mask * (torch.arange(20) == 9))
