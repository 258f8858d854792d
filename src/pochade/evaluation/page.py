"""Reports as one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from pochade.evaluation.figures import Figures
from pochade.files import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color:
#222; } table { border-collapse: collapse; margin: 1rem 0; } td, th { border-bottom: 1px solid #ddd; padding:
.2rem .8rem; text-align: left; vertical-align: top; } td.n { text-align: right; font-variant-numeric:
tabular-nums; } .cards { display: flex; flex-wrap: wrap; gap: 1rem; } .card { width: 18.5rem; } .card div {
display: flex; gap: .25rem; } .card img { width: 6rem; height: 6rem; image-rendering: pixelated; border: 1px
solid #eee; } .set { margin: 1rem 0; } .set img { width: 6rem; height: 6rem; margin-right: .25rem; border: 1px
solid #eee; } .set p { margin: 0; }
.card p { margin: 0; font-size: .8rem; overflow-wrap: anywhere; } .card small { color: #777; }
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
    parts = [table(flatten(figures))]
    for split, rows in cards.items():
        parts += [
            f"<h2>{escape(_TITLES.get(split, split))}</h2>",
            f"<p>{_LEGEND}</p>",
            '<div class="cards">',
            *map(_card, rows),
            "</div>",
        ]
    write_html(path, title, parts)


def write_html(path: Path, title: str, parts: Sequence[str]) -> None:
    """A page of that title; ``parts`` are HTML, in which all text is escaped already."""
    head = (
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    )
    write_text(path, "\n".join([*head, *parts, "</body></html>\n"]))


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Names and values, numbers to the right."""
    lines = (f"<tr><td>{escape(name)}</td>{_cell(value)}</tr>" for name, value in rows)
    return "\n".join(["<table>", *lines, "</table>"])


def picture(image: Image.Image, text: str) -> str:
    """A picture inside the page, with what it is called where the pointer rests."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(text)}" title="{escape(text)}">'


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
    tags = "".join(picture(image, text) for image, text in images)
    return (
        f'<div class="card"><div>{tags}</div><p>{escape(card.caption)}</p>'
        f"<p><small>nearest: {escape(card.nearest_caption)}</small></p></div>"
    )
