"""Open Clip Art: some 3,700 drawings with titles and keywords, in the public domain, from a folder of SVG files.

Debian and Ubuntu carry release 0.18 as the package ``openclipart-svg``.
"""

import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pochade.data.report import MAX_SKIPPED, Report
from pochade.data.sources.captioned import CaptionedImages, Picture, store_for
from pochade.data.sources.folder import clean
from pochade.errors import PochadeError, missing_extra
from pochade.images.decode import MAX_MEGAPIXELS, BadImage

MARGIN = 0.04
"""Of the picture's side, left free around a drawing."""
LARGEST_ENLARGEMENT = 4.0
CHECKED_SIDE = 32
"""Pixels: what can be drawn small can be drawn large, in a multiple of the time."""
_ROOT = re.compile(r"<svg\b[^>]*>", re.DOTALL)
_SIZE = re.compile(r"\s(?:width|height)\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_TITLE = re.compile(r"<dc:title>([^<]*)</dc:title>")
_KEYWORD = re.compile(r"<rdf:li>([^<]*)</rdf:li>")
_NO_KEYWORDS = re.compile(r"(unsorted|.|clip ?art|public domain|hash.*)?", re.IGNORECASE)
MAX_ALIKE = 16
"""Drawings of one title: some titles are those of whole collections, one of 1,500 stars of lines."""
_HEAD = 8192
"""Characters at the start of a file in which its title and keywords lie."""


@dataclass(frozen=True, slots=True)
class Drawing(Picture):
    """An SVG file, read as a square PNG of ``side`` pixels."""

    side: int = 256

    def read(self) -> bytes:
        """The drawing on transparent ground, centred, as large as fits; raises `BadImage`."""
        text = _without_page(Picture.read(self).decode("utf-8", "replace"))
        drawn = self._drawn(text, 2 * self.side)
        small = self.side / max(drawn.size)
        if small > 1:  # much of the page is empty: drawn again, larger
            drawn = self._drawn(text, round(2 * self.side * min(small, LARGEST_ENLARGEMENT)))
        room = max(1, round(self.side * (1 - 2 * MARGIN)))
        scale = room / max(drawn.size)
        width, height = (max(1, round(length * scale)) for length in drawn.size)
        page = Image.new("RGBA", (self.side, self.side))
        corner = (self.side - width) // 2, (self.side - height) // 2
        page.paste(drawn.resize((width, height), Image.Resampling.LANCZOS), corner)
        out = io.BytesIO()
        page.save(out, "PNG", compress_level=1)
        return out.getvalue()

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


class OpenClipArt(CaptionedImages):
    """The drawings below a folder, each checked once; captions are the title, and the title with the keywords.

    Args:
        path: the folder of SVG files; links, what lies in a folder ``duplicates``, and the most of more than
            ``MAX_ALIKE`` drawings of one title are passed over.
        size: rows and columns of the samples in pixels.
        split: "train", "held_out" (about a tenth, by a hash of the title) or "all".
        background: what surrounds a drawing.
        max_megapixels: as for other folders.
        max_skipped: the share of drawings that may be unusable before the whole folder is refused.
        progress: show a bar during the first check, where the error stream is a terminal.

    Raises:
        PochadeError: no such folder, or no drawings in it; a package of the "train" extra is missing.
        FailureError: more than ``max_skipped`` unusable; the report's file is named.
    """

    def __init__(
        self,
        path: Path | str,
        size: int,
        *,
        split: str = "all",
        background: str | tuple[int, int, int] = "white",
        max_megapixels: float = MAX_MEGAPIXELS,
        max_skipped: float = MAX_SKIPPED,
        progress: bool = True,
    ) -> None:
        super().__init__(size, split=split, background=background, max_megapixels=max_megapixels)
        self.path = Path(path)
        if not self.path.is_dir():
            raise PochadeError(f"path: {path} is no folder; it is the one with the SVG files of Open Clip Art")
        files = [f for f in sorted(self.path.rglob("*.svg")) if not f.is_symlink() and f.parent.name != "duplicates"]
        if not files:
            raise PochadeError(f"path: {path} holds no SVG files")
        store = store_for(self.path)
        self.report = Report(str(self.path), store / "report.json", total=len(files), max_skipped=max_skipped)
        titles: dict[str, list[Picture]] = {}
        for file in files:
            name = file.relative_to(self.path).as_posix()
            captions = captions_of(file.read_bytes()[:_HEAD].decode("utf-8", "replace"))
            if captions:
                titles.setdefault(captions[0], []).append(Drawing(name, captions, file, side=CHECKED_SIDE))
            else:
                self.report.skip(name, "no caption", "no title in the file")
        found = [drawing for alike in titles.values() for drawing in alike[:: -(-len(alike) // MAX_ALIKE)]]
        self._keep_usable(found, store, progress)
        self.items = [Drawing(p.name, p.captions, p.file, side=size) for p in self.items]


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
    """The drawing without the size of its page, where nothing else says which part of the plane is drawn."""
    root = _ROOT.search(text)
    if root is None or "viewBox" in root[0]:
        return text
    return text[: root.start()] + _SIZE.sub("", root[0]) + text[root.end() :]
