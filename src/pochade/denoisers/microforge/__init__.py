"""MicroForge: ``MicroForgeDenoiser`` and its sizes. The package's own path is the one that model files record."""

from diffusers.models.modeling_utils import ModelMixin

from pochade.denoisers.microforge.model import VARIANTS, MicroForgeDenoiser

MicroForgeDenoiser.__module__ = __name__

__all__ = ["VARIANTS", "MicroForgeDenoiser", "ModelMixin"]  # diffusers looks for ModelMixin beside a component's class
