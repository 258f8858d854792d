"""Ready-made parts of a stage, by name or folder; and what stands in for them in a dry run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from pochade import text_encoders
from pochade.autoencoders.deep_compression import VARIANTS as DEEP_COMPRESSION
from pochade.autoencoders.deep_compression import DeepCompressionVAE
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.wavelet import VARIANTS as WAVELET
from pochade.autoencoders.wavelet import WaveletVAE
from pochade.errors import PochadeError, naming
from pochade.pipelines import hub
from pochade.pipelines.autoencoders import load_autoencoder
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.text_encoders.bag import BagEncoder
from pochade.text_encoders.base import PromptEncoder

T = TypeVar("T")
SMALL: dict[int, Callable[[int], Any]] = {
    8: lambda channels: TinyAutoencoder(channels, 8, (0, 0, 0, 0), (0, 0, 0, 0)),
    16: lambda channels: WaveletVAE(**{**WAVELET["nano"], "latent_channels": channels}),
    32: lambda channels: DeepCompressionVAE(**{**DEEP_COMPRESSION["nano"], "latent_channels": channels}),
}
"""Downsampling -> a small autoencoder of so many channels."""
DEFAULT_WIDTH = 384
"""Of the vectors of a text encoder that is not at hand and whose network says nothing else."""


class Components:
    """Ready-made parts by the names that settings hold. All raise PochadeError where there is no such part, which names
    the field of the settings."""

    def autoencoder(self, name: str, channels: int | None = None, *, field: str = "task.autoencoder") -> Any:
        """An autoencoder: of a model, from its own folder, or one of diffusers'. ``channels`` is what a network that
        works on it expects, where that is known."""
        del channels
        with naming(field, "name_or_folder", "autoencoder", "model"):
            return load_autoencoder(name)

    def folder(self, name: str) -> Path | None:
        """Where a model or an autoencoder of that name lies; None where it is no folder here."""
        folder = hub.shipped().get(name, Path(name).expanduser())
        return folder if folder.is_dir() else None

    def text_encoder(self, name: str, width: int | None = None) -> PromptEncoder:
        """A frozen text encoder by its identity; ``width`` is what a network reads, where that is known."""
        del width
        with naming("task.text_encoder", "text_encoder"):
            return text_encoders.load(name)

    def pipeline(self, name: str, *, field: str = "task.model") -> TextToImagePipeline:
        """A whole model."""
        with naming(field, "model"):
            return TextToImagePipeline.from_pretrained(name)


class StandIns(Components):
    """The same without the network: what is not on this machine is replaced by a small part of the same shape.

    ``assumed`` says what was replaced by what.
    """

    def __init__(self) -> None:
        self.assumed: list[str] = []
        self._made: dict[tuple[str, int | None], tuple[Any, str]] = {}

    def autoencoder(self, name: str, channels: int | None = None, *, field: str = "task.autoencoder") -> Any:
        if name in hub.shipped() or Path(name).expanduser().exists():
            return super().autoencoder(name, field=field)
        return self._once(name, channels, lambda: self._small_autoencoder(name, channels))

    def text_encoder(self, name: str, width: int | None = None) -> PromptEncoder:
        _, given, place = name.partition(":")
        if not given or Path(place).expanduser().exists():
            return super().text_encoder(name)
        return self._once(name, width, lambda: self._small_text_encoder(width))

    def _once(self, name: str, number: int | None, make: Callable[[], tuple[T, str]]) -> T:
        """What stands in for a part, made when it is first needed, and noted whenever it is."""
        if (name, number) not in self._made:
            self._made[name, number] = make()
        part, what = self._made[name, number]
        note = f"{name} is not on this machine: {what} stands in"
        if note not in self.assumed:
            self.assumed.append(note)
        return part

    def _small_autoencoder(self, name: str, channels: int | None) -> tuple[Any, str]:
        shape = re.search(r"f(\d+)c(\d+)", name)  # as the published ones are named
        down, channels = (int(shape[1]), int(shape[2])) if shape else (8, channels or 4)
        if down not in SMALL:
            raise PochadeError(f"task.autoencoder: {name!r} is not on this machine, and nothing stands in for f{down}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return SMALL[down](channels).eval(), f"a small f{down} with {channels} channels"

    def _small_text_encoder(self, width: int | None) -> tuple[PromptEncoder, str]:
        width = width or DEFAULT_WIDTH
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = BagEncoder(BagEncoder.train_tokenizer(["a picture"], 300), dim=width, hidden_dim=32)
        return encoder.requires_grad_(False).eval(), f"a small one of width {width}"
