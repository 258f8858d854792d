"""Generated pictures beside real ones: the figures of a split."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from pochade.data.dataset import Dataset, Shape
from pochade.evaluation import bootstrap, contrast, copying
from pochade.evaluation.external import NOT_MEASURED, Clip, clip_scores, inception_features
from pochade.evaluation.figures import CopyingFigures, Lite0Figures, RetrievalFigures, SplitFigures
from pochade.evaluation.frechet import frechet_distance
from pochade.evaluation.kid import kid
from pochade.evaluation.pictures import Pictures, caption_embeddings, pooled_features, read_splits
from pochade.evaluation.reconstruction import Autoencoder, Reconstruction, reconstruction
from pochade.evaluation.retrieval import RetrievalProbe
from pochade.features.lite0 import load_lite0
from pochade.features.perceptual import PerceptualLoss


class OnDevice(Autoencoder, Protocol):
    """An autoencoder that names its device."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Networks:
    """Feature extractors whose weights the user brings; None where there are none."""

    inception: torch.jit.ScriptModule | None
    clip: Clip | None


@dataclass(frozen=True)
class Side:
    """The real pictures of one split."""

    real: Pictures
    features: Tensor
    embeddings: Tensor
    thumbnails: Tensor


@dataclass(frozen=True)
class Measured:
    """Generated pictures, uint8 [n, 3, H, W], of the first n captions of a split, their figures, and for each the
    training picture nearest to it by thumbnails."""

    images: Tensor
    figures: SplitFigures
    nearest: copying.Nearest


class Evaluator:
    """Real pictures of ``dataset``, and what measures generated ones by them.

    Args:
        dataset: of all splits.
        size: pixels a side, or width and height.
        seed: of the order of the captions.
        seen: groups that count as training ones, see ``read_splits``.
        bar: moved on while the pictures are looked at.
    """

    def __init__(self, dataset: Dataset, size: int | Shape, seed: int, seen: Collection[str], bar: Progress) -> None:
        self.net = load_lite0()
        self.real = read_splits(dataset, size, seed, seen)
        self.sides: dict[str, Side] = {}
        for split, pictures in self.real.present().items():
            task = bar.add_task(f"real pictures of {split}", total=len(pictures))
            features = pooled_features(self.net, pictures.images, advance_of(bar, task))
            thumbnails = copying.thumbnails(pictures.images)
            self.sides[split] = Side(pictures, features, caption_embeddings(pictures.captions), thumbnails)
        self.train = self.sides["train"]
        self.probe = RetrievalProbe.fit(self.train.features, self.train.embeddings)
        self.typical = copying.typical(self.train.thumbnails)

    def measure(self, split: str, made: Tensor, networks: Networks) -> Measured:
        """Figures of pictures ``made`` of the first captions of a split, uint8 [n, 3, H, W]."""
        side, n = self.sides[split], len(made)
        real, captions = side.real, side.real.captions[:n]
        features = pooled_features(self.net, made)
        nearest = copying.nearest_in_pixels(copying.thumbnails(made), self.train.thumbnails)
        mean, std, distance = _distances(side.features, features)
        precision: RetrievalFigures = {
            "generated": self.probe.precision(features, side.embeddings, real.concepts).as_dict(),
            "real": self.probe.precision(side.features[:n], side.embeddings, real.concepts).as_dict(),
        }
        intervals: dict[str, bootstrap.Interval] = {
            "kid_lite0": bootstrap.of_kid(mean, side.features, features),
            "fd_lite0": bootstrap.of_frechet(distance, side.features, features),
            "copies": bootstrap.of_mean(self._is_copied(nearest)),
        }
        for of, rows in (("", features), (" of real pictures", side.features[:n])):
            for k, hits in self.probe.hits(rows, side.embeddings, real.concepts).items():
                intervals[f"R@{k}{of}"] = bootstrap.of_mean(hits)
        figures: SplitFigures = {
            "pictures": n,
            "real pictures": len(real),
            "kid_lite0": mean,
            "kid_lite0 std": std,
            "fd_lite0": distance,
            "retrieval": precision,
            "contrast": contrast.check(made, real.images[:n], captions),
            "copies": copying.check(nearest, captions, self.typical, self.train.real.captions),
            "kid_inception": NOT_MEASURED,
            "fd_inception": NOT_MEASURED,
            "clip_score": NOT_MEASURED,
            "intervals": intervals,
        }
        if networks.inception is not None:
            x, y = (inception_features(networks.inception, pictures) for pictures in (real.images, made))
            mean, std, distance = _distances(x, y)
            figures["kid_inception"], figures["kid_inception std"] = mean, std
            figures["fd_inception"] = distance
            intervals["kid_inception"] = bootstrap.of_kid(mean, x, y)
            intervals["fd_inception"] = bootstrap.of_frechet(distance, x, y)
        if networks.clip is not None:
            scores = clip_scores(networks.clip, made, captions)
            figures["clip_score"] = float(scores.mean())
            intervals["clip_score"] = bootstrap.of_mean(scores)
        if "held_out" in self.sides:
            figures["copying"] = self._copying(features, made)
            figures["copies"]["held_out"] = float(self._is_copied(self.held_out_nearest).mean())
        return Measured(made, figures, nearest)

    @cached_property
    def held_out_nearest(self) -> copying.Nearest:
        """The training pictures nearest to the real held-out ones, by thumbnails."""
        return copying.nearest_in_pixels(self.sides["held_out"].thumbnails, self.train.thumbnails)

    def _is_copied(self, nearest: copying.Nearest) -> Tensor:
        return (nearest.distance < copying.COPIED * self.typical).double()

    def _copying(self, features: Tensor, made: Tensor) -> CopyingFigures:
        held_out, train = self.sides["held_out"], self.train
        return {
            "features": copying.summarise(
                copying.nearest_in_features(features, train.features),
                copying.nearest_in_features(held_out.features, train.features),
            ),
            "pixels": copying.summarise(
                copying.nearest_in_pixels(made, train.real.images),
                copying.nearest_in_pixels(held_out.real.images, train.real.images),
            ),
        }

    def autoencoder(self, autoencoder: OnDevice, samples: int, batch_size: int) -> dict[str, Reconstruction]:
        """Reconstruction of ``samples`` real pictures of each split."""
        perceptual = PerceptualLoss(self.net)
        result: dict[str, Reconstruction] = {}
        for split, side in self.sides.items():
            batches = side.real.images[:samples].split(batch_size)
            images = (part.to(autoencoder.device, autoencoder.dtype) / 127.5 - 1 for part in batches)
            result[split] = reconstruction(autoencoder, images, perceptual)
        return result


def advance_of(bar: Progress, task: TaskID) -> Callable[[int], object]:
    """What moves a bar on by a number of items."""
    return lambda count: bar.advance(task, count)


def _distances(real: Tensor, fake: Tensor) -> tuple[float, float, float]:
    """KID, its standard deviation over subsets, and the Frechet distance."""
    return *kid(real, fake), frechet_distance(real, fake)


def lite0_figures(real: Tensor, fake: Tensor) -> Lite0Figures:
    """Distances of two sets of pictures by their features of EfficientNet-Lite0, [n, 1280] and [m, 1280]."""
    mean, std, distance = _distances(real, fake)
    return {"kid_lite0": mean, "kid_lite0 std": std, "fd_lite0": distance}
