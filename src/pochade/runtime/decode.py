"""Picture files to pictures: few formats, checked before they are decoded, every oddity named."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import PochadeError, missing_extra

MAX_MEGAPIXELS = 25.0
REDUCTIONS = (1, 2, 4, 8)
"""By which a JPEG is divided in rows and columns while it is decoded."""
PROGRESSIVE = 2
"""By which the pixels of a progressive JPEG that is reduced may exceed the limit."""
FORMATS = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF and HEIC"
UNSUPPORTED = "unsupported format"
"""The reason of a picture in a format that is not read here, or not without another package."""


FRACTIONS = "its pixels are fractions, of a range that is not known"


class BadImage(PochadeError):  # noqa: N818
    """A picture that cannot be used: ``reason`` is one of a few to count by, ``detail`` what was found."""

    def __init__(self, name: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{name}: {reason}" + (f" ({detail})" if detail else ""))
        self.name, self.reason, self.detail = name, reason, detail


def load_image(
    source: Path | str | bytes,
    *,
    size: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    background: str | tuple[int, int, int] | None = "white",
    name: str | None = None,
    keep_16_bit: bool = False,
) -> tuple[Image.Image, tuple[str, ...]]:
    """A decoded, upright picture in sRGB and the conversions that it took.

    These are of "16-bit", "alpha", "animated" (the first frame is taken), "cmyk", "grey", "palette", "profile"
    (converted to sRGB), "profile ignored" (it cannot be used) and "rotated". What is transparent shows
    ``background``; with None it stays, in RGBA. With ``keep_16_bit`` a grey picture of 16 bits stays one. PNG, JPEG,
    WebP, GIF, BMP, TIFF and, where Pillow and pi-heif have them, AVIF and HEIC, known by their first bytes, whatever
    the name says. A picture over ``max_megapixels`` is refused from its header, before any pixel is decoded. With
    ``size`` a JPEG is decoded at a reduced scale of at least twice ``size``, and one of up to 64 times
    ``max_megapixels``, a progressive one of up to twice, at the scale at which it is within the limit. Raises
    `BadImage`, whose text starts with ``name`` (default: the path).
    """
    if isinstance(source, bytes):
        name, data = name or "image", source
    else:
        name = name or str(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise BadImage(name, "unreadable", error.strerror or str(error)) from error
    if not data:
        raise BadImage(name, "empty file")
    reader = _reader(data, name)
    try:
        image = reader(io.BytesIO(data))  # of its header alone
        _refuse_bomb(name, *image.size, max_megapixels, _larger(image) if size is not None else 1)
        if image.mode == "F":
            raise BadImage(name, UNSUPPORTED, FRACTIONS)
        if size is not None:
            _reduce(image, 2 * size, max_megapixels)
        animated = getattr(image, "is_animated", False)
        image.load()
        if keep_16_bit and is_16_bit(image):
            rgb, conversions = _upright(image), list[str]()
        else:
            rgb, conversions = upright_rgb(image, background)
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own limit
        raise BadImage(name, "too large", str(error)) from error
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError and more for broken input.
    except Exception as error:
        raise BadImage(name, "corrupt or truncated", str(error) or type(error).__name__) from error
    if animated:
        conversions.append("animated")
    if rgb is image:
        rgb = image.copy()  # without the file
    return rgb, tuple(sorted(conversions))


def dimensions(data: bytes, name: str = "image") -> tuple[int, int]:
    """Columns and rows of the pixels in a file's bytes, by its header alone, as they lie. Raises `BadImage`."""
    reader = _reader(data, name)
    try:
        return reader(io.BytesIO(data)).size
    except Exception as error:
        raise BadImage(name, "corrupt or truncated", str(error) or type(error).__name__) from error


def check_megapixels(name: str, width: int, height: int) -> None:
    """Raises PochadeError where a picture is empty or larger than ``MAX_MEGAPIXELS``."""
    if not width or not height or width * height > MAX_MEGAPIXELS * 1e6:
        raise PochadeError(
            f"{name}: {width} x {height} pixels given, allowed are 1 to {MAX_MEGAPIXELS:g} megapixels, in a picture "
            "that is not empty"
        )


def check_picture(name: str, image: Image.Image) -> None:
    """Raises PochadeError where a picture in memory is one that no file may be, see ``load_image``."""
    check_megapixels(name, *image.size)
    if image.mode == "F":
        raise BadImage(name, UNSUPPORTED, FRACTIONS)


def upright_rgb(
    image: Image.Image, background: str | tuple[int, int, int] | None = "white"
) -> tuple[Image.Image, list[str]]:
    """A picture of any mode upright and in sRGB, and the conversions that it took, as ``load_image`` calls them."""
    upright = _upright(image)
    picture, conversions = _to_srgb(upright)
    if picture.mode == "RGBA" and background is not None:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, background), picture).convert("RGB")
    return picture, conversions if upright is image else [*conversions, "rotated"]


def is_16_bit(image: Image.Image) -> bool:
    """Whether a grey picture has 16 bits, or more."""
    return image.mode.startswith("I")


def upright_grey(image: Image.Image) -> Image.Image:
    """The brightness of a picture of any mode, upright; what is transparent is black."""
    upright = _upright(image)
    return upright.convert("L") if upright.mode in ("1", "L") else upright_rgb(upright, "black")[0].convert("L")


def _reader(data: bytes, name: str) -> type[ImageFile.ImageFile]:
    """The class of Pillow that reads files with these first bytes. Raises BadImage where there is none."""
    if data[4:8] == b"ftyp":
        brands = data[8:32]
        if b"avif" in brands and features.check("avif"):
            from PIL.AvifImagePlugin import AvifImageFile

            return AvifImageFile
        if any(brand in brands for brand in _HEIC):
            try:
                from pi_heif import HeifImageFile
            except ImportError as error:
                raise BadImage(name, UNSUPPORTED, str(missing_extra("pi-heif", "heic"))) from error
            return HeifImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    for start, reader in _READERS:
        if data.startswith(start):
            return reader
    raise BadImage(name, UNSUPPORTED, f"it starts with {data[:8]!r}; {FORMATS} are read")


_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")
"""Brands of the photographs of phones."""


def _larger(image: ImageFile.ImageFile) -> int:
    """How many times the pixels of the limit a picture may have that is reduced while it is decoded.

    The decoder of a progressive JPEG holds the coefficients of all of it, two bytes each, so that 50 megapixels take as
    much memory as three times the plain limit, 310 MB.
    """
    if not isinstance(image, JpegImageFile):
        return 1
    return PROGRESSIVE if image.info.get("progressive") else REDUCTIONS[-1] ** 2


def _reduce(image: ImageFile.ImageFile, side: int, max_megapixels: float) -> None:
    """Asks a JPEG's decoder for the smallest scale of at least ``side`` pixels that is within the limit."""
    width, height = image.size
    least = next((by for by in REDUCTIONS if width * height <= max_megapixels * 1e6 * by**2), REDUCTIONS[-1])
    image.draft(None, (max(1, min(side, width // least)), max(1, min(side, height // least))))


def _refuse_bomb(name: str, width: int, height: int, max_megapixels: float, larger: int) -> None:
    if width * height > max_megapixels * 1e6 * larger:
        raise BadImage(name, "too large", f"{width} x {height} pixels, {max_megapixels * larger:g} megapixels allowed")
    if not width or not height:
        raise BadImage(name, "corrupt or truncated", f"{width} x {height} pixels")


def _upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF record says; itself where there is none, or one that cannot be read."""
    try:
        if image.getexif().get(0x0112, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """In RGB, or in RGBA where a pixel is transparent."""
    conversions: list[str] = []
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if is_16_bit(image) or image.mode == "F":
        # PIL would clip the 16 bits at 255 instead of scaling them.
        pixels = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        conversions.append("16-bit")
    match image.mode:
        case "L" | "LA" | "1":
            conversions.append("grey")
        case "P" | "PA":
            conversions.append("palette")
        case "CMYK":
            conversions.append("cmyk")
        case _:
            pass
    alpha: Image.Image | None = None
    if image.has_transparency_data:
        alpha = (image if image.mode in ("LA", "RGBA") else image.convert("RGBA")).getchannel("A")
        alpha = None if alpha.getextrema() == (255, 255) else alpha
    if alpha is not None and image.mode == "RGBA" and not image.info.get("icc_profile"):
        return image, [*conversions, "alpha"]
    picture, profile = _by_profile(image)
    if profile is not None:
        conversions.append(profile)
    if alpha is not None:
        conversions.append("alpha")
        picture = Image.merge("RGBA", (*picture.split(), alpha))
    return picture, conversions


_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> the mode of the pixels that it describes."""


def _by_profile(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The colours of a picture in sRGB, by its profile where it has one; and what became of that, None for nothing."""
    data = image.info.get("icc_profile")
    if not data:
        return image if image.mode == "RGB" else image.convert("RGB"), None
    try:
        mode, transform = _transform(data)
        if (mode == "CMYK") != (image.mode == "CMYK"):
            raise ValueError(f"a profile of {mode} in a picture of {image.mode}")
        if transform is None:
            return image if image.mode == "RGB" else image.convert("RGB"), None
        pixels = image.convert("RGB").convert(mode) if mode == "L" else image.convert(mode)
        converted = ImageCms.applyTransform(pixels, transform)
        assert converted is not None
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError, KeyError):
        return image.convert("RGB"), "profile ignored"
    converted.info.pop("icc_profile", None)
    return converted, "profile"


@lru_cache(maxsize=16)
def _transform(data: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode of pixels that a profile describes, and what takes them to sRGB; None where that changes nothing."""
    profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(data))
    mode = _PROFILED[profile.profile.xcolor_space.strip()]
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return mode, transform
    ramp = np.linspace(0, 255, 18).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(18, -1, 3) if mode == "RGB" else ramp[None]
    probe = Image.fromarray(colours)
    converted = ImageCms.applyTransform(probe, transform)
    assert converted is not None
    change = np.abs(np.asarray(converted, dtype=int) - np.asarray(probe.convert("RGB"), dtype=int)).max()
    return mode, transform if change > _SAME else None


_SAME = 2
"""A profile that changes no colour by more, of 255, is sRGB as another program wrote it."""
