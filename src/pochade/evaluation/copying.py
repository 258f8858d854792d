"""Does the generator copy? How near its pictures come to their nearest training picture."""

from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.evaluation.kid import check_features


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each of m pictures."""

    index: Tensor
    """[m] int64, the row of the training set."""
    distance: Tensor
    """[m] float32."""


def nearest_in_features(features: Tensor, train: Tensor) -> Nearest:
    """By cosine distance (0 to 2) of features [m, d] from [n, d], both centred by the mean of ``train``."""
    check_features(train=train, features=torch.cat([features, features]))
    mean = train.mean(0)
    similarity = F.normalize(features - mean, dim=1) @ F.normalize(train - mean, dim=1).T
    best = similarity.max(1)
    return Nearest(best.indices, 1 - best.values)


def nearest_in_pixels(images: Tensor, train: Tensor) -> Nearest:
    """By root mean square difference (0 to 1) of pixels of uint8 images [m, 3, H, W] and [n, 3, H, W]."""
    rows = train.flatten(1)
    squares = torch.cat([part.float().square().sum(1) for part in rows.split(256)])
    index: list[Tensor] = []
    for queries in images.flatten(1).split(64):
        q = queries.float()
        products = torch.cat([q @ part.float().T for part in rows.split(256)], dim=1)
        index.append((squares - 2 * products).argmin(1))
    found = torch.cat(index)
    # From the differences themselves: sums of squares would leave a rounding error where pictures are equal.
    distance = [(a.float() - train[i].float()).square().mean().sqrt() / 255 for a, i in zip(images, found, strict=True)]
    return Nearest(found, torch.stack(distance))


class Summary(TypedDict):
    """Quantiles of the distances of generated and of held-out pictures, and how many generated ones are nearer."""

    generated: dict[str, float]
    held_out: dict[str, float]
    nearer: float


def summarise(generated: Nearest, held_out: Nearest) -> Summary:
    """Distances of generated pictures to the training set beside those of real held-out ones.

    A generator that copies comes much nearer than held-out pictures do: ``nearer`` is the share of generated
    pictures nearer than 95 % of the held-out ones, 0.05 where both are alike.
    """
    threshold = held_out.distance.quantile(0.05)
    return {
        "generated": _quantiles(generated.distance),
        "held_out": _quantiles(held_out.distance),
        "nearer": float((generated.distance < threshold).float().mean()),
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    return {
        name: float(values.quantile(q))
        for name, q in (("minimum", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))
    }
