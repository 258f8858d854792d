"""Reports as one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from pochade.evaluation import copying
from pochade.evaluation.contrast import Contrast
from pochade.evaluation.figures import Figures
from pochade.evaluation.summary import ABSENT, CAPTION, SPLITS, splits_of, table_of
from pochade.files import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color:
#222; } table { border-collapse: collapse; margin: 1rem 0; } td, th { border-bottom: 1px solid #ddd; padding:
.2rem .8rem; text-align: left; vertical-align: top; } td.n { text-align: right; font-variant-numeric:
tabular-nums; } .cards { display: flex; flex-wrap: wrap; gap: 1rem; } .card { width: 18.5rem; } .card div {
display: flex; gap: .25rem; } .card img, .set img { width: 6rem; height: 6rem; object-fit: contain; border: 1px solid
#eee; } .card img { image-rendering: pixelated; } .set { margin: 1rem 0; } .set img { margin-right: .25rem; }
.set p { margin: 0; }
.card p { margin: 0; font-size: .8rem; overflow-wrap: anywhere; } .card small { color: #777; }
"""

_LEGEND = (
    "Left the real picture, in the middle the generated one, right the training picture nearest to it "
    "(one picture of each concept is compared)."
)
_NEAR = (
    "The generated pictures nearest to a training picture, left the generated one. The number is their distance, where "
    f"1 is typical of a training picture and the nearest other one: below {copying.COPIED} is a copy."
)
_LOW = (
    "The captions or classes of the lowest contrast: standard deviation, range and colour of the pixels, and of "
    "several pictures their variety, generated and real."
)


@dataclass(frozen=True)
class Card:
    """A caption with its real picture, the generated one, and the training picture nearest to that."""

    caption: str
    real: Image.Image
    made: Image.Image
    nearest: Image.Image
    nearest_caption: str
    distance: float
    """Of the nearest one, 1 being the distance that is typical among training pictures."""

    @property
    def copied(self) -> bool:
        return self.distance < copying.COPIED


def write_page(
    path: Path, figures: Figures, cards: Mapping[str, Sequence[Card]], near: Mapping[str, Sequence[Card]]
) -> None:
    """Figures as tables; of each split the contrast by class, the cards ``near`` a training picture, and the others."""
    parts = [f"<p>{CAPTION}</p>", grid(*table_of(figures))]
    for split, rows in cards.items():
        side = splits_of(figures)[split]
        parts += [f"<h2>{escape(SPLITS[split])}</h2>", f"<p>{_LEGEND}</p>", _cards(_card(card) for card in rows)]
        parts += ["<h3>Copies</h3>", f"<p>{_NEAR}</p>", _cards(_near(card) for card in near[split])]
        parts += ["<h3>Contrast</h3>", f"<p>{_LOW}</p>", _contrast(side["contrast"])]
    parts += ["<details><summary>All figures</summary>", table(flatten(figures)), "</details>"]
    write_html(path, f"{figures['model']} on {figures['data']}", parts)


def _contrast(check: Contrast) -> str:
    names = list(check["real"])
    head = ["", *(f"{name}, {kind}" for name in names for kind in ("generated", "real")), ""]
    rows: list[list[str]] = []
    for row in check["lowest"]:
        values = (side.get(name) for name in names for side in (row["generated"], row["real"]))
        cells = (ABSENT if value is None else f"{value:.2f}" for value in values)
        rows.append([row["name"], *cells, "low" if row["low"] else ""])
    return grid(head, rows)


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


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head, its first column to the left."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = (
        f"<tr><td>{escape(first)}</td>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return "\n".join(["<table>", f"<tr>{top}</tr>", *lines, "</table>"])


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


def _cards(cards: Iterable[str]) -> str:
    return "\n".join(['<div class="cards">', *cards, "</div>"])


def _card(card: Card) -> str:
    images = picture(card.real, f"real: {card.caption}") + _made_and_nearest(card)
    return (
        f'<div class="card"><div>{images}</div><p>{escape(card.caption)}</p>'
        f"<p><small>nearest: {escape(card.nearest_caption)}</small></p></div>"
    )


def _near(card: Card) -> str:
    mark = ", a copy" if card.copied else ""
    return (
        f'<div class="card"><div>{_made_and_nearest(card)}</div><p>{escape(card.caption)}</p>'
        f"<p><small>{card.distance:.2f}{mark}: {escape(card.nearest_caption)}</small></p></div>"
    )


def _made_and_nearest(card: Card) -> str:
    nearest = picture(card.nearest, f"nearest training picture: {card.nearest_caption}")
    return picture(card.made, f"generated: {card.caption}") + nearest
