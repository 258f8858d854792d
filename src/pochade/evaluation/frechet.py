"""Frechet distance between two sets of features, each described by a Gaussian."""

import torch
from torch import Tensor

from pochade.evaluation.kid import check_features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (1706.08500, eq. 6).

    On the features of the Inception network this is FID; on others their name goes with it, as in "FID-style distance
    (Lite0)". The trace of the root is the sum of the singular values of A B^T,
    where S_1 = A^T A and S_2 = B^T B: no root of a matrix is taken, so sets with fewer rows than columns are
    as exact as others. The estimate is biased upwards, the more so the fewer the rows: compare only figures from
    equally many pictures. Float64 throughout.

    Args:
        real: [n, d]; fake: [m, d].

    Raises:
        PochadeError: the features do not match, are not finite, or have fewer than two rows.
    """
    check_features(real=real, fake=fake)
    mean_x, x = covariance_factor(real.double())
    mean_y, y = covariance_factor(fake.double())
    root_trace = torch.linalg.svdvals(x @ y.T).sum()
    distance = (mean_x - mean_y).square().sum() + x.square().sum() + y.square().sum() - 2 * root_trace
    return max(float(distance), 0.0)


def covariance_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [d] and a factor A of the covariance A^T A, with at most d rows."""
    mean = features.mean(0)
    centred = (features - mean) / (features.shape[0] - 1) ** 0.5
    if centred.shape[0] > centred.shape[1]:
        centred = torch.linalg.qr(centred, mode="r").R
    return mean, centred
