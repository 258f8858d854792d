"""The no-grey check: samples that are flat, faded or all alike, found by comparison with the data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FIGURES = ("deviation", "range", "colour", "variety")
LOW = 0.5
"""Below this share of the data's figure, the median sample counts as grey."""


def figures(images: Tensor, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Figures of the pictures of each group (a class or a prompt).

    ``deviation`` of all pixels of a picture, ``range`` from the 1st to the 99th percentile of its pixels,
    ``colour`` (mean over pixels of the largest minus the smallest channel) are means over the group's
    pictures; ``variety`` is the deviation of a pixel over the group's pictures, averaged over pixels, and
    absent for a group of one. All in [0, 1].

    Args:
        images: [B, 3, H, W] in [0, 1], or uint8.
        groups: B names.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    result: dict[str, dict[str, float]] = {}
    for group, indices in rows.items():
        own = images[indices]
        flat = own.flatten(1)
        ends = flat.quantile(torch.tensor([0.01, 0.99]), dim=1)
        result[group] = {
            "deviation": float(flat.std(1).mean()),
            "range": float((ends[1] - ends[0]).mean()),
            "colour": float((own.amax(1) - own.amin(1)).mean()),
        }
        if len(indices) > 1:
            result[group]["variety"] = float(own.std(0).mean())
    return result


def check(generated: Tensor, real: Tensor, groups: Sequence[str]) -> dict[str, Any]:
    """Medians over the groups, the same of real pictures of the same groups beside them, and a verdict.

    Where no group has two pictures, ``variety`` is that of the whole set.

    Args:
        generated, real: [B, 3, H, W] in [0, 1], or uint8.
        groups: B names, of the rows of both.

    Returns:
        ``{"generated": {...}, "real": {...}, "grey": bool}``; grey where a median is less than half of the
        data's.
    """
    sides = {"generated": _medians(generated, groups), "real": _medians(real, groups)}
    grey = any(sides["generated"][name] < LOW * value for name, value in sides["real"].items())
    return {**sides, "grey": grey}


def _medians(images: Tensor, groups: Sequence[str]) -> dict[str, float]:
    by_group = figures(images, groups)
    if all("variety" not in row for row in by_group.values()):
        whole = figures(images, ["whole set"] * len(groups))["whole set"]
        by_group["whole set"] = {"variety": whole["variety"]}
    columns = {name: [row[name] for row in by_group.values() if name in row] for name in FIGURES}
    return {name: float(torch.tensor(values).median()) for name, values in columns.items() if values}
