"""The host of a bundle: pictures from ONNX graphs, with numpy, Pillow, ``tokenizers`` and ONNX Runtime alone.

Within pochade this is ``pochade.runtime``; ``pochade-runtime`` installs the same code as ``pochade_runtime``.
"""

from .bundle import Bundle, Step
from .pictures import Picture

__all__ = ["Bundle", "Picture", "Step"]
