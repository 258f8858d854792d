"""Training an autoencoder: pixels, features and, where wanted, an adversary."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pochade.autoencoders import deep_compression, wavelet
from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.deep_compression import DeepCompressionVAE
from pochade.autoencoders.hierarchical import HierarchicalAutoencoder
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.wavelet import WaveletVAE
from pochade.data.dataset import Dataset
from pochade.data.samples import PixelSamples
from pochade.errors import PochadeError, naming, nearest
from pochade.images.decode import to_tensor
from pochade.nn.keyed_random import keyed_normal
from pochade.training.checkpoint import check_tensors
from pochade.training.data import ImageData, check_squares
from pochade.training.overrides import read_options
from pochade.training.stage import PREVIOUS, AnyStage, Settings, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.kind import Data, Inputs, Kind, Work, check_size, tensor_shapes, with_synthetic_pictures
from pochade.training.stages.models import is_model
from pochade.training.stages.reconstruction import (
    PictureTask,
    ReconstructionWork,
    check_start,
    perceptual_loss,
    shown_pictures,
    with_start,
)
from pochade.training.task import Batch, Stream

MEASURED_PIXELS = 4096 * 64**2
"""Enough for statistics of latents."""


@dataclass(frozen=True)
class AutoencoderSettings(Settings):
    """An autoencoder's shape, and the weights of the terms of its loss, each a mean over all values.

    The first four fields are the shape of the f8 autoencoder; that of another ``kind`` is its ``size``.
    """

    stage_kind = "autoencoder"

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
    ready: str | None = None
    """Name of a model, folder, or name on the hub of an autoencoder that is taken as it is, and nothing is trained."""


AutoencoderStage = Stage[AutoencoderSettings, ImageData]
FAMILIES: dict[str, tuple[type[HierarchicalAutoencoder], dict[str, dict[str, Any]]]] = {
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
                raise PochadeError(f"task.{name}: {getattr(settings, name)!r} given, allowed with a kind alone")
        return TinyAutoencoder(**shape)
    changed = [name for name in SHAPE if shape[name] != getattr(AutoencoderSettings, name)]
    if changed:
        raise PochadeError(f"task.{changed[0]}: given, but the shape of a {settings.kind} autoencoder is its size")
    cls, variants = FAMILIES[settings.kind]
    size = settings.size or "nano"
    if size not in variants:
        raise PochadeError(
            f"task.size: {size!r} given, {settings.kind} comes as {', '.join(variants)}{nearest(size, variants)}"
        )
    known = [name for name in inspect.signature(cls.__init__).parameters if name not in _OWN]
    with naming("task.changes", "options"):
        changes = read_options(settings.changes or (), known, settings.kind)
    try:
        return cls(**{**variants[size], **changes, "variational": settings.kl > 0})
    except PochadeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        given = ", ".join(changes)
        raise PochadeError(f"task.changes: {given} given, of which no network can be made ({error})") from error


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


class AutoencoderKind(Kind[AutoencoderSettings, ImageData]):
    """Training an autoencoder on pixels."""

    produces = "autoencoder"
    weights = "model"

    def check(self, stage: AutoencoderStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        check_squares(stage)
        network = self.autoencoder(stage, earlier, components)
        check_size(stage.data.size, network.downsampling)
        if stage.task.ready is not None:
            return {}
        data = {"data.source": stage.data.open(stage=stage.name)}
        before = None
        if stage.initialise_from == PREVIOUS:
            one: Any = earlier[-1]  # of this kind
            before = self.autoencoder(one, earlier[:-1], components)
        if weights_of_model(stage, network, components) is None:
            check_start(stage, network, before)
        return data

    def ready_made(self, stage: AutoencoderStage, components: Components) -> ImageAutoencoder | None:
        return None if stage.task.ready is None else taken_ready(stage.task.ready, components)

    def autoencoder(
        self, stage: AutoencoderStage, earlier: Sequence[AnyStage], components: Components
    ) -> ImageAutoencoder:
        if stage.task.ready is not None:
            return taken_ready(stage.task.ready, components)
        with torch.device("meta"):
            return build_autoencoder(stage.task)

    def build(self, stage: AutoencoderStage, inputs: Inputs) -> Work:
        torch.manual_seed(stage.seed)
        network = build_autoencoder(stage.task)
        dataset = stage.data.open(stage=stage.name)
        started = with_model(stage, network, inputs.components)
        return AutoencoderWork(
            stage=with_start(started, network, bool(stage.task.adversarial)),
            task=AutoencoderTask(network, stage.task, perceptual_loss(stage.task)),
            samples=PixelSamples(dataset, stage.data.size),
            data={"data.source": dataset},
            network=network,
            reconstruct=lambda images: network(images.to(network.device)),
            shown=shown_pictures(stage.data, dataset),
            dataset=dataset,
            size=stage.data.size,
        )

    def synthetic(
        self, stage: AutoencoderStage, earlier: Sequence[AnyStage], components: Components
    ) -> AutoencoderStage:
        return with_synthetic_pictures(stage)


def taken_ready(name: str, components: Components) -> ImageAutoencoder:
    """The autoencoder that a stage takes as it is. Raises PochadeError where there is none; it names the other way."""
    try:
        return components.autoencoder(name, field="task.ready")
    except PochadeError as error:
        error.args = (f"{error}; task.ready=none trains one here",)
        raise


def weights_of_model(
    stage: AutoencoderStage, network: ImageAutoencoder, components: Components
) -> dict[str, Tensor] | None:
    """The weights of a whole model's autoencoder, where that is the start of a stage that trains ``network``.

    Raises PochadeError where the model has another autoencoder.
    """
    start = stage.initialise_from
    if start is None or not is_model(start):
        return None
    theirs = components.autoencoder(start, field="initialise_from")
    check_tensors(f"initialise_from: the autoencoder of {start!r}", tensor_shapes(theirs), tensor_shapes(network))
    return theirs.state_dict()


def with_model(stage: AutoencoderStage, network: ImageAutoencoder, components: Components) -> AutoencoderStage:
    """The stage with the weights of a whole model's autoencoder in ``network``, where that is its start.

    Raises PochadeError as ``weights_of_model``.
    """
    weights = weights_of_model(stage, network, components)
    if weights is None:
        return stage
    network.load_state_dict(weights)
    return replace(stage, initialise_from=None)


@dataclass(kw_only=True)
class AutoencoderWork(ReconstructionWork):
    """An autoencoder; the statistics of its latents are measured when it is saved."""

    dataset: Dataset
    size: int

    def save(self, folder: Path) -> None:
        measure_statistics(self.network, self.dataset, self.size)
        super().save(folder)


@torch.no_grad()
def measure_statistics(autoencoder: ImageAutoencoder, dataset: Dataset, size: int) -> None:
    """Sets mean and standard deviation of the raw latents over the data: 4,096 pictures at 64 px, fewer of larger."""
    count = max(1, MEASURED_PIXELS // size**2)
    chosen = dataset.evenly_spaced(count)
    raw: list[Tensor] = []
    for start in range(0, len(chosen), 16):
        images = torch.stack([to_tensor(dataset.image(i, size)) for i in chosen[start : start + 16]])
        raw.append(autoencoder.encode_raw(images.to(autoencoder.device)).cpu())
    values = torch.cat(raw)
    autoencoder.set_statistics(values.mean((0, 2, 3)), values.std((0, 2, 3)))
