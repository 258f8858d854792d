"""Kernel Inception distance (KID): the squared maximum mean discrepancy of two sets of features."""

import torch
from torch import Tensor

from pochade.errors import PochadeError


def check_features(**named: Tensor) -> None:
    """PochadeError unless all are finite matrices of one width with at least two rows."""
    width = next(iter(named.values())).shape[-1]
    for name, value in named.items():
        if value.ndim != 2 or value.shape[0] < 2 or value.shape[1] != width:
            raise PochadeError(f"{name}: shape {tuple(value.shape)} given, allowed is [2 or more, {width}]")
        if not bool(torch.isfinite(value).all()):
            raise PochadeError(f"{name}: finite features needed, NaN or infinity given")


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (1801.01401, eq. 4).

    ``x`` [n, d], ``y`` [m, d]; a scalar that is around 0, also below, for two samples of one distribution.
    """
    n, m, d = x.shape[0], y.shape[0], x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within_x = (xx.sum() - xx.diagonal().sum()) / (n * (n - 1))
    within_y = (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    return within_x + within_y - 2 * xy.mean()


def kid(
    real: Tensor, fake: Tensor, subsets: int = 50, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """KID: mean and standard deviation of ``squared_mmd`` over random subsets (1801.01401, section 4).

    On the features of the Inception network this is what papers call KID; on others their name goes with it, as in
    "KID (Lite0)". The standard deviation is that of a subset's value, not the error of the mean. Float64 throughout.

    Args:
        real: [n, d]; fake: [m, d].
        subsets: how many pairs of subsets are drawn, each without replacement.
        subset_size: rows of a subset; by default 500, or half of the smaller set where that is less: subsets
            that were the whole sets would all be equal, and the deviation 0.

    Raises:
        PochadeError: the features do not match or are not finite, or a subset is larger than a set.
    """
    check_features(real=real, fake=fake)
    most = min(real.shape[0], fake.shape[0])
    size = min(500, max(2, most // 2)) if subset_size is None else subset_size
    if not 2 <= size <= most:
        raise PochadeError(f"subset_size: {size} given, allowed are 2 to {most}, the rows of the smaller set")
    if subsets < 1:
        raise PochadeError(f"subsets: {subsets} given, allowed are 1 and more")
    x, y = real.double(), fake.double()
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: Tensor) -> Tensor:
        return rows[torch.randperm(rows.shape[0], generator=generator)[:size].to(rows.device)]

    values = torch.stack([squared_mmd(draw(x), draw(y)) for _ in range(subsets)])
    return float(values.mean()), float(values.std(correction=0))
