"""Contrast check: finds samples that are flat, faded or all alike, by comparison with real pictures."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from pochade.evaluation import bootstrap

FIGURES = ("std", "range", "colour", "variety")
LOW = 0.5
"""The contrast is low where the median of a figure is below this fraction of the real pictures'."""
LISTED = 20
"""Groups that a check lists, those of the lowest contrast."""


class GroupContrast(TypedDict):
    """Figures of the generated and the real pictures of a group."""

    name: str
    generated: dict[str, float]
    real: dict[str, float]
    low: bool


Contrast = TypedDict(
    "Contrast",
    {
        "generated": dict[str, float],
        "real": dict[str, float],
        "low": bool,
        "intervals": dict[str, bootstrap.Interval],
        "groups": int,
        "low groups": int,
        "lowest": list[GroupContrast],
    },
)
"""Medians over the groups (see ``figures``) of generated and of real pictures, with intervals of the generated ones.
``low``: whether one is less than half of that of the real pictures. ``lowest``: the groups of the lowest figures."""


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
    by_group, of_real = figures(generated, groups), figures(real, groups)
    made, data = (_columns(*pair, groups) for pair in ((by_group, generated), (of_real, real)))
    medians, real_medians = ({k: float(v.median()) for k, v in columns.items()} for columns in (made, data))
    rows: list[GroupContrast] = [
        {"name": name, "generated": own, "real": of_real[name], "low": _least_ratio(own, of_real[name]) < LOW}
        for name, own in by_group.items()
    ]
    rows.sort(key=lambda row: _least_ratio(row["generated"], row["real"]))
    return {
        "generated": medians,
        "real": real_medians,
        "low": _least_ratio(medians, real_medians) < LOW,
        "intervals": {name: bootstrap.of_median(values) for name, values in made.items() if len(values) > 1},
        "groups": len(rows),
        "low groups": sum(row["low"] for row in rows),
        "lowest": rows[:LISTED],
    }


def _least_ratio(made: dict[str, float], real: dict[str, float]) -> float:
    """The smallest of the figures of generated pictures as a part of those of the real ones, 0 of 0 being 1."""
    return min(made[name] / real[name] if real[name] else 1.0 for name in real)


def _columns(by_group: dict[str, dict[str, float]], images: Tensor, groups: Sequence[str]) -> dict[str, Tensor]:
    """Each figure's values over the groups."""
    columns = {name: [row[name] for row in by_group.values() if name in row] for name in FIGURES}
    if not columns["variety"]:
        columns["variety"] = [figures(images, ["whole set"] * len(groups))["whole set"]["variety"]]
    return {name: torch.tensor(values) for name, values in columns.items()}
