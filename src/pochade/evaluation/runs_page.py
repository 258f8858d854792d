"""Runs beside each other as one page: figures, settings that differ, curves, and the newest sample sheets."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from pochade.evaluation.page import picture, table, write_html
from pochade.training.runs import StageRun, different_settings

_WIDTH, _HEIGHT, _EDGE = 560, 200, 40
_STYLE = (
    "<style>.sheet img { max-width: 100%; height: auto; } svg { border: 1px solid #eee; } "
    "polyline { fill: none; stroke-width: 1.5; } text { font: 11px system-ui, sans-serif; fill: #777; }</style>"
)


def write_runs(path: Path, runs: Sequence[StageRun]) -> None:
    """The page of some runs."""
    parts = [_STYLE]
    different = different_settings(runs)
    for place, run in enumerate(runs):
        parts += [f"<h2>{escape(str(run.folder))}</h2>", table(_figures(run))]
        settings = [(name, str(values[place])) for name, values in different.items()]
        parts += [table(settings)] if settings else []
        parts += [_curves(run)] if run.curve else []
        if run.sheets:
            with Image.open(run.sheets[-1]) as sheet:
                parts.append(f'<div class="sheet">{picture(sheet.convert("RGB"), run.sheets[-1].name)}</div>')
    write_html(path, f"{len(runs)} runs", parts)


def _figures(run: StageRun) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("state", run.state),
        ("step", f"{run.step} of {run.steps}"),
        ("seconds a step", run.seconds_per_step),
    ]
    rows += [("loss", run.loss)] if run.loss is not None else []
    if run.held_out_loss is not None:
        rows += [("held-out loss", run.held_out_loss), (f"lowest, at step {run.lowest_step}", run.lowest)]
    return rows


def _curves(run: StageRun) -> str:
    """The loss in grey and that of held-out pictures in red, over the steps."""
    points = [*run.curve, *run.held_out_curve]
    right, low, high = max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)

    def line(curve: Sequence[tuple[int, float]], colour: str) -> str:
        places = (
            f"{_EDGE + x / max(1, right) * (_WIDTH - 2 * _EDGE):.1f},"
            f"{_HEIGHT - _EDGE / 2 - (y - low) / ((high - low) or 1) * (_HEIGHT - _EDGE):.1f}"
            for x, y in curve
        )
        return f'<polyline stroke="{colour}" points="{" ".join(places)}"/>'

    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="losses over the steps">'
        f"{line(run.curve, '#999')}{line(run.held_out_curve, '#c33')}"
        f'<text x="2" y="16">{high:.3g}</text><text x="2" y="{_HEIGHT - 14}">{low:.3g}</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 4}">{right}</text>'
        f'<text x="{_EDGE + 20}" y="16">grey: training, red: held out</text></svg>'
    )
