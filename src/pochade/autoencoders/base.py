"""What every autoencoder answers, and the statistics that give its latents unit variance."""

from typing import Any, ClassVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.arguments import MAX_COUNT
from pochade.configuration import ConfigMixin
from pochade.errors import PochadeError
from pochade.nn.dtype import check_dtype
from pochade.nn.layout import channels_last
from pochade.values import FACTOR, WIDTH, Ranges, whole

RANGES: Ranges = {
    **dict.fromkeys(("latent_channels", "width", "widths", "downsampling"), WIDTH),
    **dict.fromkeys(("encoder_blocks", "decoder_blocks", "blocks"), whole(0, MAX_COUNT)),
    "latents_std": FACTOR,
}
"""Of what the arguments of several autoencoders may be."""


def check_latents(latents: Tensor, network: Any) -> None:
    """Raises PochadeError unless latents are [B, C, H, W] of the network's type."""
    channels = network.config.latent_channels
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise PochadeError(f"latents: shape {tuple(latents.shape)} given, allowed is [B, {channels}, H, W]")
    check_dtype("latents", latents, network, next(network.parameters()))


class ImageAutoencoder(ModelMixin, ConfigMixin):
    """Pictures to normalised latents and back, around the two networks ``encoder`` and ``decoder`` of a subclass.

    A subclass has ``latent_channels``, ``latents_mean`` and ``latents_std`` in its configuration. The statistics of the
    training set live there and nowhere else.
    """

    config: Any
    ranges: ClassVar[Ranges] = RANGES
    downsampling: int
    """f: a latent cell stands for f x f pixels."""
    encoder: Any
    decoder: Any

    def _check_statistics(self) -> None:
        """Raises PochadeError where the configuration has statistics of another number of channels."""
        for name in ("latents_mean", "latents_std"):
            given = self.config[name]
            if given is not None and len(given) != self.config.latent_channels:
                raise PochadeError(
                    f"{name}: {len(given)} values given, allowed are {self.config.latent_channels}, one a channel"
                )

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.latent_channels
        mean = self.config.latents_mean or [0.0] * channels
        std = self.config.latents_std or [1.0] * channels
        return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(std).view(1, -1, 1, 1)

    def _check_images(self, images: Tensor) -> None:
        f = self.downsampling
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % f or images.shape[3] % f:
            raise PochadeError(
                f"images: shape {tuple(images.shape)} given, allowed is [B, 3, H, W] with H and W multiples of {f}"
            )
        check_dtype("images", images, self, next(self.parameters()))

    def encode_raw(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> the encoder's own output [B, C, H/f, W/f], before normalisation.

        Raises:
            PochadeError: the shape or the type does not fit.
        """
        self._check_images(images)
        return self.encoder(channels_last(images))

    def decode_raw(self, latents: Tensor) -> Tensor:
        """The decoder's output for raw latents, unclamped, around [-1, 1]."""
        return self.decoder(channels_last(latents))

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1], of the type of the weights -> latents [B, C, H/f, W/f] of unit variance.

        Raises:
            PochadeError: the shape or the type does not fit.
        """
        raw = self.encode_raw(images)
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, H, W] of unit variance, of the type of the weights -> images [B, 3, f H, f W] in [-1, 1].

        Raises:
            PochadeError: the shape or the type does not fit.
        """
        check_latents(latents, self)
        mean, std = self._statistics(latents)
        return self.decode_raw(latents * std + mean).clamp(-1, 1).contiguous()

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction of ``images``, unclamped; the training path."""
        return self.decode_raw(self.encode_raw(images))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the per-channel mean and deviation [C] of raw latents, measured on the training set.

        Raises PochadeError for another shape, and for a deviation that is not finite and positive.
        """
        shape = (self.config.latent_channels,)
        if tuple(mean.shape) != shape or tuple(std.shape) != shape:
            raise PochadeError(f"mean, std: shapes {tuple(mean.shape)}, {tuple(std.shape)} given, allowed is {shape}")
        if bool((std <= 0).any()) or not bool(torch.isfinite(mean).all() & torch.isfinite(std).all()):
            raise PochadeError(f"std: {[float(v) for v in std]} given, allowed are finite positive deviations")
        self.register_to_config(latents_mean=[float(v) for v in mean], latents_std=[float(v) for v in std])
