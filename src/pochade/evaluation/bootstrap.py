"""Confidence intervals of figures, by drawing the pictures again with replacement."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.evaluation.frechet import covariance_factor
from pochade.evaluation.kid import check_features

RESAMPLES = 1000
FEW = 200
"""Of the Frechet distance, which takes longer."""
LEVEL = 0.95
"""Of all intervals."""
MOST = 2000
"""Rows of a set that the interval of a KID is drawn from, at most: memory grows with their square."""
DRAWN = 10_000
"""Rows that are drawn of a larger set for the interval of a Frechet distance."""
_AT_ONCE = 1 << 22
"""Values of resampled sets that are in memory together."""

Interval = list[float]
"""Lower and upper end."""


def ends_of(values: Tensor, level: float = LEVEL) -> Interval:
    """The middle ``level`` of values [B] of resampled pictures. Raises PochadeError for a ``level`` outside (0, 1)."""
    if not 0 < level < 1:
        raise PochadeError(f"level: {level} given, allowed is above 0 and below 1")
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return values.double().quantile(ends).tolist()


def ends_around(estimate: float, values: Tensor, scale: float = 1.0) -> Interval:
    """The same, moved so that the mean of the values is the estimate, with deviations from it times ``scale``.

    A resampled set has fewer different pictures than the true one, which alone moves a distance of distributions, and
    is no uncertainty.
    """
    return ends_of((values.double() - values.double().mean()) * scale + estimate)


def by_caption(values: Tensor | np.ndarray, per_caption: int) -> np.ndarray:
    """Means [n] over the pictures of each caption, of values [n * per_caption] where picture i is of caption i % n.

    What is drawn again are then the captions: pictures of one caption are alike, and tell less than as many others.
    """
    return np.asarray(values, dtype=np.float64).reshape(per_caption, -1).mean(0)


def draws(count: int, resamples: int = RESAMPLES, seed: int = 0, drawn: int | None = None) -> Iterator[Tensor]:
    """Rows [resamples, drawn] of a set of ``count``, drawn with replacement, in blocks of resamples; all where
    ``drawn`` is None."""
    generator, width = torch.Generator().manual_seed(seed), drawn or count
    for start in range(0, resamples, block := max(1, _AT_ONCE // width)):
        yield torch.randint(count, (min(block, resamples - start), width), generator=generator)


def of_mean(values: Tensor | np.ndarray) -> Interval:
    """The interval of a mean of values [n], one of each picture."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return ends_of(torch.cat([values[rows].mean(1) for rows in draws(len(values))]))


def of_median(values: Tensor) -> Interval:
    """The interval of the median of values [n]."""
    values = values.double()
    return ends_of(torch.cat([values[rows].quantile(0.5, dim=1) for rows in draws(len(values))]))


def of_kid(estimate: float, real: Tensor, fake: Tensor, resamples: int = RESAMPLES) -> Interval:
    """The interval of a KID with features ``real`` [n, d] and ``fake`` [m, d], both drawn again.

    A picture that is drawn twice is not compared with itself: pairs of one picture are left out of the means within a
    set, as the unbiased estimate does (1801.01401, eq. 4). Near a KID of 0 the interval is up to twice too wide. Of a
    larger set the first ``MOST`` rows.

    Raises PochadeError where the features do not match, or are not finite.
    """
    check_features(real=real, fake=fake)
    x, y = real[:MOST].double(), fake[:MOST].double()
    d = x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    p, q = (_counts(len(rows), resamples, seed) for seed, rows in ((0, x), (1, y)))
    across = ((p @ xy) * q).sum(1) / (len(x) * len(y))
    values = _within(xx, p) + _within(yy, q) - 2 * across
    return ends_around(estimate, values[values.isfinite()])  # of few pictures one alone may be drawn, n times


def of_frechet(
    estimate: float,
    real: Tensor,
    fake: Tensor,
    resamples: int = FEW,
    *,
    per_caption: int = 1,
    advance: Callable[[int], object] = lambda _: None,
) -> Interval:
    """The interval of a Frechet distance, with the rows of ``fake`` [m, d] drawn again: those of ``real`` [n, d] stay.

    Captions are drawn, each with all its rows: row i is of caption i % (m / per_caption). Of a set of more than
    ``DRAWN`` rows only k are drawn, about so many, and deviations scaled by sqrt(k / m): the m out of n bootstrap
    (Bickel, Goetze and van Zwet 1997). ``advance`` hears how many resamples are done.

    Raises PochadeError where the features do not match, or are not finite.
    """
    check_features(real=real, fake=fake)
    mean, factor = covariance_factor(real.double())
    y, trace, captions = fake.double(), factor.square().sum(), len(fake) // per_caption
    projected = y @ factor.T
    values: list[Tensor] = []
    pictures = torch.arange(per_caption)[:, None] * captions
    some = min(captions, max(2, DRAWN // per_caption))
    m = some * per_caption
    for chosen in chain.from_iterable(draws(captions, resamples, drawn=some)):
        rows = (chosen + pictures).flatten()
        drawn = y[rows]
        centred = projected[rows] - projected[rows].mean(0)
        # The squares of the singular values of ``frechet_distance``, of the smaller of two equivalent matrices.
        squares = torch.linalg.eigvalsh(centred @ centred.T if m < centred.shape[1] else centred.T @ centred)
        root_trace = (squares.clamp(min=0) / (m - 1)).sqrt().sum()
        values.append((mean - drawn.mean(0)).square().sum() + trace + drawn.var(0).sum() - 2 * root_trace)
        advance(1)
    return ends_around(estimate, torch.stack(values), (m / len(fake)) ** 0.5)


def _counts(count: int, resamples: int, seed: int) -> Tensor:
    """How often each of ``count`` rows is drawn, [resamples, count] float64."""
    index = torch.cat(list(draws(count, resamples, seed)))
    return torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, index, torch.ones_like(index).double())


def _within(kernel: Tensor, counts: Tensor) -> Tensor:
    """Means [B] of a kernel [n, n] over pairs of different rows, drawn ``counts`` [B, n] times."""
    squares = counts.square()
    total = ((counts @ kernel) * counts).sum(1) - squares @ kernel.diagonal()
    return total / (counts.sum(1).square() - squares.sum(1))
