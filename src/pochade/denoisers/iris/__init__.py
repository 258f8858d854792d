"""IRIS: ``IRISDenoiser`` and its sizes. The package's own path is the one that model files record."""

from diffusers.models.modeling_utils import ModelMixin

from pochade.denoisers.iris.model import VARIANTS, IRISDenoiser

IRISDenoiser.__module__ = __name__

__all__ = ["VARIANTS", "IRISDenoiser", "ModelMixin"]  # diffusers looks for ModelMixin beside a component's class
