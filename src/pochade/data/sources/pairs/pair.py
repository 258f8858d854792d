"""A picture before and after, and what was asked for: what editing, inpainting and super-resolution learn from."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from pochade.images.decode import BadImage, load_image, to_tensor
from pochade.types import TASKS

PAIR_TASKS = TASKS[1:]
"""The tasks that have a source."""
HOLE = (128, 128, 128)
"""What the source of an inpainting shows where the mask is 1."""
MOST_STRETCHED = 0.04
"""By how much the aspect ratios of the pictures of a pair may differ: more, and they do not lie upon each other."""
DIFFERENT, DIFFERENT_SHARE = 24, 0.01
"""A pixel has changed when a channel differs by so many of 256 steps, a picture when such a share of its pixels has."""


@dataclass(frozen=True)
class Pair:
    """``source`` became ``target``, both RGB and size by size.

    ``task`` is one of ``PAIR_TASKS``. ``instruction`` is what to do ("make it green") or, where there is a hole to
    fill or detail to find, what the picture shows; it may be empty there. ``mask`` is a grey picture, 255 where to
    repaint and 0 elsewhere, and always there for "inpaint"; for "edit" it marks what is meant, and hides nothing. Pairs
    of one ``group`` are never on both sides of a split.
    """

    task: str
    source: Image.Image
    target: Image.Image
    mask: Image.Image | None
    instruction: str
    name: str
    group: str

    def sample(self) -> dict[str, Any]:
        """As tensors and words, see `PairDataset`."""
        size = self.target.height, self.target.width
        grey = np.zeros(size, np.uint8) if self.mask is None else np.asarray(self.mask)
        return {
            "source": to_tensor(self.source),
            "target": to_tensor(self.target),
            "mask": torch.from_numpy((grey >= 128).astype(np.float32))[None],
            "instruction": self.instruction,
            "task": TASKS.index(self.task),
            "name": self.name,
        }


@runtime_checkable
class PairDataset(Protocol):
    """A map-style data set of pairs, all its randomness drawn from ``rng`` as in `pochade.data.dataset.Dataset`.

    Samples are ``{"source", "target": float32 [3, size, size] in [-1, 1], "mask": float32 [1, size, size] in {0, 1},
    "instruction": str, "task": int, index into TASKS, "name": str}``. A mask of zeros is the same as none.
    """

    def __len__(self) -> int: ...

    def pair(self, index: int, rng: np.random.Generator | None = None) -> Pair:
        """Pair ``index`` as pictures; without ``rng`` always the same one."""
        ...

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]: ...


class Readable(Protocol):
    """The bytes of a picture, wherever they lie."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Raises `BadImage`."""
        ...


@dataclass(frozen=True)
class Found:
    """A pair whose pictures are not decoded yet. ``instructions`` are alternatives.

    The mask is 1 where its picture is white, or, ``by_alpha``, where it is transparent.
    """

    name: str
    task: str
    instructions: tuple[str, ...]
    group: str
    source: Readable
    target: Readable
    mask: Readable | None = None
    by_alpha: bool = False

    def load(self, size: int, instruction: str, **options: Any) -> tuple[Pair, tuple[str, ...]]:
        """The pair, and the conversions that its pictures took; raises `BadImage`.

        The largest square in the middle is taken and resampled to ``size`` (Lanczos; a source that is smaller,
        bicubic). ``options`` are "background" and "max_megapixels" of `load_image`.
        """
        source, conversions = load_image(self.source.read(), size=size, name=self.source.name, **options)
        target, more = load_image(self.target.read(), size=size, name=self.target.name, **options)
        if _stretch(source, target) > MOST_STRETCHED:
            raise BadImage(self.name, "other shape", f"{_shape(source)} became {_shape(target)}")
        mask = None
        if self.mask is not None:
            mask = _read_mask(self.mask, size, self.by_alpha, options)
            if _stretch(mask, target) > MOST_STRETCHED:
                raise BadImage(self.name, "other shape", f"a mask of {_shape(mask)} for {_shape(target)}")
            mask = _fit_mask(mask, size)
        source, target = fit(source, size), fit(target, size)
        if self.task == "inpaint":
            if mask is None:
                raise BadImage(self.name, "empty mask")
            source = with_hole(source, mask)
        pair = Pair(self.task, source, target, mask, instruction, self.name, self.group)
        return pair, tuple(dict.fromkeys((*conversions, *more)))


def fit(image: Image.Image, size: int) -> Image.Image:
    """The largest centred square at ``size`` by ``size``: reduced by Lanczos, enlarged by bicubic interpolation."""
    side = min(image.size)
    if image.size == (size, size):
        return image
    left, top = (image.width - side) / 2, (image.height - side) / 2
    method = Image.Resampling.BICUBIC if side < size else Image.Resampling.LANCZOS
    return image.resize((size, size), method, box=(left, top, left + side, top + side))


def with_hole(image: Image.Image, mask: Image.Image) -> Image.Image:
    """``image`` with mid grey where ``mask`` is 255."""
    return Image.composite(Image.new("RGB", image.size, HOLE), image, mask)


def differ(one: Image.Image, other: Image.Image, share: float = DIFFERENT_SHARE) -> bool:
    """Whether at least such a share of the pixels of two RGB pictures of one size differs visibly."""
    steps = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max(-1)
    return float((steps >= DIFFERENT).mean()) >= share


def _read_mask(mask: Readable, size: int, by_alpha: bool, options: dict[str, Any]) -> Image.Image:
    data = mask.read()
    options = {**options, "name": mask.name, "size": size}
    if not by_alpha:
        return load_image(data, **options)[0].convert("L")
    white, _ = load_image(data, **{**options, "background": "white"})
    black, _ = load_image(data, **{**options, "background": "black"})
    pixels = np.asarray(white, np.int16)
    # What is transparent by a share a differs by 255 a on the two grounds.
    clear = (pixels - np.asarray(black, np.int16)).max(-1) >= 128
    # A mask that has lost its alpha on white ground shows the region in pure white.
    return Image.fromarray(np.where(clear if clear.any() else pixels.min(-1) >= 250, 255, 0).astype(np.uint8))


def _fit_mask(mask: Image.Image, size: int) -> Image.Image | None:
    """As `fit`, 255 wherever an area holds a pixel of at least 128, so that no hole shrinks; None where all are 0."""
    side = min(mask.size)
    left, top = (mask.width - side) / 2, (mask.height - side) / 2
    white = Image.fromarray((np.asarray(mask) >= 128).astype(np.float32))
    covered = white.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    chosen = np.asarray(covered) > 0
    return Image.fromarray(np.where(chosen, 255, 0).astype(np.uint8)) if chosen.any() else None


def _stretch(one: Image.Image, other: Image.Image) -> float:
    ratio = one.width * other.height / (one.height * other.width)
    return max(ratio, 1 / ratio) - 1


def _shape(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
