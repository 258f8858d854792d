"""A small decoder in place of a model's own autoencoder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.errors import PochadeError
from pochade.pipelines.hub import INDEX, files_sha256, read_json
from pochade.runtime.manifest import OWN_DECODER, Decoder

if TYPE_CHECKING:
    from pochade.autoencoders.tiny_decoder import TinyVAEDecoder

OWN = OWN_DECODER
"""What stands for the model's own autoencoder."""
SHIPPED = "tiny"
"""What stands for the decoder that a model ships,"""
FOLDER = "tiny_decoder"
"""in this folder of its own."""
CLASS = "TinyVAEDecoder"


def find_decoder(name: str, model: Path) -> Path | None:
    """The folder of a decoder: that of the model in ``model`` for ``SHIPPED``, else ``name`` itself; None for ``OWN``.

    Raises:
        PochadeError: there is no decoder in it.
    """
    if name == OWN:
        return None
    folder = model / FOLDER if name == SHIPPED else Path(name).expanduser()
    if name == SHIPPED and not folder.is_dir():
        raise PochadeError(
            f"decoder: {name!r} given, but the model ships none: pochade train tiny-decoder task.autoencoder=MODEL "
            "makes one, whose folder is allowed here"
        )
    if not (folder / "config.json").is_file():
        raise PochadeError(f"decoder: {name!r} given, allowed are {OWN}, {SHIPPED}, and the folder of a decoder")
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != CLASS:
        raise PochadeError(f"decoder: {name!r} holds a {kind}, allowed is a {CLASS}")
    return folder


def decoder_facts(folder: Path) -> Decoder:
    """What the recipe of a picture says of the decoder in ``folder``."""
    shipped = folder.name == FOLDER and (folder.parent / INDEX).is_file()
    return Decoder(SHIPPED if shipped else str(folder), decoder_sha256(folder))


def decoder_sha256(folder: Path) -> str:
    """SHA-256 over a decoder's configuration and weights, taken as ``hub.model_sha256`` does."""
    return files_sha256(folder, [p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"}])


def load_decoder(autoencoder: Any, folder: Path) -> "TinyVAEDecoder":
    """The decoder in ``folder`` for the latents of a model's ``autoencoder``.

    Raises:
        PochadeError: it is for other latents, or its files are damaged.
    """
    from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
    from pochade.pipelines.loading import load_component

    decoder: TinyVAEDecoder = load_component(TinyVAEDecoder, folder)
    given, needed = (
        (int(network.config.latent_channels), int(network.downsampling)) for network in (decoder, autoencoder)
    )
    if given != needed:
        raise PochadeError(
            f"decoder: one for {given[0]} channels and {given[1]} pixels to a cell given, the model's latents have "
            f"{needed[0]} and {needed[1]}"
        )
    return decoder


def use_decoder(pipe: Any, folder: Path) -> None:
    """Let ``pipe`` decode with the network in ``folder``; with its autoencoder goes the way back from pictures.

    Raises as ``load_decoder``.
    """
    own = pipe.autoencoder
    decoder: Any = load_decoder(own, folder)
    pipe.register_modules(autoencoder=decoder.to(device=own.device, dtype=own.dtype))
