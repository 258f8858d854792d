"""Autoencoders by name or folder."""

from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from pochade.autoencoders import pretrained
from pochade.autoencoders.load_diffusers import load_diffusers
from pochade.autoencoders.pretrained import PretrainedAutoencoder
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.errors import PochadeError
from pochade.pipelines import hub
from pochade.pipelines.components import find_autoencoder
from pochade.pipelines.loading import load_component, load_components


def load_autoencoder(name_or_folder: str) -> Any:
    """An autoencoder from its own folder, from a model (by name or folder), or one of diffusers by folder or hub name.

    Raises:
        PochadeError: there is none, or its weights do not fit.
    """
    folder = Path(name_or_folder).expanduser()
    if name_or_folder in hub.shipped() or (folder / hub.INDEX).is_file():
        parts = load_components(hub.resolve(name_or_folder), {"text_encoder": None, "denoiser": None})
        if "autoencoder" not in parts:
            raise PochadeError(f"autoencoder: {name_or_folder!r} given, a model that has none")
        return parts["autoencoder"]
    if (folder / "config.json").is_file():
        own = find_autoencoder(str(hub.read_json(folder / "config.json").get("_class_name")))
        if own is TinyVAEDecoder:
            raise PochadeError(f"autoencoder: {name_or_folder!r} holds a decoder alone, which cannot encode")
        if own is not None:
            return load_component(own, folder)
    theirs = load_diffusers(name_or_folder, (AutoencoderTiny, *pretrained.CLASSES))
    if isinstance(theirs, AutoencoderTiny):
        return TinyAutoencoder.from_network(theirs, name_or_folder)
    return PretrainedAutoencoder.from_network(theirs)
