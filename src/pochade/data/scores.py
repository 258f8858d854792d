"""Scores of pictures, and the pictures that score highest.

Where there is neither a network trained on people's judgement nor a stored score, contrast and colourfulness stand for
one, computed, nothing more.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from pochade.data.dataset import Dataset, Scores
from pochade.data.progress import progress_bar
from pochade.errors import PochadeError

SIDE = 64
"""Pixels that a picture is reduced to before it is scored."""
SEEN = 224
"""Pixels a side of a picture that a model scores."""
CONTRAST, COLUMN = "contrast", "column:"


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


def scorer(name: str) -> Callable[[Scores, Callable[[int], Image.Image]], float]:
    """What scores a picture, given the numbers that are stored with it, and a function that gives it, RGB, as a square
    of so many pixels a side, which is called where a picture has to be seen.

    Args:
        name: "contrast" (``score``); "column:NAME", the stored number of that name, where there is none minus infinity;
            or a model of transformers for picture classification, of one class or one called "aesthetic", by hub name
            or folder.

    Raises:
        PochadeError: there is no such model, or a column has no name.
    """
    if name.startswith(COLUMN):
        column = name.removeprefix(COLUMN).casefold()
        if not column:
            raise PochadeError(f"score: {name!r} given, allowed is {COLUMN}NAME with the name of a stored number")
        return lambda scores, _: dict(scores).get(column, -math.inf)
    if name == CONTRAST:
        return lambda _, image: score(image(SIDE))
    from pochade.data.prepare.annotators import classifier

    rate = classifier(name)
    return lambda _, image: rate(image(SEEN))


def keep_best(dataset: Dataset, fraction: float, name: str = CONTRAST, *, progress: bool = True) -> Dataset:
    """The ``fraction`` of the pictures of ``dataset`` that score highest; where scores are equal, the first.

    Args:
        name: of the score, as ``scorer`` takes it.

    Raises:
        PochadeError: the fraction is not in (0, 1], there is no such model, or no picture has a number of that name.
    """
    if not 0 < fraction <= 1:
        raise PochadeError(f"best: {fraction} given, allowed is a fraction above 0 and up to 1")
    if fraction == 1:
        return dataset
    count, rate = len(dataset), scorer(name)
    with progress_bar(progress) as bar:
        numbers = bar.track(range(count), description="scoring pictures")
        scores = [rate(dataset.item(i).scores, partial(dataset.image, i)) for i in numbers]
    if max(scores) == -math.inf:
        known = sorted({column for i in range(count) for column, _ in dataset.item(i).scores})
        raise PochadeError(
            f"score: {name!r} given, but no picture has a number of that name; stored are {', '.join(known) or 'none'}"
        )
    best = sorted(range(count), key=lambda i: -scores[i])[: max(1, round(fraction * count))]
    return dataset.subset(sorted(best))
