"""Distilling a small decoder from an autoencoder's frozen encoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pochade.autoencoders.tiny_decoder import for_autoencoder
from pochade.data.samples import PixelSamples
from pochade.nn.keyed_random import keyed_normal
from pochade.training.data import ImageData, check_squares
from pochade.training.stage import PREVIOUS, AnyStage, Settings, Stage
from pochade.training.stages.components import Components
from pochade.training.stages.kind import Data, Inputs, Kind, Work, check_size, with_synthetic_pictures
from pochade.training.stages.models import latest_autoencoder
from pochade.training.stages.reconstruction import (
    PictureTask,
    ReconstructionWork,
    check_start,
    perceptual_loss,
    shown_pictures,
    with_start,
)
from pochade.training.task import Batch, Stream


@dataclass(frozen=True)
class DecoderSettings(Settings):
    """Whose latents are decoded, by how large a decoder, and the weights of the loss, as for an autoencoder."""

    stage_kind = "decoder"

    autoencoder: str | None = None
    """Name of a model, folder of a model or of an autoencoder; None: that of the last stage that trains one."""
    size: Literal["tiny", "small"] = "tiny"
    """0.24 M or 1.2 M parameters."""
    l1: float = 1.0
    mse: float = 1.0
    perceptual: float = 0.5
    """Weight of the distance of EfficientNet-Lite0 feature maps (as LPIPS, 1801.03924)."""
    adversarial: float = 0.02
    """Weight of the hinge loss of a patch discriminator; 0 leaves the discriminator out."""
    adversarial_from: float = 0.7
    """Share of the steps, 0 to below 1, after which the discriminator joins in."""
    wavelet: float = 0.0
    """Weight of the L1 distance of the three detail bands of the Haar transform."""
    latent_noise: float = 0.15
    """Deviation of the noise on the latents, whose own is 1: the decoder learns to forgive."""


DecoderStage = Stage[DecoderSettings, ImageData]


class DecoderTask(PictureTask):
    """One step of distillation on {"image": [B, 3, H, W] in [-1, 1], "seed": [B]}.

    The picture itself is the target: what the teacher's own decoder makes of the latents has that decoder's faults.

    Args:
        teacher: an autoencoder whose ``encode`` gives latents of unit variance; it is frozen.
        decoder: has ``decode_raw``, for latents of unit variance.
        settings: the weights of the loss.
        perceptual: see ``PictureTask``.
    """

    decoder: nn.Module

    def __init__(
        self,
        teacher: nn.Module,
        decoder: nn.Module,
        settings: DecoderSettings,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__("decoder", decoder, settings, perceptual)
        self.teacher: Any = teacher.requires_grad_(False).eval()
        self.settings = settings

    def compilable(self) -> list[nn.Module]:
        return [self.decoder]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images: Tensor = batch["image"]
        with torch.no_grad():
            latents: Tensor = self.teacher.encode(images)
            noise = keyed_normal(batch["seed"].to(latents.device), latents.shape[1:], Stream.NOISE).to(latents)
            latents = latents + self.settings.latent_noise * noise
        loss, metrics = self.picture_loss(self.decoder(latents), images)
        return {"loss": loss, **metrics}


class DecoderKind(Kind[DecoderSettings, ImageData]):
    """Distilling a decoder on pixels."""

    produces = "decoder"
    weights = "model"

    def check(self, stage: DecoderStage, earlier: Sequence[AnyStage], components: Components) -> Data:
        check_squares(stage)
        dataset = stage.data.open(stage=stage.name)
        autoencoder = self.autoencoder(stage, earlier, components)
        network = self.network(stage, autoencoder)
        before = None
        if stage.initialise_from == PREVIOUS:
            one: Any = earlier[-1]  # of this kind
            before = self.network(one, self.autoencoder(one, earlier[:-1], components))
        check_start(stage, network, before)
        return {"data.source": dataset}

    def network(self, stage: DecoderStage, autoencoder: Any) -> nn.Module:
        """The decoder without weights."""
        with torch.device("meta"):
            return for_autoencoder(stage.task.size, autoencoder.config.latent_channels, autoencoder.downsampling)

    def autoencoder(self, stage: DecoderStage, earlier: Sequence[AnyStage], components: Components) -> Any:
        name = stage.task.autoencoder
        found = latest_autoencoder(earlier, components) if name is None else components.autoencoder(name)
        check_size(stage.data.size, found.downsampling)
        return found

    def build(self, stage: DecoderStage, inputs: Inputs) -> Work:
        name = inputs.model(stage.task.autoencoder, "autoencoder")
        teacher = inputs.components.autoencoder(name)
        torch.manual_seed(stage.seed)
        network = for_autoencoder(stage.task.size, teacher.config.latent_channels, teacher.downsampling)
        dataset = stage.data.open(stage=stage.name)
        return ReconstructionWork(
            stage=with_start(stage, network, bool(stage.task.adversarial)),
            task=DecoderTask(teacher, network, stage.task, perceptual_loss(stage.task)),
            samples=PixelSamples(dataset, stage.data.size),
            data={"data.source": dataset},
            autoencoder=inputs.components.folder(name),
            network=network,
            reconstruct=lambda images: network(teacher.encode(images.to(teacher.device)).to(network.device)),
            shown=shown_pictures(stage.data, dataset),
        )

    def synthetic(self, stage: DecoderStage, earlier: Sequence[AnyStage], components: Components) -> DecoderStage:
        return with_synthetic_pictures(stage)
