"""What a control picture is read as, whatever its brightness."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.errors import PochadeError
from pochade.images.controls import KINDS, control_image
from pochade.images.decode import load_image
from pochade.types import CONTROLS

RAMP = np.linspace(0, 1, 12 * 16).reshape(12, 16)


def grey(least: float, most: float) -> Image.Image:
    return Image.fromarray((least + (most - least) * RAMP).round().astype(np.uint8))


def test_every_kind_is_read() -> None:
    assert tuple(KINDS) == CONTROLS


def test_depth_is_stretched_from_the_farthest_to_the_nearest() -> None:
    expected = torch.from_numpy(RAMP)[None].float()
    for least, most in ((0, 255), (100, 140), (0, 9), (246, 255)):
        found = KINDS["depth"].read(grey(least, most), "control")
        assert (found.dtype, found.shape) == (torch.float32, (1, 12, 16))
        assert (float(found.min()), float(found.max())) == (0, 1)
        torch.testing.assert_close(found, expected, atol=0.51 / (most - least), rtol=0)
    colours = grey(30, 200).convert("RGB")
    assert torch.equal(KINDS["depth"].read(colours, "control"), KINDS["depth"].read(grey(30, 200), "control"))
    once = KINDS["depth"].read(grey(0, 255), "control")
    assert torch.equal(KINDS["depth"].read(control_image(once), "control"), once)


def test_depth_of_16_bits() -> None:
    file = io.BytesIO()
    Image.fromarray((20_000 + 30_000 * RAMP).astype(np.uint16)).save(file, "PNG")
    found = KINDS["depth"].read(load_image(file.getvalue())[0], "control")
    torch.testing.assert_close(found, torch.from_numpy(RAMP)[None].float(), atol=0.01, rtol=0)


@pytest.mark.parametrize("brightness", [0, 128, 255])
def test_a_flat_map_shows_no_depth(brightness: int) -> None:
    flat = grey(max(0, brightness - 7), brightness) if brightness else grey(0, 0)
    with pytest.raises(PochadeError, match=rf"control: its brightness goes from \d+ to {brightness} of 255"):
        KINDS["depth"].read(flat, "control")
    # Of a drawing of lines alone it is none, and no error.
    assert KINDS["depth"].tensor(grey(brightness, brightness)).eq(0).all()
