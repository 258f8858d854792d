"""Does the generator copy? How near its pictures come to their nearest training picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.evaluation.kid import check_features

COPIED = 0.33
"""A picture is a copy where it is nearer to a training picture than this share of the distance that is typical. Of
OpenMoji at 64 px that flags 95 % of what an autoencoder makes of training pictures, and 5 % of real held-out ones."""
THUMB = 32
"""Rows and columns of the pictures that are compared for it."""
MOST = 10_000
"""Pictures that are compared with as many training pictures by all pixels, and of which ``typical`` is taken, at most:
time grows with the product."""
LISTED = 12
"""Generated pictures that a check names, those nearest to a training picture."""
_ROWS = 1024
"""Features that are compared with all of the training set together."""
_AT_ONCE = 1 << 21
"""Pixels of pictures that are compared with all training pictures together."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each of m pictures."""

    index: Tensor
    """[m] int64, the row of the training set."""
    distance: Tensor
    """[m] float32."""


def nearest_in_features(features: Tensor, train: Tensor, advance: Callable[[int], object] = lambda _: None) -> Nearest:
    """By cosine distance (0 to 2) of features [m, d] from [n, d], both centred by the mean of ``train``."""
    check_features(train=train, features=torch.cat([features, features]))
    mean = train.mean(0)
    directions = F.normalize(train - mean, dim=1).T
    index: list[Tensor] = []
    distance: list[Tensor] = []
    for part in features.split(_ROWS):
        best = (F.normalize(part - mean, dim=1) @ directions).max(1)
        index.append(best.indices)
        distance.append(1 - best.values)
        advance(len(part))
    return Nearest(torch.cat(index), torch.cat(distance))


def thumbnails(images: Tensor) -> Tensor:
    """uint8 [n, 3, ``THUMB``, ``THUMB``] of uint8 images [n, 3, H, W]: means of pixels.

    In them a copy that an autoencoder has blurred is near to its original.
    """
    return torch.cat([F.adaptive_avg_pool2d(part.float(), THUMB).round().to(torch.uint8) for part in images.split(64)])


def between(images: Tensor, advance: Callable[[int], object] = lambda _: None) -> Tensor:
    """Distance [min(n, ``MOST``)] of each of the first uint8 images [n, 3, H, W] to the nearest other one of all, as in
    ``nearest_in_pixels``."""
    rows = images.flatten(1).float() / 255
    parts: list[Tensor] = []
    for start in range(0, len(rows[:MOST]), _ROWS):
        distance = torch.cdist(rows[:MOST][start : start + _ROWS], rows)
        distance.diagonal(start).fill_(torch.inf)
        parts.append(distance.amin(1) / rows.shape[1] ** 0.5)
        advance(len(distance))
    return torch.cat(parts)


def typical(images: Tensor, advance: Callable[[int], object] = lambda _: None) -> float:
    """The median of ``between``, at least one grey level: pictures may all have a twin."""
    return max(float(between(images, advance).median()), 1 / 255)


class NearestPicture(TypedDict):
    """A generated picture and the training picture nearest to it."""

    caption: str
    nearest: str
    """The caption of the training picture."""
    distance: float
    copied: bool


class CopyCheck(TypedDict):
    """Distances of generated pictures to training pictures, beside those of training pictures to each other, all of
    ``thumbnails``: root mean squares of pixels in [0, 1]."""

    typical: float
    """Median distance of a training picture to the nearest other one."""
    share: float
    """Of generated pictures that are nearer to a training picture than ``COPIED`` of that."""
    held_out: NotRequired[float]
    """Of real held-out pictures: many drawings are variants of others."""
    nearest: list[NearestPicture]
    """The ``LISTED`` nearest, the nearest first."""


def check(found: Nearest, captions: list[str], typical: float, train_captions: list[str]) -> CopyCheck:
    """Which pictures are copies; ``typical``: what the function of that name gives.

    A threshold that follows the data, as in 2301.13188 (section 5.1): icons are nearer to each other than photographs.
    """
    copied = found.distance < COPIED * typical
    return {
        "typical": typical,
        "share": float(copied.double().mean()),
        "nearest": [
            {
                "caption": captions[i],
                "nearest": train_captions[int(found.index[i])],
                "distance": float(found.distance[i]),
                "copied": bool(copied[i]),
            }
            for i in found.distance.argsort(stable=True)[:LISTED].tolist()
        ],
    }


def nearest_in_pixels(images: Tensor, train: Tensor, advance: Callable[[int], object] = lambda _: None) -> Nearest:
    """By root mean square difference (0 to 1) of pixels of uint8 images [m, 3, H, W] and [n, 3, H, W]."""
    rows = train.flatten(1)
    squares = torch.cat([part.float().square().sum(1) for part in rows.split(256)])
    index: list[Tensor] = []
    for queries in images.flatten(1).split(max(64, _AT_ONCE // rows.shape[1])):
        q = queries.float()
        products = torch.cat([q @ part.float().T for part in rows.split(256)], dim=1)
        index.append((squares - 2 * products).argmin(1))
        advance(len(queries))
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
