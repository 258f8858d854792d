"""Several models on the same prompts with the same seeds, side by side in one page."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pochade.arguments import path_text
from pochade.data.sources import Source, open_source
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError
from pochade.evaluation.page import grid, picture, write_html
from pochade.evaluation.ranks import join_ranks
from pochade.evaluation.report import Report, evaluate
from pochade.evaluation.settings import Settings, check_out
from pochade.evaluation.summary import CAPTION, SPLITS, tables_beside
from pochade.evaluation.training_data import read_training_data, seen_groups
from pochade.files import atomic_file, check_absent, write_json
from pochade.images.sheets import sheet
from pochade.pipelines.text_to_image import TextToImagePipeline

FILES = PAGE, SHEET, RECORD = "side-by-side.html", "side-by-side.png", "side-by-side.json"
SHOWN = 24
"""Prompts of each split on the sheet."""
_NOTE = (
    "All models have the same prompts and seeds, each its own size, steps and guidance. A concept that one of them was "
    "trained on counts as a training one for all."
)


@dataclass(frozen=True)
class Comparison:
    """The report of each model, by its name, and where what shows them together lies."""

    reports: Mapping[str, Report]
    page: Path
    sheet: Path
    json: Path


def evaluate_models(
    models: Mapping[str, TextToImagePipeline],
    data: Source | str | Path,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    out: str | Path,
    reading: Reading | None = None,
    progress: bool = True,
    **options: Any,
) -> Comparison:
    """Evaluate each of ``models`` as `pochade.evaluation.report.evaluate` does, and write a page of all together.

    The reports lie in a folder for each below ``out``; an evaluation that was interrupted goes on there.

    Args:
        models: pipelines by name, two and more.
        data: as of ``evaluate``.
        steps: None: those of each model.
        guidance: None: that of each model.
        out: the folder to write to.
        options: further arguments of ``evaluate``: ``samples``, ``per_caption``, ``seed``, ``batch_size``, ``clip``,
            ``inception``, ``size``, ``depth``, ``guidance_interval``.
        reading: as of ``evaluate``.
        progress: as of ``evaluate``.

    Raises:
        PochadeError: as ``evaluate``, or fewer than two models are given, or ``out`` holds such a page already.
        FailureError: ``out`` cannot be written.
    """
    if len(models) < 2:
        raise PochadeError(f"models: {len(models)} given, allowed are 2 and more")
    folder = Path(path_text("out", out))
    check_out(folder, data)
    check_absent("out", folder, FILES)
    places = {name: re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in models}
    if len(set(places.values())) < len(places):
        raise PochadeError(f"models: {', '.join(models)} given, whose reports would lie in one folder")
    chosen = {
        name: (pipe.default_steps if steps is None else steps, pipe.default_guidance if guidance is None else guidance)
        for name, pipe in models.items()
    }
    known = {name: value for name, value in options.items() if name in Settings.__dataclass_fields__}
    for many, scale in chosen.values():
        Settings(steps=many, guidance=scale, **known)
    dataset = open_source(data, "all", progress=progress, reading=reading)
    folders = [Path(pipe.name_or_path) for pipe in models.values() if pipe.name_or_path is not None]
    training = dict.fromkeys(one for place in folders for one in read_training_data(place))
    trained = seen_groups(dataset, tuple(training), progress=progress).groups
    reports = {
        name: evaluate(
            pipe,
            data,
            steps=chosen[name][0],
            guidance=chosen[name][1],
            out=folder / places[name],
            model=name,
            trained=trained,
            reading=reading,
            progress=progress,
            **options,
        )
        for name, pipe in models.items()
    }
    found = Comparison(reports, *(folder / name for name in FILES))
    if not join_ranks().main:
        return found
    write_json(found.json, {name: report.figures for name, report in reports.items()})
    _write_sheet(found)
    _write_page(found, f"{', '.join(models)} on {data}")
    return found


def _write_page(found: Comparison, title: str) -> None:
    cards = {name: report.cards for name, report in found.reports.items()}
    parts = [f"<p>{_NOTE} {CAPTION}</p>"]
    for split, (head, rows) in tables_beside({n: r.figures for n, r in found.reports.items()}).items():
        parts += [f"<h2>{escape(SPLITS[split])}</h2>", grid(head, rows)]
        parts.append(f"<p>Each prompt with the real picture, then {escape(', '.join(cards))}.</p>")
        for together in zip(*(of[split] for of in cards.values()), strict=True):
            images = [picture(together[0].real, f"real: {together[0].caption}")]
            images += [
                picture(card.made, f"{name}: {card.caption}") for name, card in zip(cards, together, strict=True)
            ]
            parts.append(f'<div class="set"><div>{"".join(images)}</div><p>{escape(together[0].caption)}</p></div>')
    write_html(found.page, title, parts)


def _write_sheet(found: Comparison) -> None:
    cards = {name: report.cards for name, report in found.reports.items()}
    images, captions = [], []
    for split in next(iter(cards.values())):
        for together in zip(*(of[split][:SHOWN] for of in cards.values()), strict=True):
            images += [together[0].real, *(card.made for card in together)]
            captions += [together[0].caption, *cards]
    with atomic_file(found.sheet) as file:
        sheet(images, captions, columns=len(cards) + 1, cell=128).save(file, format="PNG")
