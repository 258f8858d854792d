"""Training an autoencoder: pixels, features and, where wanted, an adversary."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.errors import PochadeError
from pochade.flow.noise import rows_normal
from pochade.nn.resample import haar_dwt
from pochade.training.task import Batch, Task


@dataclass(frozen=True)
class AutoencoderSettings:
    """The f8 autoencoder's shape, and the weights of the terms of its loss, each a mean over all values."""

    latent_channels: int = 16
    width: int = 64
    encoder_blocks: tuple[int, ...] = (0, 2, 3, 4)
    """Residual blocks at full, 1/2, 1/4 and 1/8 resolution."""
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 0)
    """Residual blocks at 1/8, 1/4, 1/2 and full resolution."""
    l1: float = 1.0
    mse: float = 1.0
    perceptual: float = 0.5
    """Weight of the distance of EfficientNet-Lite0 feature maps (as LPIPS, 1801.03924)."""
    adversarial: float = 0.0
    """Weight of the hinge loss of a patch discriminator; 0 leaves the discriminator out."""
    adversarial_from: float = 0.0
    """Share of the steps, 0 to below 1, after which the discriminator joins in: late, when the rest has settled."""
    wavelet: float = 0.0
    """Weight of the L1 distance of the three detail bands of the Haar transform (orthonormal, one level)."""
    kl: float = 0.0
    """Weight of the divergence from a standard normal (1312.6114), around 1e-6; above 0 the latents are drawn from the
    encoder's own distribution. Needs an autoencoder with ``encode_distribution``."""
    part: Literal["both", "decoder"] = "both"
    """What is trained. The decoder alone can go on learning after a denoiser was trained on the encoder's latents."""
    latent_noise: float = 0.15
    """Deviation of the noise on the latents, as a share of each channel's own: the decoder learns to forgive. Where the
    latents are drawn from a distribution (``kl``) its variance is added to theirs."""


def build_autoencoder(settings: AutoencoderSettings) -> TinyAutoencoder:
    """The network that the settings describe, with random weights."""
    return TinyAutoencoder(
        latent_channels=settings.latent_channels,
        width=settings.width,
        encoder_blocks=settings.encoder_blocks,
        decoder_blocks=settings.decoder_blocks,
    )


class PatchDiscriminator(nn.Module):
    """Three stride-2 convolutions and a score for each patch of 8 x 8 pixels: [B, 3, H, W] -> [B, 1, H/8, W/8]."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class AutoencoderTask(Task):
    """One step of autoencoder training on {"image": [B, 3, H, W] in [-1, 1], "seed": [B]}.

    Args:
        autoencoder: has ``encode_raw`` and ``decode_raw``; for ``kl`` also ``encode_distribution``.
        settings: the weights of the loss.
        perceptual: ``perceptual(a, b) -> scalar`` over images in [-1, 1]; needed where its weight is not 0.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        settings: AutoencoderSettings,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        if settings.kl and not getattr(autoencoder.config, "variational", False):
            raise PochadeError(f"kl: {settings.kl} given, but the autoencoder gives no variance: allowed is 0")
        if not 0 <= settings.adversarial_from < 1:
            raise PochadeError(f"adversarial_from: {settings.adversarial_from} given, allowed is 0 to below 1")
        self.settings = settings
        self.progress = 0.0
        self.perceptual = [perceptual]  # in a list, so that its frozen weights are no part of this module
        self.discriminator = PatchDiscriminator() if settings.adversarial else None
        both = {"autoencoder": autoencoder, "discriminator": self.discriminator}
        self.parts = nn.ModuleDict({name: part for name, part in both.items() if part is not None})
        if settings.part == "decoder":
            autoencoder.get_submodule("encoder").requires_grad_(False)

    def trainable(self) -> nn.Module:
        """The autoencoder; with an adversary both, so that a checkpoint holds both."""
        return self.autoencoder if self.discriminator is None else self.parts

    def compilable(self) -> list[nn.Module]:
        return [self.autoencoder.get_submodule("encoder"), self.autoencoder.get_submodule("decoder")]

    def begin_step(self, progress: float) -> None:
        self.progress = progress

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Raw latents with their noise, and the divergence of their distribution from a standard normal."""
        settings = self.settings
        network: Any = self.autoencoder
        if settings.kl:
            raw, log_variance = network.encode_distribution(batch["image"])
        else:
            raw, log_variance = network.encode_raw(batch["image"]), None
        noise = rows_normal(batch["seed"], raw.shape[1:]).to(raw)
        share = settings.latent_noise * raw.detach().std(dim=(0, 2, 3), keepdim=True)
        if log_variance is None:
            return raw + share * noise, None
        variance = log_variance.exp()
        divergence = (raw.square() + variance - 1 - log_variance).mean() / 2
        return raw + (variance + share.square()).sqrt() * noise, divergence

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images: Tensor = batch["image"]
        settings = self.settings
        network: Any = self.autoencoder
        latents, divergence = self._latents(batch)
        decoded: Tensor = network.decode_raw(latents)

        l1 = F.l1_loss(decoded, images)
        mse = F.mse_loss(decoded, images)
        loss = settings.l1 * l1 + settings.mse * mse
        metrics = {"l1": l1.detach(), "psnr": (10 * torch.log10(4 / mse.detach()))}
        if divergence is not None:
            loss = loss + settings.kl * divergence
            metrics["kl"] = divergence.detach()
        if settings.wavelet:
            details = F.l1_loss(haar_dwt(decoded)[:, 3:], haar_dwt(images)[:, 3:])
            loss = loss + settings.wavelet * details
            metrics["wavelet"] = details.detach()
        if settings.perceptual and self.perceptual[0] is not None:
            distance = self.perceptual[0](decoded, images)
            loss = loss + settings.perceptual * distance
            metrics["perceptual"] = distance.detach()
        if self.discriminator is not None and self.progress < settings.adversarial_from:
            # Zero, but a gradient for every parameter, as distributed training wants it.
            loss = loss + 0 * sum(p.sum() for p in self.discriminator.parameters())
        elif self.discriminator is not None:
            # One backward pass for both: the generator sees frozen weights, the discriminator a detached picture.
            frozen = {k: v.detach() for k, v in self.discriminator.named_parameters()}
            fooled = -functional_call(self.discriminator, frozen, (decoded,)).mean()
            real = F.relu(1 - self.discriminator(images)).mean()
            fake = F.relu(1 + self.discriminator(decoded.detach())).mean()
            loss = loss + settings.adversarial * fooled + real + fake
            metrics |= {"fooled": fooled.detach(), "discriminator": (real + fake).detach()}
        return {"loss": loss, **metrics}
