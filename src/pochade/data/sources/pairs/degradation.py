"""What inpainting and super-resolution have to repair: masks of several kinds, and lost detail."""

import io

import numpy as np
from PIL import Image, ImageDraw

from pochade.data.sources.pairs.pair import differ, with_hole
from pochade.errors import PochadeError

FACTORS = (2, 4)
"""By which a picture is reduced for super-resolution."""


def random_hole(target: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image] | None:
    """A square picture with a hole, and its mask; None where nothing but paper would be hidden."""
    mask = draw_mask(target.width, rng)
    blank = Image.new("RGB", target.size, "white")
    if not differ(Image.composite(target, blank, mask), blank):
        return None
    return with_hole(target, mask), mask


def random_loss(target: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A picture reduced by 2 or 4, half the time as a JPEG file, and enlarged again."""
    factor = FACTORS[int(rng.integers(len(FACTORS)))]
    quality = int(rng.integers(50, 96)) if rng.random() < 0.5 else None
    return reduced(target, factor, quality)


def draw_mask(size: int, rng: np.random.Generator) -> Image.Image:
    """A grey picture, size by size, 255 where to repaint and 0 elsewhere: boxes, strokes or a half, equally often."""
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    (_boxes, _strokes, _half)[int(rng.integers(3))](pen, size, rng)
    return mask


def reduced(image: Image.Image, factor: int, quality: int | None = None) -> Image.Image:
    """``image`` as enlarged (bicubic) from one reduced by ``factor``, each of whose pixels is the mean of an area.

    With ``quality`` (1 to 95) the small picture has been a JPEG file of that quality. Raises `PochadeError` for a
    factor of less than 2, or one that leaves no pixel.
    """
    if not 2 <= factor <= min(image.size):
        raise PochadeError(f"factor: {factor} given, allowed are 2 to {min(image.size)}")
    small = image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX)
    if quality is not None:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        small = Image.open(buffer, formats=["JPEG"]).convert("RGB")
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _boxes(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """One to four boxes, their sides a fifth to a half of the picture's."""
    for _ in range(int(rng.integers(1, 5))):
        width, height = (max(1, round(size * side)) for side in rng.uniform(0.2, 0.5, 2))
        left, top = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=255)


def _strokes(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """One to three strokes of a round brush that changes its direction a few times."""
    for _ in range(int(rng.integers(1, 4))):
        width = max(1, round(size * rng.uniform(0.06, 0.18)))
        x, y = rng.uniform(0.15, 0.85, 2) * size
        direction = rng.uniform(0, 2 * np.pi)
        path = [(x, y)]
        for _ in range(int(rng.integers(3, 8))):
            direction += rng.uniform(-1.2, 1.2)
            length = size * rng.uniform(0.1, 0.3)
            x, y = np.clip((x + length * np.cos(direction), y + length * np.sin(direction)), 0, size - 1)
            path.append((float(x), float(y)))
        pen.line(path, fill=255, width=width, joint="curve")
        for x, y in (path[0], path[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)


def _half(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """The left, right, upper or lower half."""
    middle = size // 2
    left, top, right, bottom = 0, 0, size - 1, size - 1
    match int(rng.integers(4)):
        case 0:
            right = middle - 1
        case 1:
            left = middle
        case 2:
            bottom = middle - 1
        case _:
            top = middle
    pen.rectangle((left, top, right, bottom), fill=255)
