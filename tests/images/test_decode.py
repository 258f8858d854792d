import base64
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile
from torch import Tensor

from pochade.errors import FailureError, PochadeError
from pochade.images.decode import BadImage, load_image, square, to_image, to_tensor, upright_rgb


def read_image(source: Path | bytes, *, size: int, **options) -> Tensor:
    return to_tensor(square(load_image(source, size=size, **options)[0], size))


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((13, header), (1000, b"IDAT"))
    parts = [struct.pack(">I", n) + chunk + struct.pack(">I", zlib.crc32(chunk)) for n, chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_formats_keep_the_picture(format):
    image = gradient(32, 32)
    options = {"lossless": True} if format == "WEBP" else {"quality": 98} if format == "JPEG" else {}
    tensor = read_image(encode(image, format, **options), size=32)
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    error = (tensor - to_tensor(image)).abs().mean()
    assert error == 0 if format != "JPEG" else error < 0.03


HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAEgAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5j"
    "bHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAFBtZGF0AAAARCgBr1jm9Oq//+J8//o2kh8eP/X/8EPVfsf/P+rz"
    "VSNXcKJmZUqp89WOYKe4QqQe4ajzoCH1SM7U3AmiYmjtOfqu2ruA"
)
"""64 x 48 pixels, the left half red (200, 40, 40), the right one blue (30, 60, 200); Pillow writes no such file."""


def test_photographs_of_phones_are_read():
    image, conversions = load_image(HEIC, size=16)
    assert (image.size, conversions) == ((64, 48), ())
    for x, colour in ((10, (200, 40, 40)), (54, (30, 60, 200))):
        assert max(abs(a - b) for a, b in zip(image.getpixel((x, 24)), colour, strict=True)) < 12


def test_a_format_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(
        BadImage, match=r"a\.heic: unsupported format \(pi-heif is not installed: pip install 'pochade\[heic\]'"
    ):
        load_image(HEIC, name="a.heic")


def test_a_large_photograph_is_reduced_while_it_is_read():
    # 48 megapixels in the proportion of this: four times the limit at twice the side.
    data = encode(gradient(400, 300), "JPEG", quality=95)
    for size in (16, 150, 2048):
        image, _ = load_image(data, size=size, max_megapixels=0.04)
        assert image.size == ((50, 38) if size == 16 else (200, 150))
    assert (read_image(data, size=32, max_megapixels=0.04) - read_image(data, size=32)).abs().max() < 0.05
    with pytest.raises(BadImage, match=r"400 x 300 pixels, 0.04 megapixels allowed"):
        load_image(data, max_megapixels=0.04)  # whole, as for editing
    with pytest.raises(BadImage, match=r"400 x 300 pixels, 0.1152 megapixels allowed"):
        load_image(data, size=16, max_megapixels=0.0018)
    with pytest.raises(BadImage, match=r"0.08 megapixels allowed"):  # all of it would be in memory
        load_image(encode(gradient(400, 300), "JPEG", progressive=True), size=16, max_megapixels=0.04)


def test_tensor_and_picture_are_inverse():
    image = gradient()
    assert to_tensor(image).amin() == -1
    assert to_tensor(image).amax() == 1
    assert np.array_equal(np.asarray(to_image(to_tensor(image))), np.asarray(image))
    assert np.asarray(to_image(torch.full((3, 2, 2), 7.0))).min() == 255


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tensor_with_nan_is_no_picture(bad):
    tensor = torch.zeros(3, 4, 4)
    tensor[1, 2, 3] = bad
    with pytest.raises(FailureError, match=r"NaN"):
        to_image(tensor)


def test_to_image_wants_three_channels():
    with pytest.raises(PochadeError, match=r"\[1, 4, 4\]"):
        to_image(torch.zeros(1, 4, 4))


def test_centre_crop_takes_the_middle():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert np.asarray(square(Image.fromarray(pixels), 10)).min() == 255
    assert np.asarray(square(Image.fromarray(pixels.transpose(1, 0, 2)), 10)).min() == 255


def test_shrinking_is_antialiased():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(square(Image.fromarray(board).convert("RGB"), 8)).astype(int)
    assert abs(small - 127).max() <= 8


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))


def cmyk() -> Image.Image:
    return gradient(16, 16).convert("CMYK")


def translucent_palette() -> bytes:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 1), 1)
    return encode(image, transparency=0)


@pytest.mark.parametrize(
    "data, kinds",
    [
        (encode(gradient().convert("L")), ("grey",)),
        (encode(gradient().convert("1")), ("grey",)),
        (encode(gradient().convert("LA")), ("grey",)),
        (encode(gradient().convert("P")), ("palette",)),
        (translucent_palette(), ("alpha", "palette")),
        (encode(gradient().convert("RGBA")), ()),
        (encode(Image.new("LA", (9, 9), (9, 99))), ("alpha", "grey")),
        (encode(Image.new("RGBA", (9, 9), (9, 9, 9, 99)), "WEBP"), ("alpha",)),
        (encode(sixteen_bit()), ("16-bit", "grey")),
        (encode(cmyk(), "JPEG"), ("cmyk",)),
        (encode(gradient().convert("L"), "JPEG"), ("grey",)),
        (encode(gradient(), save_all=True, append_images=[gradient().rotate(90)]), ("animated",)),
        (encode(gradient(), "WEBP", save_all=True, append_images=[gradient().rotate(90)]), ("animated",)),
        (encode(gradient()), ()),
        (encode(gradient(), "JPEG"), ()),
    ],
)
def test_every_kind_becomes_rgb_and_is_named(data, kinds):
    image, conversions = load_image(data)
    assert image.mode == "RGB"
    assert conversions == kinds


def profile(**swapped: str) -> bytes:
    """That of sRGB, with some of its tags exchanged, such as ``rXYZ="gXYZ"`` for red and green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    names = {bytes(data[i : i + 4]).decode(): i for i in range(132, 132 + 12 * data[131], 12)}
    for one, other in swapped.items():
        a, b = (slice(names[name] + 4, names[name] + 12) for name in (one, other))
        data[a], data[b] = data[b], data[a]
    return bytes(data)


def test_colours_are_those_of_the_profile():
    swapped = profile(rXYZ="gXYZ")
    image = Image.new("RGB", (4, 4), (204, 51, 51))
    clear = image.convert("RGBA")
    clear.putpixel((1, 1), (0, 0, 0, 0))
    for one, kinds in (
        (image, ("profile",)),
        (clear, ("alpha", "profile")),
        (image.convert("P"), ("palette", "profile")),
    ):
        read, conversions = load_image(encode(one, icc_profile=swapped), background=None)
        assert conversions == kinds
        assert "icc_profile" not in read.info
        assert np.abs(np.asarray(read)[0, 0, :3].astype(int) - (51, 204, 51)).max() <= 3
        assert read.mode == ("RGBA" if "alpha" in kinds else "RGB")
    # A grey picture has no red and green.
    read, conversions = load_image(encode(image.convert("L"), icc_profile=swapped))
    assert conversions == ("grey", "profile")
    assert np.abs(np.asarray(read).astype(int) - np.asarray(image.convert("L"))[..., None]).max() <= 2


def test_the_profile_of_srgb_changes_no_bit_and_a_broken_one_is_named():
    image = gradient(64, 64)
    read, conversions = load_image(encode(image, icc_profile=profile()))
    assert conversions == ()
    assert np.array_equal(np.asarray(read), np.asarray(image))
    for broken in (b"no profile", profile()[:300]):
        read, conversions = load_image(encode(image, icc_profile=broken))
        assert conversions == ("profile ignored",)
        assert np.array_equal(np.asarray(read), np.asarray(image))


def test_what_is_transparent_may_stay():
    image = Image.new("RGBA", (4, 4), (9, 8, 7, 255))
    assert load_image(encode(image), background=None)[0].mode == "RGB"
    image.putpixel((1, 2), (1, 2, 3, 0))
    read, conversions = load_image(encode(image), background=None)
    assert (read.mode, read.getpixel((1, 2)), conversions) == ("RGBA", (1, 2, 3, 0), ("alpha",))
    for mode in ("RGBa", "La"):
        premultiplied = image.convert({"RGBa": "RGBA", "La": "LA"}[mode]).convert(mode)
        assert upright_rgb(premultiplied)[0].getpixel((1, 2)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped():
    image, _ = load_image(encode(sixteen_bit()))
    values = np.asarray(image)[..., 0].ravel().astype(int)
    assert np.abs(values - np.arange(256)).max() <= 1


def test_cmyk_colours_survive():
    image, _ = load_image(encode(cmyk(), "JPEG", quality=98))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(gradient(16, 16))).mean() < 6


def test_transparency_shows_the_background():
    data = encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    assert read_image(data, size=4).min() == 1
    assert read_image(data, size=4, background="black").max() == -1
    blue = read_image(translucent_palette(), size=4, background=(0, 0, 255))
    assert blue[:, 0, 0].tolist() == [-1, -1, 1]
    assert blue[:, 1, 1].tolist() == [-1, 1, -1]


def test_the_first_frame_of_an_animation_is_taken():
    data = encode(Image.new("RGB", (4, 4), "red"), save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert read_image(data, size=4)[:, 0, 0].tolist() == [1, -1, -1]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    image, conversions = load_image(encode(gradient(40, 30), "JPEG", exif=exif))
    assert image.size == (30, 40)
    assert conversions == ("rotated",)


def test_a_reduced_jpeg_shows_the_same_picture():
    data = encode(gradient(400, 300), "JPEG", quality=95)
    whole = to_tensor(square(load_image(data)[0], 32))
    assert load_image(data, size=32)[0].size == (100, 75)
    assert (read_image(data, size=32) - whole).abs().max() < 0.05


CORRUPT = {
    "png": encode(gradient(200, 200)),
    "jpeg": encode(gradient(200, 200), "JPEG"),
    "webp": encode(gradient(200, 200), "WEBP"),
    "gif": encode(gradient(200, 200), "GIF"),
    "bmp": encode(gradient(200, 200), "BMP"),
    "tiff": encode(gradient(200, 200), "TIFF", compression="tiff_lzw"),
    "heic": HEIC,
}


@pytest.mark.parametrize("kind", CORRUPT)
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.9])
def test_truncated_files_are_refused(kind, fraction):
    data = CORRUPT[kind]
    with pytest.raises(BadImage, match=r"corrupt or truncated"):
        read_image(data[: max(13, int(len(data) * fraction))], size=8)


@pytest.mark.parametrize("kind", CORRUPT)
def test_garbage_behind_the_first_bytes_is_refused(kind):
    data = CORRUPT[kind][:20] + bytes(range(256)) * 4
    with pytest.raises(BadImage):
        read_image(data, size=8)


@pytest.mark.parametrize("kind", CORRUPT)
def test_no_single_flipped_byte_escapes_as_another_error(kind):
    rng = np.random.default_rng(0)
    data = CORRUPT[kind]
    for position in rng.integers(0, len(data), 60):
        changed = bytearray(data)
        changed[position] ^= int(rng.integers(1, 256))
        try:
            tensor = read_image(bytes(changed), size=8)
        except BadImage:
            continue
        assert tensor.shape == (3, 8, 8)
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"\x00" * 100, "unsupported format.*PNG, JPEG, WebP, GIF"),
        (b"8BPS\0\1", "unsupported format"),
        (encode(Image.new("F", (4, 4), 0.5), "TIFF"), "unsupported format .its pixels are fractions"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported format"),
        (png_header(0, 5), "corrupt or truncated"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data, reason):
    with pytest.raises(BadImage, match=reason) as caught:
        read_image(data, size=8, name="pictures/a.png")
    assert str(caught.value).startswith("pictures/a.png: ")


def bombs() -> dict[str, bytes]:
    jpeg = bytearray(encode(gradient(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + (16382).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x
    lossless = bytearray(encode(gradient(), "WEBP", lossless=True))
    lossless[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    lossy = bytearray(encode(gradient(), "WEBP"))
    lossy[26:30] = struct.pack("<HH", 16000, 16000)
    gif = bytearray(encode(gradient(), "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    bmp = bytearray(encode(gradient(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    tiff = encode(gradient(), "TIFF")
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HHI", tag, 4, 1))
        tiff = tiff[: at + 8] + struct.pack("<I", 60000) + tiff[at + 12 :]
    return {
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "tiff": tiff,
        "png": png_header(50000, 50000),
        "jpeg": bytes(jpeg),
        "webp": webp,
        "webp lossless": bytes(lossless),
        "webp lossy": bytes(lossy),
    }


@pytest.mark.parametrize("kind", bombs())
def test_bombs_are_refused_from_the_header(kind, monkeypatch):
    # Nothing may be handed to a decoder.
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *a, **k: pytest.fail("pixels were decoded"))
    with pytest.raises(BadImage, match=r"too large \(.* pixels"):
        read_image(bombs()[kind], size=8)


def test_the_pixel_limit_can_be_set():
    data = encode(gradient(100, 100))
    assert read_image(data, size=8, max_megapixels=0.01).shape == (3, 8, 8)
    with pytest.raises(BadImage, match=r"100 x 100 pixels, 0.009 megapixels"):
        read_image(data, size=8, max_megapixels=0.009)


def test_a_file_is_read_by_its_content_not_by_its_name(tmp_path: Path):
    path = tmp_path / "really a png.jpg"
    path.write_bytes(encode(gradient()))
    assert read_image(path, size=16).shape == (3, 16, 16)
    with pytest.raises(BadImage, match=r"unreadable"):
        read_image(tmp_path / "absent.png", size=16)


def test_a_progressive_photograph_is_reduced_up_to_twice_the_limit(tmp_path: Path) -> None:
    """Its decoder holds all of it, so that it may be less large than another JPEG."""
    colours = Image.linear_gradient("L").convert("RGB")
    for name, size, progressive in (("a", (400, 190), True), ("b", (400, 210), True), ("c", (400, 210), False)):
        colours.resize(size).save(tmp_path / f"{name}.jpg", progressive=progressive)
    given = {"size": 16, "max_megapixels": 0.04}
    assert load_image(tmp_path / "a.jpg", **given)[0].size in ((50, 24), (100, 48), (200, 95))
    assert load_image(tmp_path / "c.jpg", **given)[0].size[0] <= 200
    with pytest.raises(BadImage, match=r"too large \(400 x 210 pixels, 0.08 megapixels allowed\)"):
        load_image(tmp_path / "b.jpg", **given)
    with pytest.raises(BadImage, match=r"too large \(400 x 190 pixels, 0.04 megapixels allowed\)"):
        load_image(tmp_path / "a.jpg", max_megapixels=0.04)
