"""Retrieval precision: does a probe fitted to real pictures alone find the caption of a generated picture?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pochade.errors import PochadeError
from pochade.evaluation.bootstrap import by_caption

PrecisionFigures = TypedDict(
    "PrecisionFigures",
    {
        "R@1": float,
        "R@5": float,
        "R@1 standard error": float,
        "R@5 standard error": float,
        "candidates": int,
        "chance R@1": float,
        "pictures": int,
    },
)

BLOCK = 1024
"""Pictures that are compared with all captions at once."""


@dataclass(frozen=True)
class Precision:
    """Retrieval precision of a set of pictures; 0 to 1."""

    top1: float
    top5: float
    standard_error1: float
    """Of ``top1``, over the captions."""
    standard_error5: float
    candidates: int
    """How many captions each picture chose from: chance is 1 / candidates and 5 / candidates."""
    pictures: int

    def as_dict(self) -> PrecisionFigures:
        """Under the names of the report."""
        return {
            "R@1": self.top1,
            "R@5": self.top5,
            "R@1 standard error": self.standard_error1,
            "R@5 standard error": self.standard_error5,
            "candidates": self.candidates,
            "chance R@1": 1 / self.candidates,
            "pictures": self.pictures,
        }


class RetrievalProbe:
    """Ridge regression from pictures' features to their captions' embeddings.

    Features are centred by the mean of the training features and scaled to norm 1, embeddings are scaled to
    norm 1; W minimises |X W - Y|^2 + ridge |W|^2 (sums over the rows, so ``ridge`` does not scale with their
    count).
    """

    def __init__(self, mean: Tensor, weights: Tensor) -> None:
        self.mean = mean
        self.weights = weights

    @classmethod
    def fit(cls, train_features: Tensor, caption_embeddings: Tensor, ridge: float = 0.1) -> "RetrievalProbe":
        """Fit to real training pictures.

        Args:
            train_features: [n, d]; caption_embeddings: [n, e], one row for each picture.
            ridge: the penalty, above 0.

        Raises:
            PochadeError: the rows do not match, or ``ridge`` is not positive.
        """
        if train_features.ndim != 2 or caption_embeddings.ndim != 2 or len(train_features) != len(caption_embeddings):
            raise PochadeError(
                f"caption_embeddings: shape {tuple(caption_embeddings.shape)} given, "
                f"a row for each of the features {tuple(train_features.shape)} is needed"
            )
        if not ridge > 0:
            raise PochadeError(f"ridge: {ridge} given, allowed are positive numbers")
        x = train_features.double()
        mean = x.mean(0)
        x = F.normalize(x - mean, dim=1)
        gram = x.T @ x
        gram.diagonal().add_(ridge)
        weights = torch.linalg.solve(gram, x.T @ F.normalize(caption_embeddings.double(), dim=1))
        return cls(mean, weights)

    def predict(self, features: Tensor) -> Tensor:
        """Embeddings [m, e] that the features [m, d] point to, float64, not normalised."""
        return F.normalize(features.double() - self.mean, dim=1) @ self.weights

    def precision(
        self, features: Tensor, caption_embeddings: Tensor, groups: Sequence[str], candidates: int = 100
    ) -> Precision:
        """R@1 and R@5: means over the pictures of what ``hits`` gives, of the same arguments."""
        hits = self.hits(features, caption_embeddings, groups, candidates)
        return precision_of(hits, groups, candidates)

    def hits(
        self,
        features: Tensor,
        caption_embeddings: Tensor,
        groups: Sequence[str],
        candidates: int = 100,
        *,
        per_caption: int = 1,
        advance: Callable[[int], object] = lambda _: None,
    ) -> dict[int, np.ndarray]:
        """For k of 1 and 5, the probability [m] that each picture's own caption is among the first k of ``candidates``.

        The others are drawn from other groups, one caption of each; what is given is the expectation over all
        such draws, so there is no seed: with b of N possible others scoring at least as high as the true
        caption, the count of these among the others drawn is hypergeometric. Where there are fewer groups, all
        of them are candidates. Ties count against the picture.

        Args:
            features: [m, d].
            caption_embeddings: [n, e]: the m / per_caption captions that the pictures were made for, then any others
                to choose from.
            groups: n names of what each caption is about (its concept, or the caption itself): no other caption
                of the same group counts as wrong.
            candidates: 2 and more, the true one included.
            per_caption: pictures of each caption: picture i is of caption i % (m / per_caption).
            advance: hears how many pictures are done.

        Raises:
            PochadeError: the rows do not match, or fewer than two groups are given.
        """
        used, rest = divmod(len(features), per_caption)
        if rest or not used <= len(caption_embeddings) == len(groups):
            raise PochadeError(
                f"groups: {len(groups)} given, {len(features)} features, {len(caption_embeddings)} captions"
            )
        first: dict[str, int] = {}
        for i, group in enumerate(groups):
            first.setdefault(group, i)
        number = {group: n for n, group in enumerate(first)}
        if len(number) < 2 or candidates < 2:
            raise PochadeError(f"candidates: {candidates} of {len(number)} groups given, at least 2 are needed")
        own = torch.tensor([number[group] for group in groups[:used]])
        captions = F.normalize(caption_embeddings.double(), dim=1)
        choices = captions[list(first.values())].T
        parts: list[Tensor] = []
        for rows in torch.arange(len(features)).split(BLOCK):
            predicted, of = self.predict(features[rows]), rows % used
            true = (predicted * captions[of]).sum(1, keepdim=True)
            better = predicted @ choices >= true - 1e-9  # two ways of rounding must not break a tie
            better[torch.arange(len(rows)), own[of]] = False
            parts.append(better.sum(1))
            advance(len(rows))
        ranks = torch.cat(parts).numpy()
        others, drawn = len(number) - 1, min(candidates, len(number)) - 1
        return {k: _probability_of_fewer(k, others, ranks, drawn) for k in (1, 5)}


def precision_of(
    hits: Mapping[int, np.ndarray], groups: Sequence[str], candidates: int = 100, per_caption: int = 1
) -> Precision:
    """R@1 and R@5: means of what ``RetrievalProbe.hits`` gives, of the same arguments."""
    drawn = min(candidates, len(dict.fromkeys(groups)))
    of_captions = {k: by_caption(v, per_caption) for k, v in hits.items()}
    means = {k: float(v.mean()) for k, v in of_captions.items()}
    errors = {k: float(v.std() / np.sqrt(len(v))) for k, v in of_captions.items()}
    return Precision(means[1], means[5], errors[1], errors[5], drawn, len(hits[1]))


def _probability_of_fewer(k: int, total: int, marked: np.ndarray, drawn: int) -> np.ndarray:
    """That of ``drawn`` out of ``total``, without replacement, fewer than ``k`` are of the ``marked`` [m]."""
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, total + 1)).cumsum()])

    def log_choose(n: np.ndarray, r: int) -> np.ndarray:
        inside = np.clip(r, 0, n)
        value = log_factorial[n] - log_factorial[inside] - log_factorial[n - inside]
        return np.where(inside == r, value, -np.inf)

    ways = log_choose(np.array(total), drawn)
    exactly = [np.exp(log_choose(marked, i) + log_choose(total - marked, drawn - i) - ways) for i in range(k)]
    return np.minimum(np.sum(exactly, axis=0), 1.0)
