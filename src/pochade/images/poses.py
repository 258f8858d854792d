"""Poses of people as stick figures, a kind of control, in the colours of OpenPose (1812.08008)."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

JOINTS = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
)
"""Of the person shown, whose right is at the left of the picture."""
LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0))
"""Pairs of ``JOINTS``; the i-th limb has the hue 20 i degrees."""
COLOURS = tuple(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / 18, 1, 1)) for i in range(len(LIMBS)))
WIDTH = 1 / 32
"""Of a limb, as a fraction of the picture's side."""
FINE = 4
"""Pixels along a side for one of the picture, before it is made smaller."""


def stick_figure(joints: np.ndarray, size: int) -> Image.Image:
    """The pose of one person, ``JOINTS`` [14, 2] as x and y in [0, 1], in RGB on black, ``size`` pixels a side."""
    image = Image.new("RGB", (FINE * size, FINE * size))
    pen = ImageDraw.Draw(image)
    for (one, other), colour in zip(LIMBS, COLOURS, strict=True):
        draw_limb(pen, joints[[one, other]] * FINE * size, WIDTH * FINE * size, colour)
    return image.resize((size, size), Image.Resampling.BOX)


def draw_limb(pen: ImageDraw.ImageDraw, points: np.ndarray, width: float, colour: tuple[int, ...]) -> None:
    """A line through points [n, 2] in pixels, with round ends and bends."""
    corners = [(float(x), float(y)) for x, y in points]
    pen.line(corners, fill=colour, width=round(width))
    for x, y in corners:
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)
