"""LRF: ``LRFDenoiser`` and its sizes. The package's own path is the one that model files record."""

from diffusers.models.modeling_utils import ModelMixin

from pochade.denoisers.lrf.model import VARIANTS, LRFDenoiser

LRFDenoiser.__module__ = __name__

__all__ = ["VARIANTS", "LRFDenoiser", "ModelMixin"]  # diffusers looks for ModelMixin beside a component's class
