"""Picture files of a host: read whole or refused, and written as PNG with the recipe inside."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import PochadeError
from ..files import write_new
from .decode import load_image, upright_rgb

KEY = "pochade"
"""Keyword of the PNG text chunk."""


def slug(prompt: str, length: int = 48) -> str:
    """A file name from a prompt: lower-case words joined by hyphens, at most ``length`` characters."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:length].rstrip("-_") or "picture"


@dataclass(frozen=True)
class Picture:
    """A picture that a bundle gave.

    Attributes:
        image: in RGB.
        recipe: what gives it again, in the words of the metadata of ``pochade generate``.
    """

    image: Image.Image
    recipe: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write a PNG with the recipe inside; never replaces a file: ``<name>-2.png`` and so on; the path.

        Raises:
            PochadeError: the name does not end in ``.png``.
            FailureError: the file could not be written.
        """
        place = Path(path)
        if place.suffix.lower() != ".png":
            raise PochadeError(f"out: {str(path)!r} given, allowed is a name that ends in .png")
        info = PngInfo()
        info.add_text(KEY, json.dumps(self.recipe))
        return write_new(
            place.parent, place.stem, place.suffix, lambda file: self.image.save(file, format="PNG", pnginfo=info)
        )


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe in a PNG of pochade, whoever made it. Raises PochadeError where it has none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
    except (OSError, ValueError, SyntaxError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "damaged, or another format"
        raise PochadeError(f"like: {str(path)!r} is no readable PNG ({reason})") from None
    try:
        recipe: Any = json.loads(text or "")
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise PochadeError(f"like: {str(path)!r} holds no recipe (of another program, or written without)")
    return recipe


def read_picture(name: str, given: str | Path | Image.Image, background: str = "white") -> Image.Image:
    """A picture, or that of a file, upright and in RGB, on ``background`` where it is transparent.

    Raises:
        PochadeError: the file is none that can be read, see ``load_image``.
    """
    if isinstance(given, Image.Image):
        return upright_rgb(given, background)[0]
    return load_image(given, background=background, name=f"{name}: {given}")[0]


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB picture as float32 [H, W, 3] in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Float [H, W, 3] in [0, 1] as a picture."""
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
