"""Open Clip Art: some 3,700 drawings with titles and keywords, in the public domain, from a folder of SVG files.

Debian and Ubuntu package release 0.18 as the package ``openclipart-svg``.
"""

import html
import io
import re
from pathlib import Path

from PIL import Image

from pochade.data.dataset import Split
from pochade.data.report import Report
from pochade.data.sources.formats import clean
from pochade.data.sources.image_files import CheckedPictures, ImageFiles, Picture, Reading
from pochade.data.store import store_for
from pochade.errors import PochadeError, missing_extra
from pochade.images.decode import BadImage, upright_rgb

LICENCE = "public domain"
MARGIN = 0.04
"""Of the picture's side, left free around a drawing."""
LARGEST_ENLARGEMENT = 4.0
_ROOT = re.compile(r"<svg\b[^>]*>", re.DOTALL)
_SIZE = re.compile(r"\s(?:width|height)\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_TITLE = re.compile(r"<dc:title>([^<]*)</dc:title>")
_KEYWORD = re.compile(r"<rdf:li>([^<]*)</rdf:li>")
_NO_KEYWORDS = re.compile(r"(unsorted|.|clip ?art|public domain|hash.*)?", re.IGNORECASE)
MAX_ALIKE = 16
"""Drawings of one title: some titles are those of whole collections, one of 1,500 stars of lines."""
_HEAD = 8192
"""Characters at the start of a file in which its title and keywords lie."""


class SvgPicture(Picture):
    """An SVG file, drawn centred and as large as fits."""

    def pixels(self, data: bytes) -> None:  # noqa: ARG002
        return None

    def load(self, data: bytes, size: int, reading: Reading) -> tuple[Image.Image, tuple[str, ...]]:
        text = _without_page(data.decode("utf-8", "replace"))
        drawn = self._drawn(text, 2 * size)
        small = size / max(drawn.size)
        if small > 1:  # much of the page is empty: drawn again, larger
            drawn = self._drawn(text, round(2 * size * min(small, LARGEST_ENLARGEMENT)))
        room = max(1, round(size * (1 - 2 * MARGIN)))
        scale = room / max(drawn.size)
        width, height = (max(1, round(length * scale)) for length in drawn.size)
        page = Image.new("RGBA", (size, size))
        corner = (size - width) // 2, (size - height) // 2
        page.paste(drawn.resize((width, height), Image.Resampling.LANCZOS), corner)
        return upright_rgb(page, reading.colour(self.name))[0], ()

    def _drawn(self, text: str, pixels: int) -> Image.Image:
        """What is not transparent of the page, whose longer side has so many pixels."""
        try:
            import resvg_py
        except ImportError as error:
            raise missing_extra(str(error.name), "train") from error
        try:
            png = resvg_py.svg_to_bytes(svg_string=text, width=pixels, height=pixels, skip_system_fonts=True)
        except ValueError as error:
            raise BadImage(self.name, "corrupt or truncated", str(error)) from error
        page = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        box = page.getchannel("A").getbbox()
        if box is None:  # text in fonts that are not there, or a picture in a file of its own
            raise BadImage(self.name, "nothing drawn")
        return page.crop(box)


def open_openclipart(path: Path, split: Split, reading: Reading | None = None) -> ImageFiles:
    """The drawings below a folder, each checked once; captions are the title, and the title with the keywords.

    Links, what lies in a folder ``duplicates``, and the most of more than ``MAX_ALIKE`` drawings of one title are
    passed over, and noted.

    Raises:
        PochadeError: no such folder, or no drawings in it; a package of the "train" extra is missing.
        EmptySplitError: no picture is of the split.
        FailureError: too many are unusable; the report's file is named.
    """
    reading = reading or Reading()
    if not path.is_dir():
        raise PochadeError(f"path: {path} is no folder; it is the one with the SVG files of Open Clip Art")
    files = sorted(path.rglob("*.svg"))
    doubles = [file for file in files if file.is_symlink() or file.parent.name == "duplicates"]
    files = [file for file in files if file not in set(doubles)]
    if not files:
        raise PochadeError(f"path: {path} holds no SVG files")
    store = store_for(path)
    report = Report(str(path), store / "report.json", total=len(files), max_skipped=reading.max_skipped)
    titles: dict[str, list[Picture]] = {}
    for file in files:
        name = file.relative_to(path).as_posix()
        captions = captions_of(file.read_bytes()[:_HEAD].decode("utf-8", "replace"))
        if captions:
            titles.setdefault(captions[0], []).append(SvgPicture(name, file, captions, licence=LICENCE))
        else:
            report.skip(name, "no caption", "no title in the file")
    found = [drawing for alike in titles.values() for drawing in alike[:: -(-len(alike) // MAX_ALIKE)]]
    kept = {drawing.name for drawing in found}
    for file in doubles:
        report.note("link or duplicate", file.relative_to(path).as_posix())
    for drawing in (drawing for alike in titles.values() for drawing in alike):
        if drawing.name not in kept:
            report.note(f"drawing of a title that more than {MAX_ALIKE} have", drawing.name)
    records = CheckedPictures(found, report, store, reading)
    return ImageFiles(records, None, report, split=split, classes=False, reading=reading)


def captions_of(head: str) -> tuple[str, ...]:
    """The captions in the first lines of a file: its title; with its keywords behind it; empty without a title."""
    title = _TITLE.search(head)
    # Behind the keywords come the publisher's and the author's titles.
    if title is None or not (words := html.unescape(title[1]).replace("_", " ").strip()):
        return ()
    keywords = [html.unescape(k).replace("_", " ").strip() for k in _KEYWORD.findall(head)]
    kept = [k for k in dict.fromkeys(keywords) if not _NO_KEYWORDS.fullmatch(k) and k.casefold() != words.casefold()]
    return clean([words, ", ".join([words, *kept])])


def _without_page(text: str) -> str:
    """The drawing without the size of its page, where nothing else gives which part of the plane is drawn."""
    root = _ROOT.search(text)
    if root is None or "viewBox" in root[0]:
        return text
    return text[: root.start()] + _SIZE.sub("", root[0]) + text[root.end() :]
