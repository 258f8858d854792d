"""Spatial controls, pictures that a denoiser follows: how each of their kinds (``pochade.types.CONTROLS``) is read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pochade.errors import PochadeError
from pochade.images.decode import is_16_bit, upright_grey, upright_rgb

MOST_WHITE = 0.5
"""Fraction of the pixels that lines can take at most: they are one or two pixels wide."""
LEAST_LEVELS = 8
"""Of 255, or of 65,535 where it has 16 bits: a depth map whose brightness varies by less shows no depth."""


def lines_of(image: Image.Image) -> Tensor:
    """[1, H, W] float32 in {0, 1} from a picture of white lines on black, each pixel rounded to one of both."""
    return torch.from_numpy(np.asarray(upright_grey(image)) >= 128)[None].float()


def depth_of(image: Image.Image) -> Tensor:
    """[1, H, W] float32 from a grey map, near being bright: stretched from its least brightness, 0, to its largest, 1.

    All zero where the map has one brightness.
    """
    depth = torch.from_numpy(_levels(image).astype(np.float32))[None]
    least, most = depth.aminmax()
    return (depth - least) / (most - least).clamp_min(1)


def _levels(image: Image.Image) -> np.ndarray:
    """The brightness [H, W] of a map in the steps that it has: of 16 bits, or of 255."""
    return np.asarray(image if is_16_bit(image) else upright_grey(image))


def pose_of(image: Image.Image) -> Tensor:
    """[3, H, W] float32 from a stick figure on black, made as bright as it can be; all zero where all is black."""
    pose = torch.from_numpy(np.array(upright_rgb(image, "black")[0], dtype=np.float32)).permute(2, 0, 1)
    return pose / pose.max().clamp_min(1)


def _check_lines(image: Image.Image, name: str) -> None:
    white = float(lines_of(image).mean())
    if white > MOST_WHITE:
        raise PochadeError(f"{name}: {white:.0%} of it is white, allowed are white lines on black")


def _check_pose(image: Image.Image, name: str) -> None:
    bright = float((pose_of(image).amax(0) >= 0.5).float().mean())
    if bright > MOST_WHITE:
        raise PochadeError(f"{name}: {bright:.0%} of it is not black, allowed are stick figures on black")


def _check_depth(image: Image.Image, name: str) -> None:
    levels = _levels(image)
    least, most = int(levels.min()), int(levels.max())
    if most - least < LEAST_LEVELS:
        white = 65535 if is_16_bit(image) else 255
        raise PochadeError(
            f"{name}: its brightness goes from {least} to {most} of {white}, which shows no depth; allowed is a map, "
            f"near being bright, of {LEAST_LEVELS} levels and more"
        )


@dataclass(frozen=True)
class Control:
    """A kind of control.

    Attributes:
        channels: C of its tensor.
        tensor: a picture of it -> [C, H, W] float32 in [0, 1], all zero where there is nothing to follow.
        check: raises PochadeError where a picture cannot be one, of that name.
    """

    channels: int
    tensor: Callable[[Image.Image], Tensor]
    check: Callable[[Image.Image, str], None]

    def read(self, image: Image.Image, name: str) -> Tensor:
        """The tensor of a picture of that name. Raises PochadeError where it cannot be one of this kind."""
        self.check(image, name)
        return self.tensor(image)


KINDS = {
    "edges": Control(1, lines_of, _check_lines),
    "depth": Control(1, depth_of, _check_depth),
    "pose": Control(3, pose_of, _check_pose),
}
"""By the names of ``pochade.types.CONTROLS``."""


def control_image(control: Tensor) -> Image.Image:
    """A control [C, H, W] in [0, 1] as a picture, as ``Control.read`` takes it."""
    pixels = (control * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels if len(control) > 1 else pixels[..., 0])


def encode_control(control: Tensor, encode_images: Callable[[Tensor], Tensor]) -> Tensor:
    """Latents [B, C, h, w] of controls [B, C, H, W] in [0, 1], drawn dark on white, as pictures show lines and things.

    A row of zeros becomes one of zeros, which is no control.

    Args:
        encode_images: [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
    """
    latents = encode_images((1 - 2 * control).expand(-1, 3, -1, -1))
    return latents * (control != 0).flatten(1).any(1)[:, None, None, None]
