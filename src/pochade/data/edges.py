"""Edges of pictures, as a control for a denoiser, and a cache of them beside one of latents.

The cache holds a bit for each pixel, in parts, each a safetensors file renamed into place when whole: an interrupted
build goes on where it stopped.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pochade.data.captioned import progress_bar
from pochade.data.files import atomic_file, write_json
from pochade.data.images import load_image
from pochade.data.latents import CachedLatents, Pictures
from pochade.errors import PochadeError, missing_extra

PART = 512
"""Pictures in one file of the cache."""
SIGMA = 1.0
"""Width in pixels of the blur before edges are looked for: drawings have no noise, and their lines are thin."""
MOST = 0.5
"""Share of the pixels that lines can take at most: they are one or two pixels wide."""


def load_canny() -> Any:
    """scikit-image's function. Raises PochadeError where it is not installed."""
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise missing_extra("scikit-image", "eval") from error
    return canny


def edges(image: Image.Image | Tensor) -> Tensor:
    """[1, H, W] float32 in {0, 1}, 1 on an edge: Canny's edges of red, green and blue, joined.

    Two colours may be equally bright, so that their border is to be seen in one channel only.

    Args:
        image: a picture, or [3, H, W] in [-1, 1].

    Raises:
        PochadeError: a tensor of another shape is given, or scikit-image is not installed.
    """
    canny = load_canny()
    if isinstance(image, Image.Image):
        channels = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
    elif image.ndim == 3 and image.shape[0] == 3:
        channels = image.detach().float().cpu().numpy() / 2 + 0.5
    else:
        raise PochadeError(f"image: shape {tuple(image.shape)} given, allowed is [3, H, W]")
    found = np.any([canny(channel, sigma=SIGMA) for channel in channels], axis=0)
    return torch.from_numpy(found[None].astype(np.float32))


def edges_of(path: Path, width: int, height: int) -> Tensor:
    """The edges [1, H, W] of a picture file, whose middle is cropped and resampled to that size first.

    Raises:
        PochadeError: the file is no picture, or scikit-image is not installed.
    """
    picture, _ = load_image(path)
    return edges(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))


def read_edges(path: Path) -> Tensor:
    """[1, H, W] float32 in {0, 1} from a picture of white lines on black, each pixel rounded to one of both.

    Raises:
        PochadeError: the file is no picture, or more than half of it is white, as where lines are black on white.
    """
    picture, _ = load_image(path)
    lines = torch.from_numpy(np.asarray(picture.convert("L")) >= 128)[None].float()
    if float(lines.mean()) > MOST:
        raise PochadeError(f"{path}: {float(lines.mean()):.0%} of it is white, allowed are white lines on black")
    return lines


def edges_image(lines: Tensor) -> Image.Image:
    """Edges [1, H, W] as a picture of white lines on black, as ``read_edges`` takes it."""
    return Image.fromarray((lines[0] * 255).round().to(torch.uint8).cpu().numpy())


def build_edges(latents: CachedLatents, pictures: Pictures, folder: Path, *, progress: bool = True) -> "CachedEdges":
    """Find the edges of all ``pictures``, of which ``latents`` are, into ``folder``, which may hold a part of them.

    Args:
        folder: named after ``pochade.data.latents.fingerprint``, so that it never holds anything else.

    Raises:
        PochadeError: the pictures are not as many as the latents, a part that was there already is damaged, or
            scikit-image is not installed.
    """
    if len(pictures) != latents.pictures:
        raise PochadeError(f"pictures: {len(pictures)} given, there are latents of {latents.pictures}")
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-len(pictures) // PART)
    with progress_bar(progress) as bar:
        task = bar.add_task("finding edges", total=len(pictures))
        for part in range(count):
            path = folder / f"part-{part:05d}.safetensors"
            items = range(part * PART, min(len(pictures), (part + 1) * PART))
            if path.exists():
                bar.advance(task, len(items))
                continue
            found: list[np.ndarray] = []
            size = (0, 0)
            for item in items:
                lines = edges(pictures.image(item))[0].numpy()
                size = lines.shape
                found.append(np.packbits(lines.astype(bool)))
                bar.advance(task)
            tensors = {"edges": torch.from_numpy(np.stack(found)), "size": torch.tensor(size)}
            with atomic_file(path) as file:
                file.write(save(tensors))
    write_json(folder / "cache.json", {"pictures": len(pictures), "parts": count})
    return CachedEdges(latents, folder, count)


class CachedEdges:
    """Samples of a cache of latents, each with ``"control"``, the edges [1, H, W] float32 of its picture."""

    def __init__(self, latents: CachedLatents, folder: Path, parts: int) -> None:
        self._latents = latents
        self._parts = [_read(folder / f"part-{number:05d}.safetensors") for number in range(parts)]

    def __len__(self) -> int:
        return len(self._latents)

    def control(self, item: int) -> Tensor:
        """The edges [1, H, W] of picture ``item``."""
        packed, (height, width) = self._parts[item // PART]
        bits = np.unpackbits(packed[item % PART].numpy(), count=height * width)
        return torch.from_numpy(bits.reshape(1, height, width).astype(np.float32))

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A variant of group ``index`` with one of its captions, both drawn evenly, and its edges."""
        item = self._latents.variant(index, rng)
        return {**self._latents.picture(item, rng), "control": self.control(item)}


def _read(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Packed bits [pictures, bytes], and rows and columns of a picture."""
    try:
        tensors = load_file(path)
        height, width = tensors["size"].tolist()
        return tensors["edges"], (height, width)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PochadeError(f"{path}: damaged ({error}); delete this file and it is made again") from error
