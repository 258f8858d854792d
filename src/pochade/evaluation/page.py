"""The report as one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from pochade.evaluation.figures import Figures
from pochade.files import atomic_file

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color:
#222; } table { border-collapse: collapse; margin: 1rem 0; } td, th { border-bottom: 1px solid #ddd; padding:
.2rem .8rem; text-align: left; vertical-align: top; } td.n { text-align: right; font-variant-numeric:
tabular-nums; } .cards { display: flex; flex-wrap: wrap; gap: 1rem; } .card { width: 18.5rem; } .card div {
display: flex; gap: .25rem; } .card img { width: 6rem; height: 6rem; image-rendering: pixelated; border: 1px
solid #eee; } .card p { margin: 0; font-size: .8rem; overflow-wrap: anywhere; } .card small { color: #777; }
"""

_LEGEND = (
    "Left the real picture, in the middle the generated one, right the training picture nearest to it "
    "(one picture of each concept is compared)."
)
_TITLES = {
    "train": "Captions of the training split",
    "composed": "Captions of seen styles and concepts that were never seen together",
    "held_out": "Captions of held-out concepts",
}


@dataclass(frozen=True)
class Card:
    """A caption with its real picture, the generated one, and the training picture nearest to that."""

    caption: str
    real: Image.Image
    made: Image.Image
    nearest: Image.Image
    nearest_caption: str


def write_page(path: Path, figures: Figures, cards: dict[str, list[Card]]) -> None:
    """Figures as a table, then the cards of each split."""
    title = f"{figures['model']} on {figures['data']}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<table>",
        *(f"<tr><td>{escape(name)}</td>{_cell(value)}</tr>" for name, value in flatten(figures)),
        "</table>",
    ]
    for split, rows in cards.items():
        parts += [
            f"<h2>{escape(_TITLES.get(split, split))}</h2>",
            f"<p>{_LEGEND}</p>",
            '<div class="cards">',
            *map(_card, rows),
            "</div>",
        ]
    parts.append("</body></html>\n")
    with atomic_file(path) as file:
        file.write("\n".join(parts).encode(errors="backslashreplace"))


def flatten(figures: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested figures as rows: the path of names, joined by " / ", and the value."""
    rows: list[tuple[str, object]] = []
    for name, value in figures.items():
        path = f"{prefix}{name}"
        rows += flatten(value, f"{path} / ") if isinstance(value, Mapping) else [(path, value)]
    return rows


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n">{value if isinstance(value, int) else format(value, ".4g")}</td>'
    return f"<td>{escape(str(value))}</td>"


def _card(card: Card) -> str:
    images = (
        (card.real, f"real: {card.caption}"),
        (card.made, f"generated: {card.caption}"),
        (card.nearest, f"nearest training picture: {card.nearest_caption}"),
    )
    tags = "".join(
        f'<img src="{_inline(image)}" alt="{escape(text)}" title="{escape(text)}">' for image, text in images
    )
    return (
        f'<div class="card"><div>{tags}</div><p>{escape(card.caption)}</p>'
        f"<p><small>nearest: {escape(card.nearest_caption)}</small></p></div>"
    )


def _inline(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
