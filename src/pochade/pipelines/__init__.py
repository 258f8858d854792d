"""Pipelines, and what their folders need to be loaded.

``model_index.json`` names the module and the class of every component, and diffusers finds a class only in a
module that is already imported. ``register_components`` imports all modules whose classes may stand in such
a file; their paths are part of the file format.
"""

from importlib import import_module

COMPONENT_MODULES = (
    "pochade.autoencoders.deep_compression",
    "pochade.autoencoders.pretrained",
    "pochade.autoencoders.tiny",
    "pochade.autoencoders.wavelet",
    "pochade.denoisers.iris",
    "pochade.denoisers.lira",
    "pochade.denoisers.lrf",
    "pochade.denoisers.microforge",
    "pochade.text_encoders.bag",
    "pochade.text_encoders.class_label",
    "pochade.text_encoders.clip",
    "pochade.text_encoders.gemma",
    "pochade.text_encoders.minilm",
)
"""Modules that define components. A path that has been released stays importable."""


def register_components() -> None:
    """Import every component module."""
    for module in COMPONENT_MODULES:
        import_module(module)
