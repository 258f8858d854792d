"""Autoencoders that halve the resolution step by step beside parameter-free shortcuts (DC-AE, 2410.10733).

A fixed invertible transform takes the picture to 12 channels at half size; a hierarchy of stages, each with its own
width, takes these down to the latents. Convolutions alone: no norm and no attention, so every output depends on a
neighbourhood only, and large pictures may be cut into tiles.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.autoencoders.base import ImageAutoencoder
from pochade.errors import PochadeError
from pochade.nn.resample import ShortcutDownsample, ShortcutUpsample

BANDS = 12
"""Channels of the picture at half size: 3 colours x 2 x 2 pixels."""
INITIAL_LOG_VARIANCE = -4.0
"""A deviation of 0.14: before training the noise is well below the latents."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) / 4: [B, D, H, W] -> [B, D, H, W].

    A step of Adam moves every weight by the learning rate, whatever the width; in wide networks the sum of so many
    small moves is what diverges at 2e-3. The quarter takes that back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x))) / 4


class HierarchicalEncoder(nn.Module):
    """[B, 3, H, W] -> [B, outputs, H/f, W/f], f = 2^stages.

    The first C = ``latent_channels`` outputs have a shortcut: the mean over groups of the last stage's channels.
    """

    def __init__(
        self, split: nn.Module, widths: Sequence[int], blocks: Sequence[int], latent_channels: int, outputs: int
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.split = split
        self.stem = nn.Conv2d(BANDS, widths[0], 3, padding=1)
        layers: list[nn.Module] = [ResidualBlock(widths[0]) for _ in range(blocks[0])]
        for (before, after), count in zip(itertools.pairwise(widths), blocks[1:], strict=True):
            layers += [ShortcutDownsample(before, after), *(ResidualBlock(after) for _ in range(count))]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(self.stem(self.split(images)))
        out = self.head(x)
        shortcut = torch.unflatten(x, 1, (self.latent_channels, -1)).mean(2)
        return out + F.pad(shortcut, (0, 0, 0, 0, 0, out.shape[1] - self.latent_channels))


class HierarchicalDecoder(nn.Module):
    """[B, C, H, W] -> [B, 3, f H, f W], the mirror of ``HierarchicalEncoder``.

    ``blocks`` are in the order of ``widths``.
    """

    def __init__(self, join: nn.Module, widths: Sequence[int], blocks: Sequence[int], latent_channels: int) -> None:
        super().__init__()
        self.repeats = widths[-1] // latent_channels
        self.stem = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        layers: list[nn.Module] = [ResidualBlock(widths[-1]) for _ in range(blocks[-1])]
        for (before, after), count in zip(itertools.pairwise(widths[::-1]), blocks[-2::-1], strict=True):
            layers += [ShortcutUpsample(before, after), *(ResidualBlock(after) for _ in range(count))]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[0], BANDS, 3, padding=1)
        self.join = join

    def forward(self, latents: Tensor) -> Tensor:
        x = self.stem(latents) + latents.repeat_interleave(self.repeats, dim=1)
        return self.join(self.head(self.stages(x)))


class HierarchicalAutoencoder(ImageAutoencoder):
    """What the hierarchical autoencoders share. A subclass calls ``_build`` once its configuration is registered."""

    encoder: HierarchicalEncoder
    decoder: HierarchicalDecoder

    def _build(self, split: nn.Module, join: nn.Module) -> None:
        """Both networks around a transform to ``BANDS`` channels at half size and its inverse, initialised."""
        self._check_statistics()
        config = self.config
        channels: int = config.latent_channels
        self.downsampling = int(config.downsampling)
        stages = self.downsampling.bit_length() - 1
        if not config.widths:
            raise PochadeError("widths: none given, allowed is one for each stage")
        if self.downsampling < 2 or self.downsampling != 2**stages or len(config.widths) > stages:
            raise PochadeError(
                f"downsampling: {self.downsampling} given, allowed are powers of two from {2 ** len(config.widths)}, "
                f"as there are {len(config.widths)} widths"
            )
        for before, after in itertools.pairwise(config.widths):
            if 4 * before % after:
                raise PochadeError(f"widths: {after} after {before} given, allowed are the divisors of {4 * before}")
        if config.widths[-1] % channels:
            raise PochadeError(f"latent_channels: {channels} given, allowed are the divisors of {config.widths[-1]}")
        for name in ("encoder_blocks", "decoder_blocks"):
            if len(config[name]) != len(config.widths):
                raise PochadeError(f"{name}: {tuple(config[name])} given, allowed is a number for each of the widths")
        widths, encoder_blocks, decoder_blocks = (
            (*given, *[given[-1]] * (stages - len(given)))
            for given in (config.widths, config.encoder_blocks, config.decoder_blocks)
        )
        outputs = 2 * channels if config.variational else channels
        self.encoder = HierarchicalEncoder(split, widths, encoder_blocks, channels, outputs)
        self.decoder = HierarchicalDecoder(join, widths, decoder_blocks, channels)
        self._initialise(widths[0])
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownMemberType]  # 4 times faster on a CPU

    @torch.no_grad()
    def _initialise(self, width: int) -> None:
        """The shortcuts alone carry the picture: every branch ends in zeros, and the two ends copy and average bands.

        What then comes out is the orthogonal projection of the picture onto what the latents have room for, the
        picture itself where no stage has fewer than four times the channels of the one before.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.kaiming_normal_(module.conv1.weight, nonlinearity="relu")  # 1502.01852
        # The channels whose means meet in one latent all hold the same band.
        band = torch.arange(width).div(max(width // self.config.latent_channels, 1), rounding_mode="floor") % BANDS
        copies = F.one_hot(band, BANDS).to(self.encoder.stem.weight)
        self.encoder.stem.weight[:, :, 1, 1] = copies
        self.decoder.head.weight[:, :, 1, 1] = copies.T / copies.sum(0).clamp_min(1)[:, None]
        if self.config.variational:
            assert self.encoder.head.bias is not None
            self.encoder.head.bias[self.config.latent_channels :] = INITIAL_LOG_VARIANCE

    def encode_raw(self, images: Tensor) -> Tensor:
        return super().encode_raw(images)[:, : self.config.latent_channels]

    def encode_distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the raw latents, [B, C, H/f, W/f] each (1312.6114); the mean is ``encode_raw``.

        Raises:
            PochadeError: the shape does not fit, or the encoder gives no variance.
        """
        if not self.config.variational:
            raise PochadeError("variational: False in this autoencoder's configuration, its encoder gives no variance")
        mean, log_variance = super().encode_raw(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)
