"""Pictures and masks of every kind to tensors, and the canvas on which they are generated."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pochade.errors import PochadeError
from pochade.images.canvas import Canvas, as_floats
from pochade.pipelines.pictures import read_masks, read_pictures
from pochade.runtime.masks import EditingWarning
from pochade.runtime.pictures import is_nearly_flat

GREY = read_pictures(torch.full((3, 4, 6), 0.5))
ROTATED = 6
"""EXIF orientation: to be turned by a quarter."""


def gradient(mode: str, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gradient("L")).astype(np.uint16) * 257)
    else:
        image = gradient("RGB" if mode == "CMYK" else "L").convert(mode)
    picture = as_floats(read_pictures(image).shown())
    assert picture.shape == (1, 3, 4, 6)
    if mode != "1":
        expected = np.asarray(gradient("RGB")) / 255
        assert np.abs(picture[0].permute(1, 2, 0).numpy() - expected).max() < 0.02


def test_what_is_transparent_is_white_and_may_be_the_mask() -> None:
    image = Image.new("RGBA", (5, 3), (255, 0, 0, 255))
    image.putpixel((1, 2), (0, 0, 0, 0))
    pictures = read_pictures(image)
    assert pictures.shown()[0, :, 2, 1].tolist() == [255, 255, 255]
    assert pictures.shown()[0, :, 0, 0].tolist() == [255, 0, 0]
    assert pictures.alpha is not None
    assert pictures.alpha.sum() == 14 * 255
    assert pictures.colour[0, :, 2, 1].tolist() == [0, 0, 0]
    palette = Image.new("P", (5, 3), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 2), 0)
    palette.info["transparency"] = 0
    for one in (image, palette):
        (mask,) = read_masks("alpha", read_pictures(one))
        assert mask.sum() == 1
        assert mask[2, 1]
    for none in (gradient("RGB"), gradient("RGBA"), torch.zeros(3, 4, 6)):
        with pytest.raises(PochadeError, match="mask_image: 'alpha' given, but the picture has no transparent part"):
            read_masks("alpha", read_pictures(none))


def test_pictures_are_turned_as_they_say() -> None:
    image = gradient("RGBA")
    image.putpixel((0, 3), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    import io

    file = io.BytesIO()
    image.save(file, format="PNG", exif=exif)
    turned = Image.open(file)
    assert read_pictures(turned).size == (6, 4)
    (mask,) = read_masks("alpha", read_pictures(turned))
    assert np.argwhere(mask).tolist() == [[0, 0]]


def shown(image: Any) -> torch.Tensor:
    return as_floats(read_pictures(image).shown())


def test_arrays_tensors_and_lists() -> None:
    bytes_ = np.asarray(gradient("RGB"))
    expected = shown(gradient("RGB"))
    assert torch.equal(shown(bytes_), expected)
    for same in (bytes_ / np.float32(255), np.stack([bytes_]), expected, expected[0], [bytes_], bytes_ / 255):
        torch.testing.assert_close(shown(same), expected)
    assert torch.equal(shown(torch.from_numpy(bytes_.copy()).permute(2, 0, 1)), expected)
    assert torch.equal(shown(np.asarray(gradient("L"))), expected)
    assert torch.equal(shown([gradient("RGB"), gradient("CMYK")])[:1], expected)
    assert torch.equal(shown([gradient("RGB"), expected])[1:], expected)


def test_arrays_that_are_turned_or_read_only() -> None:
    bytes_ = np.array(gradient("RGB"))
    floats = bytes_ / np.float32(255)
    floats.flags.writeable = False
    for array in (bytes_, floats):
        assert torch.equal(shown(array[::-1, ::-1]), shown(array).flip((2, 3)))
    marked = np.arange(24).reshape(4, 6) % 3 == 0
    (expected,), (flipped,) = (read_masks(mask, read_pictures(bytes_)) for mask in (marked, marked[::-1]))
    assert (flipped == expected[::-1]).all()


def test_opaque_and_transparent_pictures_of_one_call() -> None:
    clear = gradient("RGBA")
    clear.putpixel((1, 2), (9, 9, 9, 0))
    for both in ([clear, gradient("RGB")], [clear, shown(gradient("RGB"))]):
        pictures = read_pictures(both)
        assert pictures.alpha is not None
        assert as_floats(pictures.alpha).sum((1, 2, 3)).tolist() == [23, 24]
        assert as_floats(pictures.colour)[0, :, 2, 1].tolist() == pytest.approx([9 / 255] * 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "image: NoneType given, allowed are a picture"),
        ("in.png", "image: str given"),
        ([], "image: an empty list given"),
        (torch.zeros(4, 4), r"image: shape \[4, 4\] given, allowed are arrays \[H, W, 3\]"),
        (torch.full((3, 4, 4), -1.0), r"image: values -1.0 to -1.0 given, allowed are bytes, and floats in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), "image: values nan"),
        (np.zeros((4, 4, 5), np.float32), r"image: shape \[4, 4, 5\]"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "image: pictures of 4 x 4 and 4 x 5 pixels given"),
        (Image.new("F", (4, 4)), "image: unsupported format .its pixels are fractions"),
        (Image.new("1", (8000, 5000)), "image: 8000 x 5000 pixels given, allowed are 1 to 25 megapixels"),
        (torch.zeros(3, 0, 4), "image: 4 x 0 pixels given"),
    ],
)
def test_bad_pictures(image: Any, message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        read_pictures(image)


def test_masks_of_every_kind() -> None:
    marked = torch.zeros(1, 1, 4, 6)
    marked[0, 0, 1:3, 2:5] = 1
    array = marked[0, 0].numpy()
    image = Image.fromarray((array * 255).astype(np.uint8))
    clear = Image.new("LA", image.size, (255, 0))
    clear.putalpha(image)
    for mask in (image, image.convert("RGB"), image.convert("1"), clear, array, array > 0, marked[0], marked, [image]):
        assert all((one == (marked[0, 0] > 0).numpy()).all() for one in read_masks(mask, GREY))


def test_grey_and_full_masks_give_warnings() -> None:
    ramp = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    with pytest.warns(EditingWarning, match="mask: 22 of 24 pixels are grey, those from the middle on are taken"):
        assert read_masks(ramp, GREY)[0].sum() == 12
    with pytest.warns(EditingWarning, match="mask: all of it is white"):
        read_masks(np.ones((4, 6), bool), GREY)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 6), bool), r"mask_image: nothing is white \(its brightest value is 0 of 1\)"),
        (np.ones((6, 4), bool), "mask_image: 4 x 6 pixels given, allowed is the size of the picture, 6 x 4"),
        (np.full((4, 6), 2.0), "mask_image: values 2.0 to 2.0 given"),
        (torch.ones(1, 3, 4, 6), r"mask_image: shape \[1, 3, 4, 6\] given"),
        (Image.new("F", (4, 4), 1), "mask_image: unsupported format .its pixels are fractions"),
        ("m.png", "mask_image: 'm.png' given, allowed are a picture and 'alpha'"),
        (None, "mask_image: NoneType given"),
    ],
)
def test_bad_masks(mask: Any, message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        read_masks(mask, GREY)


def test_no_warning_for_plain_masks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_masks(np.arange(24).reshape(4, 6) > 3, GREY)


def test_soft_masks_keep_their_greys_but_for_noise() -> None:
    mask = np.array([[0, 7, 8, 100, 247, 248]] * 4, np.uint8)
    (soft,) = read_masks(mask, GREY, soft=True)
    assert soft.dtype == np.uint8
    assert soft[0].tolist() == [0, 0, 8, 100, 247, 255]
    assert (read_masks(mask / np.float32(255), GREY, soft=True)[0] == soft).all()
    assert read_masks(mask, GREY, soft=True, invert=True)[0][0].tolist() == [255, 255, 247, 155, 8, 0]
    with pytest.raises(PochadeError, match="nothing is white"):
        read_masks(np.full((4, 6), 5, np.uint8), GREY, soft=True)


def test_masks_are_inverted_and_blurred() -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 3:] = 255
    (inverted,), (expected,) = read_masks(mask, GREY, invert=True), read_masks(255 - mask, GREY)
    assert (inverted == expected).all()
    with pytest.raises(PochadeError, match="mask_image: nothing is black, allowed with invert_mask"):
        read_masks(np.ones((4, 6), bool), GREY, invert=True)
    large = read_pictures(Image.new("RGB", (200, 40)))
    half = np.zeros((40, 200), np.uint8)
    half[:, 100:] = 255
    (blurred,) = read_masks(half, large, blur=6.0)
    assert blurred.dtype == np.uint8
    # The step becomes the distribution function of the Gaussian.
    x = torch.arange(200) + 0.5 - 100
    expected = 255 * 0.5 * (1 + torch.erf(x / (6.0 * 2**0.5)))
    assert np.abs(blurred - expected.numpy()).max() < 5
    point = np.zeros((40, 200), np.uint8)
    point[20, 100] = 255
    with pytest.raises(PochadeError, match="mask_blur: 50 pixels given, which leave nothing of the mask"):
        read_masks(point, large, blur=50.0)
    with pytest.raises(PochadeError, match="'alpha' given with soft_mask, mask_blur or invert_mask"):
        read_masks("alpha", large, invert=True)


def test_any_part_of_a_picture_is_shown_as_the_whole_is() -> None:
    """It is composed on white for the part that is asked for, in bytes as Pillow does, in floats by the formula."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    expected = torch.from_numpy(np.array(white.convert("RGB"))).permute(2, 0, 1)[None]
    pictures = read_pictures(image)
    assert bool((pictures.shown().int() - expected.int()).abs().max() <= 1)
    rows, columns = slice(7, 31), slice(3, 20)
    assert torch.equal(pictures.shown(rows, columns), pictures.shown()[:, :, rows, columns])
    assert torch.equal(pictures.opaque().shown(), pictures.colour)
    mixed = read_pictures([image, torch.rand(3, 40, 30)])
    assert (mixed.shown()[0] * 255 - pictures.shown()[0]).abs().max() < 1
    canvas = Canvas.fit(40, 30, 16, 4)
    assert torch.equal(canvas.put_bands(pictures.shown), canvas.put(pictures.shown()))


def test_a_picture_has_one_colour_where_it_is_seen() -> None:
    clear = np.zeros((5, 6, 4), dtype=np.uint8)
    clear[:, :, 0] = np.arange(6)

    def is_flat(image: Any) -> bool:
        return is_nearly_flat(read_pictures(image).shown()[0].permute(1, 2, 0).numpy() / np.float32(255))

    assert is_flat(Image.fromarray(clear))
    clear[:, 3, 3] = 255
    assert not is_flat(Image.fromarray(clear))


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        (np.full((40, 30, 3), 0.4), True),
        (np.random.default_rng(0).integers(248, 256, (1200, 30, 3)) / 255, True),
        (np.pad(np.zeros((9, 9, 3)), ((9, 12), (9, 12), (0, 0)), constant_values=1), True),  # a dot on paper
        (np.pad(np.zeros((12, 12, 3)), ((9, 9), (9, 9), (0, 0)), constant_values=1), False),
        (np.linspace(0.4, 0.6, 900).reshape(30, 10, 3), False),
    ],
)
def test_a_picture_is_nearly_flat_where_nine_tenths_have_one_colour(values: np.ndarray, flat: bool) -> None:
    assert is_nearly_flat(values.astype(np.float32)) == flat


@pytest.mark.parametrize("values", [np.array([None]), np.array(["a"]), np.zeros((4, 6, 3), complex)])
def test_arrays_of_no_numbers_are_refused(values: Any) -> None:
    with pytest.raises(PochadeError, match=r"image: an array of .* given, allowed are bytes, and floats"):
        read_pictures(values)
    with pytest.raises(PochadeError, match=r"mask_image: an array of .* given, allowed are bytes, and floats"):
        read_masks(values, GREY)
