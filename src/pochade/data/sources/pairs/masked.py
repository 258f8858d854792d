"""One area of what changes in a drawing, and the masks that mark it."""

import numpy as np
from PIL import Image, ImageFilter

from pochade.data.sources.pairs.pair import DIFFERENT

GROWN = 0.08
"""By which fraction of the picture's side a mask reaches beyond the area, at most."""
BOXED = 0.5
"""How often a mask is a box, where the box marks as clearly what is meant."""
MEANT = 0.6
"""Fraction of the coloured pixels in a box that are of the area at least, so that it need not be named."""


def changed_area(source: Image.Image, target: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """One connected area of the pixels that differ, [H, W] bool: that of a pixel drawn among those that differ visibly.

    Pixels connect in eight directions. All False where nothing differs visibly.
    """
    steps = np.abs(np.asarray(source, np.int16) - np.asarray(target, np.int16)).max(-1)
    rows, columns = np.nonzero(steps >= DIFFERENT)
    area = np.zeros(steps.shape, bool)
    if not len(rows):
        return area
    start = int(rng.integers(len(rows)))
    area[rows[start], columns[start]] = True
    while True:
        larger = _grown(area, 1) & (steps > 0)
        if (larger == area).all():
            return area
        area = larger


def mark(source: Image.Image, area: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A mask that marks ``area``, a grey picture of 0 and 255: grown by a few pixels or, drawn evenly, its box.

    There is no box where it would hold ``others`` ([H, W] bool) that could be meant as well, or mostly other colours.
    """
    size = len(area)
    chosen = _grown(area, int(rng.integers(1, max(1, round(GROWN * size)) + 1)))
    boxed = rng.random() < BOXED
    if boxed:
        rows, columns = (np.flatnonzero(chosen.any(axis)) for axis in (1, 0))
        box = np.zeros_like(chosen)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        pixels = np.asarray(source, np.int16)
        coloured = box & (pixels.max(-1) - pixels.min(-1) >= DIFFERENT)
        if not (box & others).any() and area[coloured].sum() >= MEANT * coloured.sum():
            chosen = box
    return Image.fromarray(np.where(chosen, 255, 0).astype(np.uint8))


def _grown(area: np.ndarray, pixels: int) -> np.ndarray:
    """With all pixels that lie so near to it, rows and columns counted apart."""
    grey = Image.fromarray(np.where(area, 255, 0).astype(np.uint8))
    return np.asarray(grey.filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0
