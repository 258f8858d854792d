"""Rendering SVG in other processes."""

import loky
import numpy as np
import psutil
import pytest

from pochade.data.samples import in_threads
from pochade.data.sources.svg import LARGE, rasterise

RED = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="{}" height="4" fill="red"/></svg>'


def test_threads_draw_in_other_processes_what_the_main_one_draws() -> None:
    drawings = [RED.format(width) for width in range(1, 5)]
    drawn = in_threads(lambda svg: rasterise(svg, LARGE), drawings)
    for svg, pixels in zip(drawings, drawn, strict=True):
        assert np.array_equal(pixels, rasterise(svg, LARGE))
    assert [int((pixels[0, :, 3] == 255).sum()) for pixels in drawn] == [LARGE * width // 4 for width in range(1, 5)]


@pytest.mark.parametrize("size", [LARGE // 2, LARGE])
def test_what_is_no_svg(size: int) -> None:
    with pytest.raises(ValueError, match="SVG"):
        in_threads(lambda svg: rasterise(svg, size), ["<p>no drawing</p>"] * 2)


def test_all_threads_share_the_processes_that_draw() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    for _ in range(2):  # threads of their own each time
        in_threads(lambda svg: rasterise(svg, LARGE), [RED.format(width) for width in range(1, 9)])
    started = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    helpers = 2  # loky's and Python's own, which clear up
    assert len(started) <= loky.cpu_count() + helpers
