"""A simple score of how much there is to see in a picture, and the pictures that score highest.

It stands where a network trained on people's judgement would: contrast and colourfulness, computed, nothing more.
"""

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset
from pochade.data.progress import progress_bar
from pochade.errors import PochadeError

SIDE = 64
"""Pixels that a picture is reduced to before it is scored."""


def colourfulness(pixels: np.ndarray) -> float:
    """Of RGB pixels [H, W, 3] in [0, 255]: 0 for grey, about 109 and more for what people call extremely colourful.

    sigma + 0.3 mu over R - G and (R + G) / 2 - B (Hasler and Suesstrunk 2003, equation 11, "M3").
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    one, other = red - green, (red + green) / 2 - blue
    return float(np.hypot(one.std(), other.std()) + 0.3 * np.hypot(one.mean(), other.mean()))


def contrast(pixels: np.ndarray) -> float:
    """Of RGB pixels [H, W, 3] in [0, 255]: the deviation of their luma (ITU-R 601), 0 to 127.5."""
    return float((pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])).std())


def score(image: Image.Image) -> float:
    """Contrast over 127.5 plus colourfulness over 109: 0 for a plain grey picture, about 1 to 2 for a vivid one."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    return contrast(pixels) / 127.5 + colourfulness(pixels) / 109


def keep_best(dataset: Dataset, fraction: float, progress: bool = True) -> Dataset:
    """The ``fraction`` of the pictures of ``dataset`` that score highest; where scores are equal, the first.

    Raises:
        PochadeError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise PochadeError(f"best: {fraction} given, allowed is a fraction above 0 and up to 1")
    if fraction == 1:
        return dataset
    count = len(dataset)
    with progress_bar(progress) as bar:
        scores = [score(dataset.image(i, SIDE)) for i in bar.track(range(count), description="scoring pictures")]
    best = sorted(range(count), key=lambda i: -scores[i])[: max(1, round(fraction * count))]
    return dataset.subset(sorted(best))
