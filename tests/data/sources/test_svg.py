"""Rendering SVG in other processes."""

import numpy as np
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
