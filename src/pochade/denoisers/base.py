"""The base class of every family's network."""

from typing import Any

from diffusers.models.modeling_utils import ModelMixin

from pochade.configuration import ConfigMixin
from pochade.types import InputSpec


class DenoiserModel(ModelMixin, ConfigMixin):
    """A `pochade.types.Denoiser` that is saved and loaded as diffusers' models are, and says what it takes.

    A family has ``latent_channels``, ``sample_size``, ``patch_size``, ``text_dim``, ``pooled_dim``, ``text_encoder``
    and ``num_classes`` in its configuration; where it takes more than these, its ``input_spec`` adds that.
    """

    config: Any

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
