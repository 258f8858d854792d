"""The host of a bundle: pictures from ONNX graphs, with numpy, Pillow, ``tokenizers`` and ONNX Runtime alone.

Within pochade this is ``pochade.runtime``; ``pochade-runtime`` installs the same code as ``pochade_runtime``.
"""

from .budget import Choice
from .bundle import Bundle
from .options import Step
from .pictures import Picture

__all__ = ["Bundle", "Choice", "Picture", "Step"]
