"""Generated pictures beside real ones: the figures of a split."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from pochade.evaluation import bootstrap, contrast, copying
from pochade.evaluation.external import NOT_MEASURED, inception_features
from pochade.evaluation.figures import CopyingFigures, Lite0Figures, RetrievalFigures, SplitFigures
from pochade.evaluation.frechet import frechet_distance
from pochade.evaluation.kid import kid
from pochade.evaluation.networks import Features, Networks
from pochade.evaluation.pictures import MOST_REAL, Pictures, Splits, caption_embeddings, pooled_features
from pochade.evaluation.reconstruction import Autoencoder, Reconstruction, reconstruction
from pochade.evaluation.retrieval import RetrievalProbe, precision_of
from pochade.features.perceptual import PerceptualLoss


class OnDevice(Autoencoder, Protocol):
    """An autoencoder that names its device."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Side:
    """The real pictures of one split."""

    real: Pictures
    features: Tensor
    embeddings: Tensor
    thumbnails: Tensor


@dataclass(frozen=True)
class Measured:
    """Generated pictures, uint8 [m, 3, H, W], their figures, and for each the training picture nearest to it by
    thumbnails. Picture i is of caption i % ``captions`` of its split."""

    images: Tensor
    captions: int
    figures: SplitFigures
    nearest: copying.Nearest


class Evaluator:
    """Real pictures, and what measures generated ones by them.

    Args:
        real: pictures of each split.
        networks: what the features are of.
        bar: shows how far each part of the work is.
    """

    def __init__(self, real: Splits, networks: Networks, bar: Progress) -> None:
        self.networks = networks
        self.bar = bar
        self.sides: dict[str, Side] = {}
        for split, pictures in real.present().items():
            advance = self._task(f"real pictures of {split}", len(pictures))
            features = pooled_features(networks.lite0, pictures.images, advance)
            thumbnails = copying.thumbnails(pictures.images)
            self.sides[split] = Side(pictures, features, caption_embeddings(pictures.captions), thumbnails)
        self.train = self.sides["train"]
        self.probe = RetrievalProbe.fit(self.train.features, self.train.embeddings)
        advance = self._task("distances between real pictures of train", min(len(real.train), copying.MOST))
        self.typical = copying.typical(self.train.thumbnails, advance)

    def _task(self, name: str, total: int) -> Callable[[int], object]:
        return advance_of(self.bar, self.bar.add_task(name, total=total))

    def measure(self, split: str, made: Tensor, found: Features, per_caption: int = 1) -> Measured:
        """Figures of pictures ``made``, uint8 [m, 3, H, W], of the first n = m / ``per_caption`` captions of a split:
        picture i is of caption i % n. ``found``: what the networks give for them."""
        side, count, n = self.sides[split], len(made), len(made) // per_caption
        real, captions = side.real, side.real.captions[:n] * per_caption
        features = found["lite0"]
        advance = self._task(f"copies of {split}", count)
        nearest = copying.nearest_in_pixels(copying.thumbnails(made), self.train.thumbnails, advance)
        advance = self._task(f"retrieval of {split}", count + n)
        hits = self.probe.hits(features, side.embeddings, real.concepts, per_caption=per_caption, advance=advance)
        real_hits = self.probe.hits(side.features[:n], side.embeddings, real.concepts, advance=advance)
        precision: RetrievalFigures = {
            "generated": precision_of(hits, real.concepts, per_caption=per_caption).as_dict(),
            "real": precision_of(real_hits, real.concepts).as_dict(),
        }
        distances, intervals = self._with_intervals("lite0", split, side.features, features, per_caption)
        intervals["copies"] = bootstrap.of_mean(bootstrap.by_caption(self._is_copied(nearest), per_caption))
        for k in hits:
            intervals[f"R@{k}"] = bootstrap.of_mean(bootstrap.by_caption(hits[k], per_caption))
            intervals[f"R@{k} of real pictures"] = bootstrap.of_mean(real_hits[k])
        advance = self._task(f"contrast of {split}", count + n)
        figures: SplitFigures = {
            "pictures": count,
            "real pictures": len(real),
            "kid_lite0": distances[0],
            "kid_lite0 std": distances[1],
            "fd_lite0": distances[2],
            "retrieval": precision,
            "contrast": contrast.check(made, real.images[:n], captions, advance),
            "copies": copying.check(nearest, captions, self.typical, self.train.real.captions),
            "kid_inception": NOT_MEASURED,
            "fd_inception": NOT_MEASURED,
            "clip_score": NOT_MEASURED,
            "intervals": intervals,
        }
        if self.networks.inception is not None:
            advance = self._task(f"Inception features of real pictures of {split}", len(real))
            of_real = inception_features(self.networks.inception, real.images, advance)
            distances, more = self._with_intervals("inception", split, of_real, found["inception"], per_caption)
            figures["kid_inception"], figures["kid_inception std"], figures["fd_inception"] = distances
            intervals |= more
        if "clip" in found:
            figures["clip_score"] = float(found["clip"].mean())
            intervals["clip_score"] = bootstrap.of_mean(bootstrap.by_caption(found["clip"], per_caption))
        if "held_out" in self.sides:
            figures["copying"] = self._copying(split, features, made)
            figures["copies"]["held_out"] = float(self._is_copied(self.held_out_nearest).mean())
        return Measured(made, n, figures, nearest)

    def _with_intervals(
        self, net: str, split: str, real: Tensor, fake: Tensor, per_caption: int
    ) -> tuple[tuple[float, float, float], dict[str, bootstrap.Interval]]:
        """``_distances`` of features of the network ``net``, and the intervals of KID, for which the first picture of
        each caption counts, and of the Frechet distance."""
        advance = self._task(f"distances ({net}) of {split}", bootstrap.FEW)
        mean, std, distance = _distances(real, fake)
        return (mean, std, distance), {
            f"kid_{net}": bootstrap.of_kid(mean, real, fake[: len(fake) // per_caption]),
            f"fd_{net}": bootstrap.of_frechet(distance, real, fake, per_caption=per_caption, advance=advance),
        }

    @cached_property
    def held_out_nearest(self) -> copying.Nearest:
        """The training pictures nearest to the real held-out ones, by thumbnails."""
        return copying.nearest_in_pixels(self.sides["held_out"].thumbnails, self.train.thumbnails)

    def _is_copied(self, nearest: copying.Nearest) -> Tensor:
        return (nearest.distance < copying.COPIED * self.typical).double()

    @cached_property
    def _held_out_copying(self) -> tuple[copying.Nearest, copying.Nearest]:
        """The training pictures nearest to the real held-out ones, by features and by pixels."""
        side = self.sides["held_out"]
        return self._nearest("real held_out", side.features, side.real.images)

    def _nearest(self, name: str, features: Tensor, images: Tensor) -> tuple[copying.Nearest, copying.Nearest]:
        """The training pictures nearest to pictures, by features and, of the first ``copying.MOST``, by pixels."""
        images, train = images[: copying.MOST], self.train.real.images[: copying.MOST]
        advance = self._task(f"nearest training pictures of {name}", len(features) + len(images))
        return (
            copying.nearest_in_features(features, self.train.features, advance),
            copying.nearest_in_pixels(images, train, advance),
        )

    def _copying(self, split: str, features: Tensor, made: Tensor) -> CopyingFigures:
        by_features, by_pixels = self._nearest(split, features, made)
        of_real = self._held_out_copying
        return {
            "features": copying.summarise(by_features, of_real[0]),
            "pixels": copying.summarise(by_pixels, of_real[1]),
            "pictures compared by pixels": {
                "generated": len(by_pixels.index),
                "held_out": len(of_real[1].index),
                "train": min(len(self.train.real), copying.MOST),
            },
        }

    def autoencoder(self, autoencoder: OnDevice, samples: int, batch_size: int) -> dict[str, Reconstruction]:
        """Reconstruction of ``samples`` real pictures of each split, at most ``MOST_REAL``."""
        perceptual = PerceptualLoss(self.networks.lite0)
        result: dict[str, Reconstruction] = {}
        for split, side in self.sides.items():
            real = side.real.images[: min(samples, MOST_REAL)]
            advance = self._task(f"reconstruction of {split}", len(real))
            images = (part.to(autoencoder.device, autoencoder.dtype) / 127.5 - 1 for part in real.split(batch_size))
            result[split] = reconstruction(autoencoder, images, perceptual, advance)
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
