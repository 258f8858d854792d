"""DC-VAE, the f32 autoencoder of MicroForge: few tokens for large pictures (after DC-AE, 2410.10733)."""

from collections.abc import Sequence
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pochade.autoencoders.hierarchical import HierarchicalAutoencoder
from pochade.configuration import register_to_config


class DeepCompressionVAE(HierarchicalAutoencoder, ModelMixin):  # in the module's namespace diffusers looks for it
    """A convolutional autoencoder, 32-fold in each direction; 16- and 64-fold for comparison.

    Args:
        latent_channels: C, a divisor of the last width.
        widths: channels at 1/2 (behind a pixel-unshuffle), 1/4, 1/8 and 1/16 resolution; each divides four times the
            one before.
        encoder_blocks: residual blocks of the encoder, for each width.
        decoder_blocks: residual blocks of the decoder, in the same order (from 1/2 to 1/16).
        downsampling: f, 2 to the power of the number of stages; stages beyond the widths repeat the last width and
            its number of blocks.
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
        widths: Sequence[int] = (32, 64, 128, 256),
        encoder_blocks: Sequence[int] = (1, 2, 2, 2),
        decoder_blocks: Sequence[int] = (1, 2, 2, 2),
        downsampling: int = 32,
        variational: bool = False,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._build(nn.PixelUnshuffle(2), nn.PixelShuffle(2))


_TWO = (2, 2, 2, 2)

VARIANTS: dict[str, dict[str, Any]] = {
    "nano": dict(latent_channels=16, widths=(32, 64, 64, 64), encoder_blocks=(0, 1, 2, 2), decoder_blocks=(0, 2, 3, 2)),
    "tiny": dict(latent_channels=16, widths=(32, 64, 128, 256), encoder_blocks=_TWO, decoder_blocks=_TWO),
    "small": dict(
        latent_channels=32, widths=(64, 128, 256, 512), encoder_blocks=(2, 2, 4, 2), decoder_blocks=(2, 2, 3, 3)
    ),
    "base": dict(latent_channels=32, widths=(128, 256, 512, 512), encoder_blocks=(2, 4, 3, 3), decoder_blocks=_TWO),
}
"""Sizes by name; parameters: nano at most 2 M, tiny 16 M, small 77 M, base 110 M."""
