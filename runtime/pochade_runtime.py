"""Exported text-to-image models of pochade, run without PyTorch: ``Bundle(folder).generate("a red apple")``.

The names in ``__all__`` are loaded when first used: the command minds Ctrl-C before any library is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import FailureError, PochadeError
from .stopping import Stop, run_stoppable
from .version import __version__

if TYPE_CHECKING:
    from .runtime import Bundle, Picture, Step

__all__ = ["Bundle", "FailureError", "Picture", "PochadeError", "Step", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".runtime", __name__), name)


def main() -> None:
    """The command ``pochade-run``."""

    def work(stop: Stop) -> None:
        from .runtime.command import start

        start(None, stop)

    run_stoppable(work)
