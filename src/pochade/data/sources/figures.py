"""People in random poses, drawn from their number alone: a picture, and the pose that it shows."""

import json
from hashlib import sha256

import numpy as np
from PIL import Image, ImageDraw

from pochade.data.dataset import Item, Split, check_size
from pochade.data.sources.synthetic import Numbered
from pochade.images.poses import FINE, draw_limb, stick_figure

CLOTHES = {
    "red": (210, 47, 39),
    "orange": (225, 122, 40),
    "yellow": (241, 179, 28),
    "green": (92, 158, 49),
    "blue": (30, 80, 160),
    "purple": (138, 78, 164),
    "white": (240, 240, 240),
    "grey": (120, 120, 120),
}
SKINS = ((250, 220, 188), (222, 187, 144), (193, 154, 101), (165, 121, 57), (106, 70, 47))
OUTLINE = 1 / 72
"""Of the black line around everything, as a fraction of the picture's side."""
VERSION = 1
"""Changes with what the pictures show."""


class Figures(Numbered):
    """A person from the front, with a caption ("person, red shirt, blue trousers, arms raised") and its pose.

    Args:
        split: "train", "held_out" (a tenth) or "all".
        count: of all pictures, at least 1.

    Raises:
        PochadeError: a number out of range.
        EmptySplitError: one picture alone is not held out.
    """

    def __init__(self, split: Split, count: int) -> None:
        super().__init__("figures", split, count)

    def item(self, index: int) -> Item:
        number, split = self.number(index)
        joints, (shirt, trousers), _ = self._person(number)
        raised = ", arms raised" if joints[[4, 7], 1].max() < joints[0, 1] else ""
        caption = f"person, {shirt} shirt, {trousers} trousers{raised}"
        return Item(str(number), (caption,), None, str(number), split, "CC0-1.0")

    def image(self, index: int, size: int) -> Image.Image:
        check_size(size)
        joints, (shirt, trousers), skin = self._person(int(self.numbers[index]))
        side = FINE * size
        points = joints * side
        limb = 0.3 * float(np.linalg.norm(points[2] - points[5]))  # of the shoulders' width
        hips = (points[8] + points[11]) / 2
        image = Image.new("RGB", (side, side), "white")
        pen = ImageDraw.Draw(image)
        parts = [
            *((points[[a, b, c]], limb, CLOTHES[trousers]) for a, b, c in ((8, 9, 10), (11, 12, 13))),
            *((np.stack((points[1] * 0.8 + hips * 0.2, hips)), 2.6 * limb, CLOTHES[shirt]),),
            *((points[[a, b, c]], limb, CLOTHES[shirt]) for a, b, c in ((2, 3, 4), (5, 6, 7))),
            *((points[[a]], 1.1 * limb, skin) for a in (4, 7)),
            *((points[[0]], 3.2 * limb, skin),),
        ]
        for line, width, colour in parts:
            draw_limb(pen, line, width + 2 * OUTLINE * side, (0, 0, 0))
            draw_limb(pen, line, width, colour)
        return image.resize((size, size), Image.Resampling.BOX)

    def control(self, index: int, size: int, kind: str) -> Image.Image:
        if kind != "pose":
            return super().control(index, size, kind)
        check_size(size)
        return stick_figure(self._person(int(self.numbers[index]))[0], size)

    def identity(self, index: int) -> str:
        return sha256(json.dumps(["figures", VERSION, int(self.numbers[index])]).encode()).hexdigest()

    @staticmethod
    def _person(number: int) -> tuple[np.ndarray, tuple[str, str], tuple[int, int, int]]:
        """``JOINTS`` [14, 2] as x and y in [0, 1], the colours of shirt and trousers, and of the skin.

        The arms may point anywhere, legs stand or stride; knees and elbows bend. All of it fits into the picture.
        """
        rng = np.random.default_rng([VERSION, number])

        def chain(start: np.ndarray, angle: float, bend: float, length: float) -> list[np.ndarray]:
            """Two bones from ``start``, the first at an angle from straight down, outwards for the person's left."""
            ends = [start]
            for turn in (angle, angle + bend):
                ends.append(ends[-1] + length * np.array([np.sin(turn), np.cos(turn)]))
            return ends[1:]

        lean = rng.uniform(-0.25, 0.25)
        up = np.array([np.sin(lean), -np.cos(lean)])
        across = np.array([np.cos(lean), np.sin(lean)])
        hip = np.zeros(2)
        neck = hip + 0.34 * up
        joints = {0: neck + 0.16 * up, 1: neck}
        for side, shoulder, base in ((-1, 2, 8), (1, 5, 11)):
            joints[shoulder] = neck + side * 0.12 * across
            arm = chain(joints[shoulder], side * rng.uniform(0.1, 3.0), side * rng.uniform(-0.3, 1.4), 0.17)
            joints[base] = hip + side * 0.07 * across
            leg = chain(joints[base], side * rng.uniform(0, 0.9), -side * rng.uniform(0, 0.6), 0.22)
            joints |= dict(zip((shoulder + 1, shoulder + 2, base + 1, base + 2), (*arm, *leg), strict=True))
        points = np.stack([joints[i] for i in range(len(joints))])
        least, most = points.min(0) - 0.16, points.max(0) + 0.16  # room for the head and the width of limbs
        scale = rng.uniform(0.85, 1) / max(most - least)
        room = 1 - scale * (most - least)
        shirt, trousers = (str(name) for name in rng.choice(list(CLOTHES), 2, replace=False))
        skin = SKINS[int(rng.integers(len(SKINS)))]
        return scale * (points - least) + rng.uniform(size=2) * room, (shirt, trousers), skin
