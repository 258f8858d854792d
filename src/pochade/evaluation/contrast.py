"""Contrast check: finds samples that are flat, faded or all alike, by comparison with real pictures."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from pochade.evaluation import bootstrap

FIGURES = ("std", "range", "colour", "variety")
LOW = 0.5
"""The contrast is low where the median of a figure is below this fraction of the real pictures'."""
LISTED = 20
"""Groups that a check lists, those of the lowest contrast."""
BLOCK = 128
"""Pictures that are in memory as numbers together."""


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


def figures(
    images: Tensor, groups: Sequence[str], advance: Callable[[int], object] = lambda _: None
) -> dict[str, dict[str, float]]:
    """Figures of the pictures of each group (a class or a prompt).

    ``std`` of all pixels of a picture, ``range`` from the 1st to the 99th percentile of its pixels,
    ``colour`` (mean over pixels of the largest minus the smallest channel) are means over the group's
    pictures; ``variety`` is the standard deviation of a pixel over the group's pictures, averaged over pixels,
    and absent for a group of one. All in [0, 1].

    Args:
        images: [B, 3, H, W] in [0, 1], or uint8.
        groups: B names.
        advance: hears how many pictures are done.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    result: dict[str, dict[str, float]] = {}
    for group, indices in members.items():
        stds: list[Tensor] = []
        ranges: list[Tensor] = []
        colour = 0.0
        for own in _blocks(images, indices):
            flat = own.flatten(1)
            ends = flat.quantile(torch.tensor([0.01, 0.99]), dim=1)
            stds.append(flat.std(1))
            ranges.append(ends[1] - ends[0])
            colour += float((own.amax(1) - own.amin(1)).mean()) * (len(own) / len(indices))
            advance(len(own))
        result[group] = {
            "std": float(torch.cat(stds).mean()),
            "range": float(torch.cat(ranges).mean()),
            "colour": colour,
        }
        if len(indices) > 1:
            result[group]["variety"] = _variety(images, indices)
    return result


def _blocks(images: Tensor, rows: Sequence[int]) -> Iterator[Tensor]:
    """Some of ``images`` in blocks, [b, 3, H, W] in [0, 1]."""
    for start in range(0, len(rows), BLOCK):
        block = images[list(rows[start : start + BLOCK])]
        yield block.float() / 255 if block.dtype == torch.uint8 else block


def _variety(images: Tensor, rows: Sequence[int]) -> float:
    """Standard deviation of a pixel over some of ``images``, averaged over pixels."""
    count, first = len(rows), next(_blocks(images, rows[:1]))[0].double()
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    for block in _blocks(images, rows):
        # From the first picture on: of equal pictures nothing is left, not even a rounding error.
        deviations = block.double() - first
        total += deviations.sum(0)
        squares += deviations.square().sum(0)
    variance = (squares - total.square() / count) / (count - 1)
    return float(variance.clamp(min=0).sqrt().float().mean())


def check(
    generated: Tensor, real: Tensor, groups: Sequence[str], advance: Callable[[int], object] = lambda _: None
) -> Contrast:
    """Compares generated pictures with real ones of the same groups.

    Where no group has two real pictures, ``variety`` is that of the whole set.

    Args:
        generated: [B, 3, H, W] in [0, 1], or uint8.
        real: [n, 3, H, W] of the same form, n <= B.
        groups: B names of the generated pictures, the first n those of the real ones as well.
        advance: hears how many pictures of either are done.
    """
    by_group, of_real = figures(generated, groups, advance), figures(real, groups[: len(real)], advance)
    many = [name for name, row in of_real.items() if "variety" in row]
    made, data = (_columns(rows, many, images) for rows, images in ((by_group, generated), (of_real, real)))
    medians, real_medians = ({k: float(v.quantile(0.5)) for k, v in columns.items()} for columns in (made, data))
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


def _columns(by_group: dict[str, dict[str, float]], many: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Each figure's values over the groups; the variety over the groups ``many``, or of all ``images``."""
    columns = {name: [row[name] for row in by_group.values()] for name in FIGURES[:-1]}
    columns["variety"] = [by_group[name]["variety"] for name in many] or [_variety(images, range(len(images)))]
    return {name: torch.tensor(values) for name, values in columns.items()}
