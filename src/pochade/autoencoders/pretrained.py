"""Pretrained autoencoders of diffusers, frozen: DC-AE (2410.10733) and the KL ones of Stable Diffusion 3 and FLUX."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.load_diffusers import load_diffusers
from pochade.configuration import register_to_config
from pochade.errors import PochadeError

CLASSES = (AutoencoderDC, AutoencoderKL)


class PretrainedAutoencoder(ImageAutoencoder, ModelMixin):  # in the module's namespace diffusers looks for it
    """An autoencoder of diffusers behind our interface; of a distribution of latents, its mean is the latent.

    Made by ``from_diffusers``; the arguments are what its folder stores. The factors that give the latents of
    pretrained models unit variance, ``scaling_factor`` and ``shift_factor``, are kept as statistics of the channels.

    Args:
        kind: name of the class, one of ``CLASSES``.
        settings: the arguments of that class.
        latent_channels: C, as in ``settings``.
        latents_mean: mean of each raw latent channel, C values (None: zeros).
        latents_std: standard deviation of each raw latent channel, C values (None: ones).

    Raises:
        PochadeError: the class is unknown, or it is none for pictures in colour with C latent channels.
    """

    @register_to_config
    def __init__(
        self,
        kind: str = "AutoencoderDC",
        settings: Mapping[str, Any] | None = None,
        latent_channels: int = 32,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._check_statistics()
        classes = {cls.__name__: cls for cls in CLASSES}
        if kind not in classes:
            raise PochadeError(f"kind: {kind!r} given, allowed are {' and '.join(classes)}")
        network: Any = classes[kind](**dict(settings or {}))
        colours = {network.config.get(name, 3) for name in ("in_channels", "out_channels")}
        if colours != {3} or network.config.latent_channels != latent_channels:
            raise PochadeError(
                f"settings: {max(colours)} colours and {network.config.latent_channels} latent channels given, "
                f"allowed are 3 and {latent_channels}"
            )
        self.network = network
        stages = network.config.get("encoder_block_out_channels") or network.config.block_out_channels
        self.downsampling = 2 ** (len(stages) - 1)

    @classmethod
    def from_diffusers(cls, name_or_folder: str, **options: Any) -> "PretrainedAutoencoder":
        """A frozen ``AutoencoderDC`` or ``AutoencoderKL`` by folder or hub name (OWNER/NAME or OWNER/NAME/SUBFOLDER).

        Raises:
            PochadeError: the weights cannot be had, or they are of another class.
        """
        return cls.from_network(load_diffusers(name_or_folder, CLASSES, **options))

    @classmethod
    def from_network(cls, theirs: Any) -> "PretrainedAutoencoder":
        """An ``AutoencoderDC`` or ``AutoencoderKL`` that is there already; its weights are copied and frozen."""
        config = theirs.config
        settings = {name: value for name, value in dict(config).items() if not name.startswith("_")}
        channels = int(config.latent_channels)
        # What diffusers' pipelines do: latents = (raw - shift) * scaling, with the statistics before that, if any.
        mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
        std = [value / config.scaling_factor for value in config.get("latents_std") or [1.0] * channels]
        ours = cls(type(theirs).__name__, settings, channels, [float(value) for value in mean], std)
        ours.network.load_state_dict(theirs.state_dict())
        return ours.requires_grad_(False).eval()

    def encode_raw(self, images: Tensor) -> Tensor:
        self._check_images(images)
        encoded: Any = self.network.encode(images, return_dict=False)[0]
        return encoded if isinstance(encoded, Tensor) else encoded.mode()

    def decode_raw(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents, return_dict=False)[0]
