"""Training an autoencoder: pixels, features and, where wanted, an adversary."""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pochade.autoencoders import deep_compression, wavelet
from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.deep_compression import DeepCompressionVAE
from pochade.autoencoders.hierarchical import HierarchicalAutoencoder
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.wavelet import WaveletVAE
from pochade.errors import PochadeError, nearest
from pochade.nn.keyed_random import keyed_normal
from pochade.nn.resample import haar_dwt
from pochade.training.stage import read_options
from pochade.training.task import Batch, Stream, Task


@dataclass(frozen=True)
class AutoencoderSettings:
    """An autoencoder's shape, and the weights of the terms of its loss, each a mean over all values.

    The first four fields are the shape of the f8 autoencoder; that of another ``kind`` is its ``size``.
    """

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
    # None, and not the name of what it means: a run from before these fields goes on.
    kind: Literal["wavelet", "deep_compression"] | None = None
    """The family of the autoencoder; None: the f8 one."""
    size: str | None = None
    """Which of its variants, with a ``kind`` alone; None: nano."""
    changes: tuple[str, ...] | None = None
    """Of the variant's arguments, as name=value. (``variant`` and ``options`` are a denoiser's, in the same recipe.)"""


KINDS: dict[str, tuple[type[HierarchicalAutoencoder], dict[str, dict[str, Any]]]] = {
    "wavelet": (WaveletVAE, wavelet.VARIANTS),
    "deep_compression": (DeepCompressionVAE, deep_compression.VARIANTS),
}
SHAPE = ("latent_channels", "width", "encoder_blocks", "decoder_blocks")
_OWN = {"self", "variational", "latents_mean", "latents_std"}


def build_autoencoder(settings: AutoencoderSettings) -> ImageAutoencoder:
    """The network that the settings describe, with random weights; its encoder gives a variance where ``kl`` asks.

    Raises:
        PochadeError: a size or a change is unknown, or a field goes with another kind.
    """
    shape = {name: getattr(settings, name) for name in SHAPE}
    if settings.kind is None:
        for name in ("size", "changes"):
            if getattr(settings, name) is not None:
                raise PochadeError(f"{name}: {getattr(settings, name)!r} given, allowed with a kind alone")
        return TinyAutoencoder(**shape)
    changed = [name for name in SHAPE if shape[name] != getattr(AutoencoderSettings, name)]
    if changed:
        raise PochadeError(f"{changed[0]}: given, but the shape of a {settings.kind} autoencoder is its size")
    cls, variants = KINDS[settings.kind]
    size = settings.size or "nano"
    if size not in variants:
        raise PochadeError(
            f"size: {size!r} given, {settings.kind} comes as {', '.join(variants)}{nearest(size, variants)}"
        )
    known = [name for name in inspect.signature(cls.__init__).parameters if name not in _OWN]
    changes = read_options(settings.changes or (), known, settings.kind)
    try:
        return cls(**{**variants[size], **changes, "variational": settings.kl > 0})
    except PochadeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise PochadeError(f"changes: {', '.join(changes)} given, of which no network can be made ({error})") from error


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


class LossWeights(Protocol):
    """The settings of ``PictureTask``."""

    @property
    def l1(self) -> float: ...
    @property
    def mse(self) -> float: ...
    @property
    def perceptual(self) -> float: ...
    @property
    def adversarial(self) -> float: ...
    @property
    def adversarial_from(self) -> float: ...
    @property
    def wavelet(self) -> float: ...


class PictureTask(Task):
    """What tasks share whose network paints pictures that are known: the loss, and an adversary that may join in.

    Args:
        name: the network's, in ``named_parameters`` and in a checkpoint with an adversary.
        network: what is trained.
        settings: the weights of the loss.
        perceptual: ``perceptual(a, b) -> scalar`` over images in [-1, 1]; needed where its weight is not 0.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        settings: LossWeights,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= settings.adversarial_from < 1:
            raise PochadeError(f"adversarial_from: {settings.adversarial_from} given, allowed is 0 to below 1")
        self.add_module(name, network)
        self.weights = settings
        self.progress = 0.0
        self.perceptual = [perceptual]  # in a list, so that its frozen weights are no part of this module
        self.discriminator = PatchDiscriminator() if settings.adversarial else None
        both = {name: network, "discriminator": self.discriminator}
        self.parts = nn.ModuleDict({name: part for name, part in both.items() if part is not None})
        self.network = [network]

    def trainable(self) -> nn.Module:
        """The network; with an adversary both, so that a checkpoint holds both."""
        return self.network[0] if self.discriminator is None else self.parts

    def begin_step(self, progress: float) -> None:
        self.progress = progress

    def picture_loss(self, decoded: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum for pictures [B, 3, H, W] and what they should be, and its terms, detached."""
        settings = self.weights
        l1 = F.l1_loss(decoded, images)
        mse = F.mse_loss(decoded, images)
        loss = settings.l1 * l1 + settings.mse * mse
        metrics = {"l1": l1.detach(), "psnr": (10 * torch.log10(4 / mse.detach()))}
        if settings.wavelet:
            details = F.l1_loss(haar_dwt(decoded)[:, 3:], haar_dwt(images)[:, 3:])
            loss = loss + settings.wavelet * details
            metrics["wavelet"] = details.detach()
        perceptual = self.perceptual[0]
        if settings.perceptual and perceptual is not None:
            if isinstance(perceptual, nn.Module):
                perceptual.to(images.device)  # the loop moves what belongs to the task
            distance = perceptual(decoded, images)
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
        return loss, metrics


class AutoencoderTask(PictureTask):
    """One step of autoencoder training on {"image": [B, 3, H, W] in [-1, 1], "seed": [B]}.

    Args:
        autoencoder: has ``encode_raw`` and ``decode_raw``; for ``kl`` also ``encode_distribution``.
        settings: the weights of the loss.
        perceptual: see ``PictureTask``.
    """

    autoencoder: nn.Module

    def __init__(
        self,
        autoencoder: nn.Module,
        settings: AutoencoderSettings,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if settings.kl and not getattr(autoencoder.config, "variational", False):
            raise PochadeError(f"kl: {settings.kl} given, but the autoencoder gives no variance: allowed is 0")
        super().__init__("autoencoder", autoencoder, settings, perceptual)
        self.settings = settings
        if settings.part == "decoder":
            autoencoder.get_submodule("encoder").requires_grad_(False)

    def compilable(self) -> list[nn.Module]:
        return [self.autoencoder.get_submodule("encoder"), self.autoencoder.get_submodule("decoder")]

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Raw latents with their noise, and the divergence of their distribution from a standard normal."""
        settings = self.settings
        network: Any = self.autoencoder
        if settings.kl:
            raw, log_variance = network.encode_distribution(batch["image"])
        else:
            raw, log_variance = network.encode_raw(batch["image"]), None
        noise = keyed_normal(batch["seed"].to(raw.device), raw.shape[1:], Stream.NOISE).to(raw)
        share = settings.latent_noise * raw.detach().std(dim=(0, 2, 3), keepdim=True)
        if log_variance is None:
            return raw + share * noise, None
        variance = log_variance.exp()
        divergence = (raw.square() + variance - 1 - log_variance).mean() / 2
        return raw + (variance + share.square()).sqrt() * noise, divergence

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        network: Any = self.autoencoder
        latents, divergence = self._latents(batch)
        loss, metrics = self.picture_loss(network.decode_raw(latents), batch["image"])
        if divergence is not None:
            loss = loss + self.settings.kl * divergence
            metrics["kl"] = divergence.detach()
        return {"loss": loss, **metrics}
