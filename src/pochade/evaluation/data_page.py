"""What ``data_check`` found as JSON, and as a page with small pictures."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from pochade.data.dataset import Dataset
from pochade.evaluation.data_check import Alike, DataCheck
from pochade.evaluation.page import picture, table, write_html
from pochade.files import write_json

FILES = ("check.json", "check.html")
SHOWN = 48
"""Pictures of a section, or sets of them."""
LISTED = 200
"""Words, captions and files of a section."""
OF_A_SET = 8
"""Pictures that are shown of a set."""
_SIDE = 96


def write_check(folder: Path, check: DataCheck, dataset: Dataset) -> tuple[Path, Path]:
    """``check.json`` and ``check.html`` in a folder."""
    json, page = (folder / name for name in FILES)
    write_json(json, check.to_dict())
    places = {dataset.item(index).name: index for index in range(len(dataset))}
    write_html(page, f"{check.source}: {check.pictures} pictures", _parts(check, dataset, places))
    return json, page


def _parts(check: DataCheck, dataset: Dataset, places: Mapping[str, int]) -> list[str]:
    def shown(name: str, text: str = "") -> str:
        image = dataset.image(places[name], _SIDE)
        return picture(image, f"{name} {text}".strip())

    def card(name: str, text: str) -> str:
        words = f"<p>{escape(name)}</p><p><small>{escape(text)}</small></p>"
        return f'<div class="card"><div>{shown(name, text)}</div>{words}</div>'

    parts = [
        "<h2>To mend</h2>" if check.problems else "",
        _list([finding.text for finding in check.problems]),
        "<h2>To know</h2>",
        _list([finding.text for finding in check.findings if not finding.problem]),
        table(
            [
                ("pictures", check.pictures),
                ("groups", check.groups),
                *((f"split {name}", count) for name, count in check.splits.items()),
                *((f"class {name}", count) for name, count in check.classes.items()),
                ("width in pixels: least, median, most", ", ".join(map(str, check.widths)) or "drawn at any size"),
                ("height in pixels: least, median, most", ", ".join(map(str, check.heights)) or "drawn at any size"),
                *((f"ratio {name}", count) for name, count in check.ratios.items() if count),
                ("lost by cropping to squares", f"{check.cropped:.1%}"),
            ]
        ),
    ]
    if check.files is not None and check.files["skipped_files"]:
        found = check.files["skipped_files"]
        rows = [(one["name"], ": ".join(filter(None, (one["reason"], one["detail"])))) for one in found]
        parts += _section("Files that cannot be used", [table(rows[:LISTED])], len(rows), LISTED)
    if check.alike:
        parts += _section(
            "Pictures that look alike", [_set(one, shown) for one in check.alike[:SHOWN]], len(check.alike), SHOWN
        )
    if check.reconstruction is not None:
        found = check.reconstruction.psnr
        worst = _cards([card(name, f"{value:.1f} dB") for name, value in found[:SHOWN]])
        title = (
            f"What the autoencoder of {check.reconstruction.model} holds least at {check.reconstruction.size} pixels"
        )
        parts += _section(title, [worst], len(found), SHOWN)
    if check.small:
        smallest = _cards([card(name, "is enlarged") for name in check.small[:SHOWN]])
        parts += _section(f"Smaller than {check.size} pixels", [smallest], len(check.small), SHOWN)
    if check.captions is not None:
        captions = check.captions
        if captions.too_long:
            rows = [(one.name, f"{one.tokens} tokens, {one.over} not read: {one.caption}") for one in captions.too_long]
            parts += _section(
                f"Captions longer than {captions.limit} tokens", [table(rows[:LISTED])], len(rows), LISTED
            )
        if captions.equal:
            parts += _section(
                "Captions of several pictures", [table(captions.equal[:LISTED])], len(captions.equal), LISTED
            )
        frequent = [(word, f"{share:.0%}") for word, share in captions.common[:SHOWN]]
        parts += _section("The most frequent words", [table(frequent)], captions.words, SHOWN)
        once = escape(", ".join(captions.once[:LISTED]))
        parts += _section("Words of one picture alone", [f"<p>{once}</p>"], len(captions.once), LISTED)
    return parts


def _section(title: str, parts: Sequence[str], count: int, most: int) -> list[str]:
    of = f" ({most} of {count})" if count > most else f" ({count})"
    return [f"<h2>{escape(title)}{of}</h2>", *parts]


def _list(texts: Sequence[str]) -> str:
    return "\n".join(["<ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"]) if texts else ""


def _cards(cards: Sequence[str]) -> str:
    return "\n".join(['<div class="cards">', *cards, "</div>"])


def _set(one: Alike, shown: Callable[[str], str]) -> str:
    images = "".join(map(shown, one.names[:OF_A_SET]))
    about = "the same bytes" if one.identical else f"{one.groups} group{'s' * (one.groups != 1)}"
    words = (
        f"{len(one.names)} pictures, {about}{', some of them held out' * one.apart}: {', '.join(one.names[:OF_A_SET])}"
    )
    return f'<div class="set"><div>{images}</div><p><small>{escape(words)}</small></p></div>'
