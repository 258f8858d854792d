"""Exported text-to-image models of pochade, run without PyTorch: ``Bundle(folder).generate("a red apple")``."""

from .errors import FailureError, PochadeError
from .runtime import Bundle, Picture, Step
from .version import __version__

__all__ = ["Bundle", "FailureError", "Picture", "PochadeError", "Step", "__version__"]
