"""WaveletVAE, the f16 autoencoder of IRIS: Haar bands first, then three stages down."""

from collections.abc import Sequence
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pochade.autoencoders.hierarchical import HierarchicalAutoencoder
from pochade.configuration import register_to_config
from pochade.nn.resample import haar_dwt, haar_idwt


class HaarSplit(nn.Module):
    """[B, 3, H, W] -> [B, 12, H/2, W/2]: half the Haar bands, so that LL is the mean of its cell, in [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return haar_dwt(images) / 2


class HaarJoin(nn.Module):
    """The inverse of ``HaarSplit``."""

    def forward(self, bands: Tensor) -> Tensor:
        return haar_idwt(bands * 2)


class WaveletVAE(HierarchicalAutoencoder, ModelMixin):  # in the module's namespace diffusers looks for it
    """A convolutional autoencoder over Haar bands, 16-fold in each direction.

    Args:
        latent_channels: C, a divisor of the last width.
        widths: channels at 1/2, 1/4, 1/8 and 1/16 resolution; each divides four times the one before.
        encoder_blocks: residual blocks of the encoder, for each width.
        decoder_blocks: residual blocks of the decoder, in the same order (from 1/2 to 1/16).
        downsampling: f; where there are fewer widths than its power of two, stages of the last width follow.
        variational: whether the encoder also gives a log-variance, for training with a KL term.
        latents_mean: mean of each raw latent channel, C values (None: zeros).
        latents_std: standard deviation of each raw latent channel, C values (None: ones).

    Raises:
        PochadeError: widths, blocks, channels and downsampling do not go together.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: Sequence[int] = (32, 64, 64, 64),
        encoder_blocks: Sequence[int] = (1, 2, 2, 2),
        decoder_blocks: Sequence[int] = (1, 2, 2, 2),
        downsampling: int = 16,
        variational: bool = False,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._build(HaarSplit(), HaarJoin())


VARIANTS: dict[str, dict[str, Any]] = {
    "nano": dict(widths=(32, 64, 64, 64), encoder_blocks=(0, 2, 2, 2), decoder_blocks=(0, 2, 2, 3)),
    "small": dict(widths=(32, 64, 128, 256), encoder_blocks=(0, 2, 2, 2), decoder_blocks=(0, 2, 2, 2)),
    "base": dict(widths=(48, 96, 192, 384), encoder_blocks=(2, 4, 4, 4), decoder_blocks=(0, 3, 2, 1)),
}
"""Sizes by name; parameters of encoder and decoder: nano at most 1.5 M in all, small 3.5 M + 4.7 M, base 15 M + 8 M."""
