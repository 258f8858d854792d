"""Drawings as SVG, to pixels; by as many processes as this one may use cores, since resvg holds the interpreter."""

import io
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pochade.errors import missing_extra

LARGE = 128
"""Pixels a side from which drawing takes longer than handing the work to another process."""
IDLE = 300
"""Seconds after which a process that draws nothing ends. Between two steps of a slow training none should."""

_asking = ThreadPoolExecutor(1, "pochade-drawing")
"""The one thread that asks for the processes: loky starts some for each thread that asks."""


def rasterise(svg: Path | str, size: int) -> np.ndarray:
    """A drawing, a file or SVG itself, as [size, size, 4] uint8, straight alpha.

    From ``LARGE`` on a call from a thread other than the main one draws in another process, so that threads draw on all
    cores.

    Raises:
        PochadeError: a package of the "train" extra is missing.
        ValueError: it is no SVG.
    """
    try:
        import resvg_py
        from loky import get_reusable_executor
    except ImportError as error:
        raise missing_extra(str(error.name), "train") from error
    path, string = (str(svg), None) if isinstance(svg, Path) else (None, svg)
    options = {"svg_path": path, "svg_string": string, "width": size, "height": size, "skip_system_fonts": True}
    if size < LARGE or threading.current_thread() is threading.main_thread():
        png = resvg_py.svg_to_bytes(**options)
    else:
        # Ctrl-C is the training's, which finishes its step.
        initial = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        pool = _asking.submit(get_reusable_executor, timeout=IDLE, **initial).result()
        png = pool.submit(resvg_py.svg_to_bytes, **options).result()
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
