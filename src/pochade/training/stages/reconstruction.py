"""The common parts of autoencoder and decoder stages: the loss of a reconstruction, an adversary, sheets, saving."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from pochade.data.dataset import Dataset
from pochade.images.decode import to_image, to_tensor
from pochade.images.sheets import sheet
from pochade.nn.resample import haar_dwt
from pochade.tensors import writing
from pochade.training.checkpoint import check_tensors, check_weights, load_weights
from pochade.training.data import ImageData
from pochade.training.stage import AnyStage
from pochade.training.stages.kind import Work, tensor_shapes
from pochade.training.task import Task

SHOWN = 24
"""Pictures of a sheet, each beside its reconstruction."""


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
    """The common part of tasks whose network reconstructs pictures: the loss, and an adversary that may join in.

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
            if isinstance(perceptual, nn.Module) and next(perceptual.parameters()).device != images.device:
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


def perceptual_loss(settings: LossWeights) -> Any:
    """The frozen network of the perceptual term; None where its weight is 0."""
    if not settings.perceptual:
        return None
    from pochade.features.lite0 import load_lite0
    from pochade.features.perceptual import PerceptualLoss

    return PerceptualLoss(load_lite0())


def check_start(stage: AnyStage, network: nn.Module, before: nn.Module | None) -> None:
    """Raises PochadeError where the start weights of a stage, a file or those of the network ``before``, do not fit."""
    start, wanted = stage.initialise_from, tensor_shapes(network)
    if before is not None:
        check_tensors(
            f"initialise_from: {start!r} given for {stage.name}: the network before", tensor_shapes(before), wanted
        )
    elif start is not None:
        check_weights(wanted, start)


def with_start(stage: AnyStage, network: nn.Module, adversarial: bool) -> AnyStage:
    """The stage with its start weights settled: with an adversary, which itself starts anew, they are loaded here."""
    if not adversarial or stage.initialise_from is None:
        return stage
    load_weights(network, stage.initialise_from)
    return replace(stage, initialise_from=None)


def shown_pictures(data: ImageData, dataset: Dataset) -> Tensor:
    """Some pictures [B, 3, size, size] in [-1, 1], held-out ones where there are any."""
    shown = data.open_held_out() or dataset
    return torch.stack([to_tensor(shown.image(i, data.size)) for i in shown.evenly_spaced(SHOWN)])


@dataclass(kw_only=True)
class ReconstructionWork(Work):
    """A network that is trained to give pictures back."""

    network: Any
    """What is saved."""
    reconstruct: Callable[[Tensor], Tensor]
    """Pictures [B, 3, H, W] in [-1, 1], as they come out of the network, on whatever device."""
    shown: Tensor
    """[B, 3, H, W] in [-1, 1], the pictures of the sheets."""

    def preview(self) -> Image.Image:
        """The shown pictures, each beside its reconstruction."""
        decoded = torch.cat([self.reconstruct(part).float().cpu() for part in self.shown.split(4)]).clamp(-1, 1)
        pairs = [to_image(x) for pair in zip(self.shown, decoded, strict=True) for x in pair]
        return sheet(pairs, ["original", "decoded"] * len(self.shown))

    def save(self, folder: Path) -> None:
        with writing(folder):
            self.network.save_pretrained(folder)
