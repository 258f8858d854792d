"""Features of an image prompt: statistics of a network's maps over the whole picture."""

import re
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.errors import PochadeError, nearest
from pochade.features.lite0 import POOLED_SIZE, EfficientNetLite0, load_lite0
from pochade.load_transformers import load_transformers

KNOWN = ("lite0", "lite0:MAPS", "clip:NAME_OR_FOLDER")
"""The identities that ``load`` accepts; "lite0" is that of three maps, 1 to 5 are allowed."""

CHANNELS = (16, 24, 40, 112, 320)
"""Of the maps of EfficientNet-Lite0."""
MAPS = 3

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Lite0Style(nn.Module):
    """Mean and deviation over space of each channel of the first maps of EfficientNet-Lite0.

    These statistics are what style transfer matches (1701.01036). Those of the first three maps, at 1/2 to 1/8 of the
    resolution, depend on colours, lines and textures: the same square elsewhere in a picture changes them a sixth as
    much as another colour does, or less. Those of the two after them change as much by its place, and depend on what is
    shown.
    """

    def __init__(self, net: EfficientNetLite0, maps: int = MAPS) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.maps = maps
        self.dim = 2 * sum(CHANNELS[:maps])
        self.identity = "lite0" if maps == MAPS else f"lite0:{maps}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1], resized to 128 x 128 -> features [B, 1, D_image]."""
        size = (POOLED_SIZE, POOLED_SIZE)
        if tuple(images.shape[-2:]) != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        maps = self.net.maps(images)[: self.maps]
        return torch.cat([x for m in maps for x in (m.mean((2, 3)), m.std((2, 3)))], 1)[:, None]


class ClipStyle(nn.Module):
    """The embedding of a CLIP's image tower (2103.00020) in transformers' format, by hub name or from a folder.

    It depends on what is shown more than on how.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers.models.clip.modeling_clip import CLIPModel

        clip = load_transformers("encoder", "CLIP", name, CLIPModel, dtype=torch.float32)
        self.tower: Any = clip.vision_model
        self.projection = clip.visual_projection
        self.identity = f"clip:{name}"
        self.dim = int(clip.config.projection_dim)
        self.side = int(clip.config.vision_config.image_size)
        for key, value in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1], resized to the tower's square -> features [B, 1, D_image], their mean square 1."""
        pixels = images / 2 + 0.5
        size = (self.side, self.side)
        if tuple(pixels.shape[-2:]) != size:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        seen = self.tower(pixel_values=(pixels - self.mean) / self.std).pooler_output
        return F.rms_norm(self.projection(seen), (self.dim,))[:, None]


@lru_cache(maxsize=1)
def load(identity: str) -> Lite0Style | ClipStyle:
    """What gives the features of that identity (``KNOWN``), frozen, on the CPU; the last one is kept.

    Raises PochadeError for an unknown identity, and where the weights cannot be had.
    """
    if match := re.fullmatch(r"lite0(?::([1-5]))?", identity):
        return Lite0Style(load_lite0(), int(match[1] or MAPS))
    if identity.startswith("clip:"):
        return ClipStyle(identity.removeprefix("clip:"))
    raise PochadeError(f"encoder: {identity!r} is unknown, allowed are {', '.join(KNOWN)}{nearest(identity, KNOWN)}")
