"""Masks: where a picture is new."""

import torch.nn.functional as F
from torch import Tensor


def inside_seam(mask: Tensor, width: int) -> Tensor:
    """How much of the new picture is shown, [m, 1, H, W] in [0, 1]: 0 outside the mask, rising within it.

    From the border of the mask on it rises evenly over ``width`` pixels, or over half of how deep the mask is where
    that is less, so that thin strokes are replaced.
    """
    depth, rest = 0, mask
    while depth < 2 * width and bool(rest.any()):
        depth, rest = depth + 1, _erode(rest)
    steps = min(width, depth // 2)
    total, rest = mask, mask
    for _ in range(steps):
        rest = _erode(rest)
        total = total + rest
    return total / (steps + 1)


def _erode(mask: Tensor) -> Tensor:
    """Without the pixels that touch what is outside the mask; beyond the picture nothing is."""
    return 1 - F.max_pool2d(1 - mask, 3, stride=1, padding=1)
