"""The families that must keep the contracts: a new one joins by one entry of a table."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from pochade.denoisers import FAMILIES as REGISTERED
from pochade.types import TASKS, Conditioning


@dataclass(frozen=True)
class Family:
    """A denoiser at toy size, and what it promises beyond the contract that all share."""

    toys: dict[str, dict[str, Any]]
    """Configurations of at most about 100,000 parameters, by name; the first one is also exported."""
    parts: tuple[str, ...] = ("text", "class_label")
    """The parts of a conditioning that it uses, see ``pochade.types.PARTS``."""
    depth: str | None = None
    """The configuration's name of the number of iterations, None where the family has none."""
    ways: tuple[dict[str, Any], ...] = ()
    """Arguments of ``with_source`` beside the tasks, a set for each way in which a source can enter."""
    stateful: bool = False
    """Whether it passes a state from one sampling step to the next."""
    zero_at_init: bool = True
    """Whether the velocity is zero before training."""
    smaller: dict[str, Any] = field(default_factory=dict)
    """What makes a toy smaller where it is exported, which takes a time that grows with the nodes of the graph."""


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder at toy size."""

    path: str
    """module:class."""
    toy: dict[str, Any] = field(default_factory=dict)
    local: bool = True
    """Whether every output depends on a neighbourhood only, so that tiles agree with the whole."""


_LRF = {"latent_channels": 3, "sample_size": 4, "dim": 24, "heads": 2, "hidden": 32, "blocks": 2}
_MICROFORGE = {"latent_channels": 3, "sample_size": 4, "dim": 24, "heads": 2, "blocks": 2, "attention_every": 2}
_MICROFORGE |= {"inner": 32, "state_size": 4, "modulation_groups": 4}
_MICROFORGE |= {"plan_tokens": 3, "plan_layers": 1, "plan_hidden": 32}
_TEXT = {"text_dim": 10, "pooled_dim": 6, "num_classes": 5}
_LIRA: dict[str, Any] = {
    "latent_channels": 3,
    "sample_size": 4,
    "dim": 16,
    "blocks": 2,
    "hidden": 24,
    "state_size": 3,
    "heads": 2,
    "fusion_every": 2,
    "reasoning_steps": 3,
    "reasoning_width": 8,
}

_IRIS: dict[str, Any] = {"latent_channels": 3, "sample_size": 4, "dim": 24, "heads": 2, "hidden": 24}
_IRIS |= {"iterations": 2, "depths": (2, 3, 4), "gradient_iterations": 2}

FAMILIES: dict[str, Family] = {
    "iris": Family(
        toys={
            "patches": _IRIS | _TEXT | {"patch_size": 2},
            "cells": _IRIS | _TEXT | {"patch_size": 1, "blocks": 1, "distillation": 0.5},
            "editor": _IRIS | _TEXT | {"patch_size": 1, "tasks": ("edit", "inpaint")},
            "controlled": _IRIS | _TEXT | {"patch_size": 2, "controlled": True},
        },
        depth="iterations",
        ways=({},),
        smaller={"blocks": 1},
    ),
    "lira": Family(
        toys={
            "scalar": _LIRA | _TEXT | {"patch_size": 1},
            "diagonal": _LIRA | _TEXT | {"patch_size": 2, "blocks": 3, "decay": "diagonal", "connections": "static"},
            "residual": _LIRA | _TEXT | {"patch_size": 1, "blocks": 4, "connections": "residual", "pooled_dim": 0},
            "plain": _LIRA | _TEXT | {"patch_size": 2, "fusion": "attention", "directions": 2, "long_skips": False},
            "editor": _LIRA | _TEXT | {"patch_size": 2, "tasks": ("edit", "inpaint")},
        },
        depth="reasoning_steps",
        ways=({},),
        smaller={"blocks": 1, "fusion_every": 1, "reasoning_steps": 2},
    ),
    "lrf": Family(
        toys={
            "softmax": _LRF | _TEXT | {"mixer": "softmax", "patch_size": 2},
            "linear": _LRF | _TEXT | {"mixer": "linear", "patch_size": 1},
            "editor": _LRF | _TEXT | {"mixer": "softmax", "patch_size": 2, "tasks": ("super_resolution", "edit")},
        },
        parts=("text", "class_label", "source"),
        depth="recursions",
        ways=({},),
        smaller={"blocks": 1},
    ),
    "microforge": Family(
        toys={
            "scalar": _MICROFORGE | _TEXT | {"patch_size": 1},
            "diagonal": _MICROFORGE | _TEXT | {"patch_size": 2, "decay": "diagonal", "modulation": "full"},
            "attention": _MICROFORGE | _TEXT | {"patch_size": 1, "mixer": "attention"},
            "width": _MICROFORGE | _TEXT | {"patch_size": 2, "source": "width"},
            "channels": _MICROFORGE
            | _TEXT
            | {"patch_size": 1, "source": "channels", "tasks": ("inpaint",), "depthwise_kernel": 5},
            "regions": _MICROFORGE | _TEXT | {"patch_size": 2, "source": "width", "tasks": ("edit",), "regions": 2},
            "image_prompt": _MICROFORGE | _TEXT | {"patch_size": 1, "image_prompt_dim": 7},
        },
        ways=({"source": "width"}, {"source": "channels"}),
        stateful=True,
        smaller={"blocks": 1, "attention_every": 1},
    ),
}

_HIERARCHICAL = {
    "latent_channels": 4,
    "widths": (6, 12, 12, 8),
    "encoder_blocks": (0, 1, 0, 1),
    "decoder_blocks": (1, 0, 1, 0),
    "variational": True,
}

_DC: dict[str, Any] = {"latent_channels": 4, "attention_head_dim": 8}
for _half, _layers in (("encoder", "encoder_layers_per_block"), ("decoder", "decoder_layers_per_block")):
    _DC |= {f"{_half}_block_out_channels": (8, 8, 8, 8, 16, 16), _layers: (1, 1, 1, 1, 1, 1)}
    _DC |= {f"{_half}_block_types": ("ResBlock",) * 5 + ("EfficientViTBlock",)}
    _DC |= {f"{_half}_qkv_multiscales": ((), (), (), (), (), (5,))}

DIFFUSERS: dict[str, dict[str, Any]] = {
    "dc": _DC,
    "kl": {
        "latent_channels": 16,
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}
"""Toys of diffusers' own autoencoders: DC-AE f32, and the KL one of Stable Diffusion 3 and FLUX."""

AUTOENCODERS: dict[str, Autoencoder] = {
    "tiny": Autoencoder(
        "pochade.autoencoders.tiny:TinyAutoencoder",
        {"latent_channels": 3, "width": 8, "encoder_blocks": (1, 1, 1, 1), "decoder_blocks": (1, 1, 1, 1)},
    ),
    "wavelet": Autoencoder("pochade.autoencoders.wavelet:WaveletVAE", _HIERARCHICAL),
    "deep_compression": Autoencoder("pochade.autoencoders.deep_compression:DeepCompressionVAE", _HIERARCHICAL),
    "pretrained_dc": Autoencoder(
        "pochade.autoencoders.pretrained:PretrainedAutoencoder",
        {"kind": "AutoencoderDC", "settings": DIFFUSERS["dc"], "latent_channels": 4},
        local=False,
    ),
    "pretrained_kl": Autoencoder(
        "pochade.autoencoders.pretrained:PretrainedAutoencoder",
        {"kind": "AutoencoderKL", "settings": DIFFUSERS["kl"], "latent_channels": 16},
        local=False,
    ),
}


def load_class(path: str) -> Any:
    """The class at module:class."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def make(family: str, toy: str, **overrides: Any) -> Any:
    """A toy denoiser as it is before training, in evaluation mode."""
    torch.manual_seed(0)
    return load_class(REGISTERED[family])(**{**FAMILIES[family].toys[toy], **overrides}).eval()


def stir(module: nn.Module, scale: float = 0.1) -> Any:
    """Adds noise to every parameter, so that no gate is closed as it is before training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def conditioning_for(
    denoiser: Any,
    parts: tuple[str, ...],
    batch: int,
    size: tuple[int, int],
    *,
    seed: int = 0,
) -> Conditioning:
    """Random conditioning with the given parts; sample i has 1 + (i + 2) % 5 of 5 text tokens."""
    config, text_tokens = denoiser.config, 5
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    values: dict[str, Tensor] = {}
    if "text" in parts:
        lengths = 1 + (torch.arange(batch) + 2) % text_tokens
        mask = torch.arange(text_tokens)[None] < lengths[:, None]
        values["mask"] = mask
        values["tokens"] = noise(batch, text_tokens, config.text_dim) * mask[..., None]
        if config.pooled_dim:
            values["pooled"] = noise(batch, config.pooled_dim)
    if "class_label" in parts:
        values["class_label"] = torch.randint(0, config.num_classes, (batch,), generator=generator)
    if "source" in parts:
        values["source"] = noise(batch, config.latent_channels, *size)
        values["source_mask"] = (noise(batch, 1, *size) > 0).float()
        if getattr(denoiser, "task_vectors", None) is not None:
            values["task"] = torch.arange(batch) % len(TASKS)
    if "control" in parts:
        values["control"] = noise(batch, config.latent_channels, *size)
    if "image_prompt" in parts:
        values["image_prompt"] = noise(batch, 2, config.image_prompt_dim)
        values["image_prompt_scale"] = 0.5 + torch.rand(batch, generator=generator)
    return Conditioning(**values)


def inputs_for(denoiser: Any, batch: int, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random latents [B, C, *size] and times [B]."""
    generator = torch.Generator().manual_seed(100 + seed)
    latents = torch.randn((batch, denoiser.config.latent_channels, *size), generator=generator)
    return latents, torch.rand(batch, generator=generator)
