"""The f8 autoencoder: TAESD's architecture, with latents normalised per channel."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn

from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.load_diffusers import load_diffusers
from pochade.configuration import register_to_config
from pochade.errors import PochadeError


class TinyAutoencoder(ImageAutoencoder, ModelMixin):  # in the module's namespace diffusers looks for it
    """A deterministic convolutional autoencoder, 8-fold in each direction, without normalisation layers.

    The encoder's and decoder's parameters carry the names of ``diffusers.AutoencoderTiny``, so pretrained TAESD weights
    load (``from_taesd``). ``encode`` gives latents of zero mean and unit variance per channel: the statistics of the
    training set live in the configuration and nowhere else.

    Args:
        latent_channels: C.
        width: channels of every convolution between the two ends.
        encoder_blocks: residual blocks at full, 1/2, 1/4 and 1/8 resolution.
        decoder_blocks: residual blocks at 1/8, 1/4, 1/2 and full resolution.
        latents_mean: mean of each raw latent channel, C values (None: zeros).
        latents_std: standard deviation of each raw latent channel, C values (None: ones).

    Raises:
        PochadeError: an argument is of another type or out of range.
    """

    downsampling: int = 8

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        width: int = 64,
        encoder_blocks: Sequence[int] = (1, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 1),
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._check_statistics()
        for name, blocks in (("encoder_blocks", encoder_blocks), ("decoder_blocks", decoder_blocks)):
            if len(blocks) != 4:
                raise PochadeError(f"{name}: {tuple(blocks)} given, allowed are four numbers, one a resolution")
        widths = (width,) * 4
        self.encoder = EncoderTiny(3, latent_channels, tuple(encoder_blocks), widths, "relu")
        self.decoder = DecoderTiny(latent_channels, 3, tuple(decoder_blocks), widths, 2, "relu", "nearest")
        self._initialise()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownMemberType]  # 4 times faster on a CPU

    def _initialise(self) -> None:
        """He initialisation (1502.01852); residual branches start at zero, since no norm would tame their sum."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, AutoencoderTinyBlock):
                nn.init.zeros_(module.get_parameter("conv.4.weight"))
        last = self.decoder.layers[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.constant_(last.bias, 0.5)  # mid-grey: the decoder works in [0, 1]

    @classmethod
    def from_taesd(cls, name_or_folder: str = "madebyollin/taesd", **kwargs: Any) -> "TinyAutoencoder":
        """Pretrained weights of ``diffusers.AutoencoderTiny`` by hub name or folder.

        Their latents are already close to unit variance, so the statistics stay at 0 and 1.

        Raises:
            PochadeError: the weights cannot be had, or they are of another architecture.
        """
        return cls.from_network(load_diffusers(name_or_folder, (AutoencoderTiny,), **kwargs), name_or_folder)

    @classmethod
    def from_network(cls, theirs: Any, name: str) -> "TinyAutoencoder":
        """The weights of a ``diffusers.AutoencoderTiny``; ``name`` is what an error calls it.

        Raises:
            PochadeError: it has other blocks than TAESD's.
        """
        config = theirs.config
        widths = {*config.encoder_block_out_channels, *config.decoder_block_out_channels}
        depths = {len(config.num_encoder_blocks), len(config.num_decoder_blocks)}
        ends = (config.in_channels, config.out_channels, config.upsampling_scaling_factor)
        kind = (config.act_fn, config.upsample_fn)
        if len(widths) != 1 or depths != {4} or ends != (3, 3, 2) or kind != ("relu", "nearest"):
            raise PochadeError(f"name_or_folder: {name!r} has other blocks than TAESD's, which is allowed")
        ours = cls(
            latent_channels=config.latent_channels,
            width=widths.pop(),
            encoder_blocks=config.num_encoder_blocks,
            decoder_blocks=config.num_decoder_blocks,
        )
        ours.load_state_dict(theirs.state_dict())
        return ours.eval()
