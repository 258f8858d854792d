"""Picture files of a host: read whole or refused, and written as PNG with the recipe inside."""

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..arguments import path_text
from ..errors import FailureError, PochadeError
from ..files import atomic_file, sha256, write_new
from .decode import check_picture, load_image, upright_grey, upright_rgb
from .masks import EditingWarning

KEY = "pochade"
"""Keyword of the PNG text chunk."""
A_PICTURE = "a picture of Pillow or the path of a file"
HAIR = 8
"""Of 255, by which colours differ that are about one."""
SEEN = 512
"""Rows and columns of a picture that are looked at, about."""
PREVIEW = "preview"
"""Its text in a picture that is not finished."""


def slug(prompt: str, length: int = 48) -> str:
    """A file name from a prompt: lower-case words joined by hyphens, at most ``length`` characters."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:length].rstrip("-_") or "picture"


@dataclass(frozen=True)
class Picture:
    """A picture that a bundle gave.

    Attributes:
        image: in RGB, or in RGBA where the source of an inpainted picture is transparent.
        recipe: what gives it again, in the words of the metadata of ``pochade generate``.
    """

    image: Image.Image
    recipe: dict[str, Any]

    def save(self, path: str | Path, *, recipe: bool = True) -> Path:
        """Write a PNG, with the recipe inside; never replaces a file: ``<name>-2.png`` and so on; the path.

        Args:
            path: of the file.
            recipe: whether it is put in.

        Raises:
            PochadeError: the name does not end in ``.png``.
            FailureError: the file could not be written.
        """
        place = Path(path_text("out", path))
        if place.suffix.lower() != ".png":
            raise PochadeError(f"out: {str(path)!r} given, allowed is a name that ends in .png")
        info = PngInfo()
        if recipe:
            info.add_text(KEY, json.dumps(self.recipe))
        return write_new(
            place.parent, place.stem, place.suffix, lambda file: self.image.save(file, format="PNG", pnginfo=info)
        )


def check_preview(path: Path) -> None:
    """Raises PochadeError where there is something that is no preview, and would be lost."""
    if path.suffix.lower() != ".png":
        raise PochadeError(f"preview: {str(path)!r} given, allowed is a name that ends in .png")
    if path.exists() and _text(path) != PREVIEW:
        raise PochadeError(f"preview: {str(path)!r} is there, and no preview: allowed is a new name")


def write_preview(image: Image.Image, path: Path) -> None:
    """Write a preview, over an earlier one."""
    info = PngInfo()
    info.add_text(KEY, PREVIEW)
    with atomic_file(path) as file:
        image.save(file, format="PNG", pnginfo=info)


def _text(path: Path) -> str | None:
    """What the PNG says of itself; None for none, or another file."""
    try:
        with Image.open(path_text("like", path), formats=["PNG"]) as image:
            return image.info.get(KEY)
    except (OSError, ValueError, SyntaxError):
        return None


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


def find_named(like: str | Path, path: str | Path, digest: str | None) -> Path | None:
    """The file of a SHA-256 that the recipe of ``like`` names: where it was then, or beside ``like``; None where there
    is another file, or none, in both places."""
    for place in (Path(path), Path(like).parent / Path(path).name):
        if place.is_file() and sha256(place) == digest:
            return place
    return None


TOLD = {
    "animated": "animated, the first picture is taken",
    "profile ignored": "its colour profile cannot be used, its colours are taken as sRGB",
}
"""What is said of a conversion of ``load_image``."""
FLATTENED = "what is transparent is taken as white"


def warn_of_conversions(name: str, conversions: Sequence[str], *, flattened: bool, stacklevel: int) -> None:
    """Warn of what a picture lost when it was read.

    Args:
        name: of the picture.
        conversions: as ``load_image`` gives them.
        flattened: whether what is transparent was to be seen, and is white now.
        stacklevel: of ``warnings.warn``, seen from the caller.

    Warns:
        EditingWarning: a film, of which the first picture is taken; a transparent part that is taken as white; a colour
            profile that cannot be used.
    """
    warned = TOLD | {"alpha": FLATTENED} if flattened else TOLD
    for conversion in conversions:
        if conversion in warned:
            warnings.warn(f"{name}: {warned[conversion]}", EditingWarning, stacklevel=stacklevel + 1)


def read_picture(name: str, given: str | Path | Image.Image, *, flattened: bool) -> Image.Image:
    """A picture, or that of a file, upright and in sRGB: in RGB on white if it is to be ``flattened``, else in RGBA
    where it is transparent.

    Raises:
        PochadeError: the file is none that can be read, see ``load_image``, or the picture none that ``check_picture``
            takes.

    Warns: as ``warn_of_conversions``.
    """
    background = "white" if flattened else None
    if isinstance(given, Image.Image):
        check_picture(name, given)
        image, conversions = upright_rgb(given, background)
        image, given = image.copy() if image is given else image, "picture"
    else:
        given = path_text(name, given, A_PICTURE)
        image, conversions = load_image(given, background=background, name=f"{name}: {given}")
    warn_of_conversions(f"{name}: {given}", conversions, flattened=flattened, stacklevel=4)
    return image


def read_grey(name: str, given: str | Path | Image.Image) -> np.ndarray:
    """The brightness of a picture, or of that of a file, [H, W] in bytes; what is transparent is black.

    Raises as ``read_picture``.
    """
    if isinstance(given, Image.Image):
        check_picture(name, given)
    else:
        given = path_text(name, given, A_PICTURE)
        given = load_image(given, background=None, name=f"{name}: {given}")[0]
    return np.asarray(upright_grey(given))


def is_nearly_flat(pixels: np.ndarray) -> bool:
    """Whether nine tenths of a picture [H, W, 3] in [0, 1] have one colour, but for ``HAIR``: what is made of it may
    have one alone."""
    some = pixels[:: 1 + len(pixels) // SEEN, :: 1 + pixels.shape[1] // SEEN].reshape(-1, 3)
    apart = np.abs(some - np.median(some, axis=0)).max(-1)
    return bool((apart <= HAIR / 255).mean() >= 0.9)


def check_result(pixels: np.ndarray, *, may_be_flat: bool = False) -> None:
    """Raises FailureError for pixels [H, W, 3] that are not finite, or of one colour as a file would show them, unless
    they ``may_be_flat``."""
    if not np.isfinite(pixels).all():
        raise FailureError("picture: NaN came out, which is no picture")
    colours = (pixels * 255).round().reshape(-1, 3)
    if not may_be_flat and (colours == colours[0]).all():
        raise FailureError("picture: one flat colour came out, which is no picture")


def on_white(image: Image.Image) -> Image.Image:
    """A picture in RGB or RGBA as it looks on white, in RGB."""
    return image if image.mode == "RGB" else upright_rgb(image)[0]


def to_array(image: Image.Image) -> np.ndarray:
    """A picture in RGB or RGBA as float32 [H, W, 3 or 4] in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Float [H, W, 3 or 4] in [0, 1] as a picture."""
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
