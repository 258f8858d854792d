"""What a control picture is read as, whatever its brightness."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.errors import PochadeError
from pochade.images.controls import KINDS, control_image
from pochade.images.decode import load_image
from pochade.images.poses import COLOURS, JOINTS, LIMBS, stick_figure
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


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_depth_of_16_bits_is_stretched_in_all_of_its_levels(form: str) -> None:
    file = io.BytesIO()
    Image.fromarray((1_000 + 600 * RAMP).round().astype(np.uint16)).save(file, form)
    image, conversions = load_image(file.getvalue(), keep_16_bit=True)
    assert not conversions
    found = KINDS["depth"].read(image, "control")
    torch.testing.assert_close(found, torch.from_numpy(RAMP)[None].float(), atol=0.51 / 600, rtol=0)
    flat = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(PochadeError, match="control: its brightness goes from 40000 to 40000 of 65535"):
        KINDS["depth"].read(flat, "control")
    lines = Image.fromarray(np.array([[65_535, 300], [0, 20_000]], np.uint16))
    assert KINDS["edges"].tensor(lines).tolist() == [[[1, 0], [0, 0]]]


@pytest.mark.parametrize("kind", CONTROLS)
def test_what_is_transparent_is_nothing_to_follow(kind: str) -> None:
    shape = Image.new("RGBA", (16, 12), (200, 200, 200, 0))
    shape.paste((200, 200, 200, 255), (4, 3, 9, 8))
    drawn = Image.new("RGB", (16, 12))
    drawn.paste((200, 200, 200), (4, 3, 9, 8))
    assert torch.equal(KINDS[kind].read(shape, "control"), KINDS[kind].read(drawn, "control"))


@pytest.mark.parametrize("brightness", [0, 128, 255])
def test_a_flat_map_shows_no_depth(brightness: int) -> None:
    flat = grey(max(0, brightness - 7), brightness) if brightness else grey(0, 0)
    with pytest.raises(PochadeError, match=rf"control: its brightness goes from \d+ to {brightness} of 255"):
        KINDS["depth"].read(flat, "control")
    # Of a drawing of lines alone it is none, and no error.
    assert KINDS["depth"].tensor(grey(brightness, brightness)).eq(0).all()


def test_a_pose_is_a_stick_figure_whatever_its_brightness() -> None:
    joints = np.stack((np.linspace(0.2, 0.8, len(JOINTS)), np.linspace(0.1, 0.9, len(JOINTS))), 1)
    drawn = stick_figure(joints, 64)
    pose = KINDS["pose"].read(drawn, "control")
    assert (pose.dtype, pose.shape) == (torch.float32, (3, 64, 64))
    dark = KINDS["pose"].read(drawn.point(lambda value: value // 4), "control")
    torch.testing.assert_close(dark, pose, atol=0.02, rtol=0)
    assert torch.equal(KINDS["pose"].read(control_image(pose), "control"), pose)
    assert KINDS["pose"].read(Image.new("RGB", (8, 8)), "control").eq(0).all()
    with pytest.raises(PochadeError, match="control: 100% of it is not black, allowed are stick figures on black"):
        KINDS["pose"].read(Image.new("RGB", (8, 8), "white"), "control")


def test_each_limb_lies_between_its_joints_in_its_colour() -> None:
    assert COLOURS[:3] == ((255, 0, 0), (255, 85, 0), (255, 170, 0))  # OpenPose's
    for limb, (one, other) in enumerate(LIMBS):
        joints = np.tile([0.9, 0.1], (len(JOINTS), 1))
        joints[one], joints[other] = (0.3, 0.4), (0.7, 0.8)
        pixels = np.asarray(stick_figure(joints, 100))
        assert pixels[60, 50].tolist() == list(COLOURS[limb])
        assert pixels[40, 20].tolist() == [0, 0, 0]
