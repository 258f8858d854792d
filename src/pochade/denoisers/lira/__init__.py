"""LiRA: ``LiRADenoiser`` and its sizes. The package's own path is the one that model files record."""

from diffusers.models.modeling_utils import ModelMixin

from pochade.denoisers.lira.model import VARIANTS, LiRADenoiser

LiRADenoiser.__module__ = __name__

__all__ = ["VARIANTS", "LiRADenoiser", "ModelMixin"]  # diffusers looks for ModelMixin beside a component's class
