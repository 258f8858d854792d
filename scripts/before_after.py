"""Pictures of several evaluations of the same captions and seeds under each other, below the real ones.

    python scripts/before_after.py docs/images/your_pictures.webp runs/evening/{base,lora,full-fine-tuning}/report

They are taken from the pages of the reports (``report.html``): of the first captions of each split.
"""

import argparse
import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from pochade.files import atomic_file

KINDS = ("real: ", "generated: ")
SPLITS = ("h2", "h3")
"""A split begins with the first; with the second begins what is not wanted, until the next split."""


class Page(HTMLParser):
    """Of each split of a report the pictures, and of each of these the kind, the caption and the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.splits: list[list[tuple[str, str, Image.Image]]] = []
        self.wanted = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SPLITS:
            self.wanted = tag == "h2"
            self.splits += [[]] if self.wanted else []
        given = dict(attrs)
        text = given.get("alt") or ""
        kind = next((kind for kind in KINDS if text.startswith(kind)), None)
        if tag == "img" and self.wanted and kind is not None:
            data = base64.b64decode((given["src"] or "").partition(",")[2])
            self.splits[-1].append((kind, text.removeprefix(kind), Image.open(io.BytesIO(data)).convert("RGB")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("reports", type=Path, nargs="+", help="folders that pochade evaluate wrote")
    parser.add_argument("--count", type=int, default=5, help="captions of each split")
    parser.add_argument("--side", type=int, default=128, help="pixels of a picture")
    options = parser.parse_args()
    rows: list[list[Image.Image]] = []
    captions: list[list[str]] = []
    for folder in options.reports:
        page = Page()
        page.feed((folder / "report.html").read_text(encoding="utf-8"))
        made = {kind: [one for split in page.splits for one in _first(split, kind, options.count)] for kind in KINDS}
        captions += [[caption for caption, _ in made[kind]] for kind in KINDS]
        rows += [[image for _, image in made[kind]] for kind in (KINDS if not rows else KINDS[1:])]
    if any(row != captions[0] for row in captions):
        parser.error(f"{', '.join(map(str, options.reports))}: their captions differ")
    side, gap = options.side, 4
    whole = Image.new("RGB", (len(rows[0]) * (side + gap) - gap, len(rows) * (side + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            small = image.resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (x * (side + gap), y * (side + gap)))
    with atomic_file(options.out) as file:
        whole.save(file, format="WEBP", quality=85)
    print("\n".join(captions[0]))


def _first(split: list[tuple[str, str, Image.Image]], kind: str, count: int) -> list[tuple[str, Image.Image]]:
    return [(caption, image) for of, caption, image in split if of == kind][:count]


if __name__ == "__main__":
    main()
