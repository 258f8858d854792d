"""The host of a bundle: pictures from ONNX graphs, with numpy, Pillow, ``tokenizers`` and ONNX Runtime alone.

Within pochade this is ``pochade.runtime``; ``pochade-runtime`` installs the same code as ``pochade_runtime``. The names
in ``__all__`` are loaded when first used, so that reading a manifest costs no numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import Choice
    from .bundle import Bundle
    from .options import Step
    from .pictures import Picture

__all__ = ["Bundle", "Choice", "Picture", "Step"]

_LAZY = {"Bundle": ".bundle", "Choice": ".budget", "Picture": ".pictures", "Step": ".options"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value
