"""Contrast check: finds samples that are flat, faded or all alike, by comparison with real pictures."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

FIGURES = ("std", "range", "colour", "variety")
LOW = 0.5
"""The contrast is low where the median of a figure is below this fraction of the real pictures'."""


class Contrast(TypedDict):
    """Medians over the groups (see ``figures``) of generated and of real pictures; ``low`` where one of the medians is
    less than half of that of the real pictures."""

    generated: dict[str, float]
    real: dict[str, float]
    low: bool


def figures(images: Tensor, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Figures of the pictures of each group (a class or a prompt).

    ``std`` of all pixels of a picture, ``range`` from the 1st to the 99th percentile of its pixels,
    ``colour`` (mean over pixels of the largest minus the smallest channel) are means over the group's
    pictures; ``variety`` is the standard deviation of a pixel over the group's pictures, averaged over pixels,
    and absent for a group of one. All in [0, 1].

    Args:
        images: [B, 3, H, W] in [0, 1], or uint8.
        groups: B names.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    result: dict[str, dict[str, float]] = {}
    for group, indices in members.items():
        own = images[indices]
        flat = own.flatten(1)
        ends = flat.quantile(torch.tensor([0.01, 0.99]), dim=1)
        result[group] = {
            "std": float(flat.std(1).mean()),
            "range": float((ends[1] - ends[0]).mean()),
            "colour": float((own.amax(1) - own.amin(1)).mean()),
        }
        if len(indices) > 1:
            result[group]["variety"] = float(own.std(0).mean())
    return result


def check(generated: Tensor, real: Tensor, groups: Sequence[str]) -> Contrast:
    """Compares generated pictures with real ones of the same groups.

    Where no group has two pictures, ``variety`` is that of the whole set.

    Args:
        generated, real: [B, 3, H, W] in [0, 1], or uint8.
        groups: B names, valid for both.
    """
    made, data = _medians(generated, groups), _medians(real, groups)
    return {"generated": made, "real": data, "low": any(made[name] < LOW * data[name] for name in data)}


def _medians(images: Tensor, groups: Sequence[str]) -> dict[str, float]:
    by_group = figures(images, groups)
    if all("variety" not in row for row in by_group.values()):
        whole = figures(images, ["whole set"] * len(groups))["whole set"]
        by_group["whole set"] = {"variety": whole["variety"]}
    columns = {name: [row[name] for row in by_group.values() if name in row] for name in FIGURES}
    return {name: float(torch.tensor(values).median()) for name, values in columns.items() if values}
