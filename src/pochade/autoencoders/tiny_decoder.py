"""TinyVAEDecoder, LiRA's decoder: depthwise-separable convolutions that learn from another autoencoder's latents."""

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.autoencoders.base import RANGES, check_latents
from pochade.configuration import ConfigMixin, register_to_config
from pochade.errors import PochadeError
from pochade.nn.layout import channels_last
from pochade.values import Ranges


class SeparableBlock(nn.Module):
    """x + separable(relu(separable(x))), each a depthwise 3 x 3 convolution and a 1 x 1 one: [B, D, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise1 = nn.Conv2d(channels, channels, 1)
        self.depthwise2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.pointwise1(self.depthwise1(x)))
        return x + self.pointwise2(self.depthwise2(inner))


class TinyVAEDecoder(ModelMixin, ConfigMixin):
    """Latents of unit variance to pictures; the second half of an autoencoder whose first half is another network's.

    Stages of separable blocks, each at twice the resolution of the one before and narrower; a pixel-shuffle leads from
    one to the next, and from the last to the pixels. No norm and no attention: an output depends on a neighbourhood
    only, and large pictures may be cut into tiles.

    Args:
        latent_channels: C.
        widths: channels at the latents' resolution, at twice, four times it, and so on.
        blocks: separable blocks of each stage.
        downsampling: f, a power of two; the last pixel-shuffle makes f / 2^(stages - 1) x f / 2^(stages - 1) pixels of
            a cell.

    Raises:
        PochadeError: widths, blocks and downsampling do not go together.
    """

    config: Any
    ranges: ClassVar[Ranges] = RANGES
    downsampling: int
    """f: a latent cell stands for f x f pixels."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: Sequence[int] = (88, 64, 36),
        blocks: Sequence[int] = (6, 7, 6),
        downsampling: int = 8,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths) or not widths:
            raise PochadeError(
                f"blocks: {tuple(blocks)} given, allowed is a number for each of the widths {tuple(widths)}"
            )
        smallest = 2 ** (len(widths) - 1)
        if downsampling < smallest or downsampling & (downsampling - 1):
            raise PochadeError(
                f"downsampling: {downsampling} given, allowed are powers of two from {smallest}, as there are "
                f"{len(widths)} widths"
            )
        self.downsampling = int(downsampling)
        last = self.downsampling // smallest
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1), nn.ReLU()]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if stage:
                layers += [nn.Conv2d(widths[stage - 1], 4 * width, 1), nn.PixelShuffle(2)]
            layers += [SeparableBlock(width) for _ in range(count)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], 3 * last * last, 3, padding=1)
        self.shuffle = nn.PixelShuffle(last)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownMemberType]  # several times faster on a CPU

    @torch.no_grad()
    def _initialise(self) -> None:
        """He initialisation (1502.01852); residual branches start at zero, and the first pictures are about grey."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, SeparableBlock):
                nn.init.zeros_(module.pointwise2.weight)
        nn.init.normal_(self.head.weight, std=1e-2)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] of unit variance -> images [B, 3, f H, f W], unclamped, around [-1, 1]; for training."""
        x = self.layers(channels_last(latents))
        return self.shuffle(self.head(x))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] of unit variance, of the type of the weights -> images [B, 3, f H, f W] in [-1, 1].

        Raises:
            PochadeError: the shape or the type does not fit.
        """
        check_latents(latents, self)
        return self.decode_raw(latents).clamp(-1, 1).contiguous()

    def forward(self, latents: Tensor) -> Tensor:
        """``decode_raw``, the path of training."""
        return self.decode_raw(latents)

    def encode(self, images: Tensor) -> NoReturn:
        """Raises PochadeError: this is a decoder alone."""
        raise PochadeError("encode: this is a decoder alone, allowed is the autoencoder that it learned from")


SIZES: dict[str, dict[int, dict[str, Any]]] = {
    "tiny": {
        8: dict(widths=(88, 64, 36), blocks=(6, 7, 6)),
        16: dict(widths=(88, 64, 36, 16), blocks=(6, 7, 5, 1)),
        32: dict(widths=(88, 64, 40, 24, 16), blocks=(5, 6, 5, 4, 1), latent_channels=32),
    },
    "small": {
        8: dict(widths=(216, 128, 56), blocks=(7, 8, 6)),
        16: dict(widths=(216, 128, 56, 24), blocks=(7, 8, 5, 1)),
        32: dict(widths=(216, 112, 64, 32, 16), blocks=(7, 8, 7, 4, 1), latent_channels=32),
    },
}
"""Size -> downsampling -> arguments. Parameters: tiny 0.24 M, small 1.2 M."""


def for_autoencoder(size: str, latent_channels: int, downsampling: int) -> TinyVAEDecoder:
    """A decoder of random weights for an autoencoder's latents. Raises PochadeError for a size that there is not."""
    if size not in SIZES or downsampling not in SIZES[size]:
        known = ", ".join(f"{name} for {'/'.join(map(str, table))}" for name, table in SIZES.items())
        raise PochadeError(f"size: {size!r} for {downsampling} pixels to a cell given, allowed are {known}")
    arguments: dict[str, Any] = {**SIZES[size][downsampling], "latent_channels": latent_channels}
    return TinyVAEDecoder(**arguments, downsampling=downsampling)
