"""pochade: compact text-to-image generators, trained, distilled, exported and run on consumer hardware.

The names in ``__all__`` are loaded when first used, so that importing the package costs neither torch nor
diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pochade.errors import FailureError, PochadeError
from pochade.version import __version__

if TYPE_CHECKING:
    from pochade.autoencoders.tiny import TinyAutoencoder
    from pochade.denoisers.lrf import LRFDenoiser
    from pochade.pipelines.image_to_image import ImageToImagePipeline
    from pochade.pipelines.inpaint import InpaintPipeline
    from pochade.pipelines.metadata import PictureMetadata, read_metadata
    from pochade.pipelines.requests import EditRequest, GenerationRequest
    from pochade.pipelines.run_request import generate, repeat
    from pochade.pipelines.super_resolution import SuperResolutionPipeline
    from pochade.pipelines.text_to_image import TextToImagePipeline
    from pochade.types import Conditioning, DenoiserOutput

__all__ = [
    "Conditioning",
    "DenoiserOutput",
    "EditRequest",
    "FailureError",
    "GenerationRequest",
    "ImageToImagePipeline",
    "InpaintPipeline",
    "LRFDenoiser",
    "PictureMetadata",
    "PochadeError",
    "SuperResolutionPipeline",
    "TextToImagePipeline",
    "TinyAutoencoder",
    "__version__",
    "generate",
    "read_metadata",
    "repeat",
]

_LAZY = {
    "Conditioning": "pochade.types",
    "DenoiserOutput": "pochade.types",
    "EditRequest": "pochade.pipelines.requests",
    "GenerationRequest": "pochade.pipelines.requests",
    "ImageToImagePipeline": "pochade.pipelines.image_to_image",
    "InpaintPipeline": "pochade.pipelines.inpaint",
    "LRFDenoiser": "pochade.denoisers.lrf",
    "PictureMetadata": "pochade.pipelines.metadata",
    "SuperResolutionPipeline": "pochade.pipelines.super_resolution",
    "TextToImagePipeline": "pochade.pipelines.text_to_image",
    "TinyAutoencoder": "pochade.autoencoders.tiny",
    "generate": "pochade.pipelines.run_request",
    "read_metadata": "pochade.pipelines.metadata",
    "repeat": "pochade.pipelines.run_request",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pochade' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
