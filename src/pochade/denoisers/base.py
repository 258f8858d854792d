"""The base class of every family's network."""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pochade.configuration import ConfigMixin
from pochade.nn.modulation import Modulation
from pochade.types import InputSpec


class DenoiserModel(PeftAdapterMixin, ModelMixin, ConfigMixin):
    """A `pochade.types.Denoiser` that is saved and loaded as diffusers' models are, and says what it takes.

    Adapters (LoRA) are added and removed as in diffusers' models.

    A family has ``latent_channels``, ``sample_size``, ``patch_size``, ``text_dim``, ``pooled_dim``, ``text_encoder``
    and ``num_classes`` in its configuration; where it takes more than these, its ``input_spec`` adds that.
    """

    config: Any
    _repeated_blocks: ClassVar[list[str]]
    """Names of the classes of the blocks that the network is made of."""

    def input_spec(self) -> InputSpec:
        """What the network takes, as it is configured now."""
        config = self.config
        return InputSpec(
            latent_channels=config.latent_channels,
            sample_size=config.sample_size,
            size_multiple=config.patch_size,
            text_dim=config.text_dim,
            pooled_dim=config.pooled_dim,
            text_encoder=config.text_encoder,
            num_classes=config.num_classes,
        )

    @property
    def size_multiple(self) -> int:
        """Rows and columns of the latents must divide by this."""
        return int(self.config.patch_size)

    def adaptable_layers(self) -> list[str]:
        """The names of the linear layers inside the blocks, but for those that make modulations: what a LoRA adapts."""
        modules = dict(cast(Iterable[tuple[str, nn.Module]], nn.Module.named_modules(self)))
        blocks = [name for name, module in modules.items() if type(module).__name__ in self._repeated_blocks]
        modulations = [name for name, module in modules.items() if isinstance(module, Modulation)]
        return [
            name
            for name, module in modules.items()
            if isinstance(module, nn.Linear) and _below(name, blocks) and not _below(name, modulations)
        ]


def _below(name: str, parents: list[str]) -> bool:
    return any(name.startswith(f"{parent}.") for parent in parents)
