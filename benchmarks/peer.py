"""A peer of the default model in the form that diffusers has it: PixArt beside an autoencoder of TAESD's architecture.

It is there for its speed and size: the transformer has as many parameters as the default model's denoiser, to a tenth,
the text encoder is the same, the pictures are as large, and the weights are random.
"""

from typing import Any

import torch
from torch import Tensor

from denoiser_step import TEXT_DIM, count, equal, pixart
from pochade import TextToImagePipeline
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.configuration import register_to_config
from pochade.denoisers.base import DenoiserModel
from pochade.types import Conditioning, DenoiserOutput, InputSpec

CHANNELS, PATCH, HEAD = 4, 2, 64
"""Of the peer: TAESD's latents, and PixArt's patches."""


class PixArtDenoiser(DenoiserModel):
    """diffusers' PixArt transformer, called as a denoiser of ours."""

    config: Any

    @register_to_config
    def __init__(
        self,
        parameters: int,
        width: int,
        sample_size: int,
        latent_channels: int = CHANNELS,
        patch_size: int = PATCH,
    ) -> None:
        super().__init__()
        side = sample_size // patch_size
        options = {"head": HEAD, "channels": latent_channels, "patch": patch_size, "side": side}
        self.transformer = equal(pixart, parameters, width, **options)
        # It squeezes an axis of tokens, which torch leaves alone and ONNX does not.
        self.transformer.get_submodule("proj_out").register_forward_hook(lambda _module, _given, out: out.unsqueeze(1))

    def input_spec(self) -> InputSpec:
        config = self.config
        return InputSpec(config.latent_channels, config.sample_size, config.patch_size, text_dim=TEXT_DIM)

    def forward(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: None = None, depth: None = None
    ) -> DenoiserOutput:
        del state, depth
        assert conditioning.tokens is not None
        assert conditioning.mask is not None
        (predicted,) = self.transformer(
            latents,
            timestep=1000 * t,
            encoder_hidden_states=conditioning.tokens,
            encoder_attention_mask=conditioning.mask.float(),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )
        return DenoiserOutput(predicted)


def peer_of(model: TextToImagePipeline) -> TextToImagePipeline:
    """The peer with the text encoder, the size of pictures, and the usual steps and guidance of ``model``."""
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder(CHANNELS)
    denoiser = PixArtDenoiser(
        count(model.denoiser), model.denoiser.config.dim, model.default_size // autoencoder.downsampling
    )
    components = {**model.components, "autoencoder": autoencoder.eval(), "denoiser": denoiser.eval()}
    return TextToImagePipeline(**components)
