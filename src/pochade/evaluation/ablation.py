"""Ablations: one recipe trained several times at equal cost, each time with one thing changed, and compared."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Protocol, cast

from pochade.arguments import EVERYWHERE
from pochade.data.store import read_store
from pochade.errors import PochadeError
from pochade.evaluation.report import evaluate
from pochade.files import write_json, write_text
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.training.data import ImageData, required
from pochade.training.metrics import METRICS
from pochade.training.stage import AnyStage, Stage
from pochade.training.stage import Settings as StageSettings

COLUMNS = ("case", "parameters", "s/step", "loss", "KID train", "KID held-out", "R@1 train", "R@1 held-out")

Figures = dict[str, float]
"""Of one run: ``parameters``, ``steps``, ``seconds_per_step``, ``loss`` (mean over the last quarter of the training,
where all cases have the same pictures and noises), and for each split ``kid SPLIT``, ``kid SPLIT std`` (over subsets)
and ``R@1 SPLIT``."""


class Case(Protocol):
    """What is said of a case beside its name."""

    @property
    def about(self) -> str:
        """What is changed."""
        ...

    @property
    def expected(self) -> str:
        """What its authors expect; may be empty."""
        ...


@dataclass(frozen=True)
class Settings:
    """Settings of an ablation. Raises PochadeError for one that is out of range."""

    seeds: int = 1
    """Runs of each case, with seeds from 0 on."""
    close_seeds: int = 1
    """Runs of the first case and of those that it cannot be told from after one run."""
    samples: int = 500
    """Captions of each split that pictures are generated for."""
    sampling_steps: int = 20

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("close_seeds", 1), ("samples", 2), ("sampling_steps", 1)):
            if getattr(self, name) < least:
                raise PochadeError(f"{name}: {getattr(self, name)} given, allowed are {least} and more")


@dataclass(frozen=True)
class Row:
    """The runs of a case."""

    case: str
    about: str
    expected: str
    runs: list[Figures]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ablate(
    cases: Mapping[str, Case],
    stages_of: Callable[[str, int], list[AnyStage]],
    check: Callable[[list[AnyStage], Path], object],
    train: Callable[[list[AnyStage], Path], Path],
    folder: Path,
    settings: Settings,
) -> list[Row]:
    """Trains and measures every case, and writes ``table.json`` and ``table.md`` into ``folder``.

    Finished runs and figures are used as they are, so that an interrupted ablation is continued.

    Args:
        cases: by name; the first is what the others are compared with.
        stages_of: the stages of a case and a seed; the last trains the network that is compared.
        check: raises PochadeError where ``train`` would; of all cases and seeds it is called before the first training.
        train: runs stages in a folder, finished ones not again, and returns the folder of the last one's model.
        folder: of the ablation.
        settings: how many runs, and how they are measured.

    Raises:
        PochadeError: the stages of a case or the data cannot be used, or a package is missing.
        FailureError: a training run failed, or ``folder`` cannot be written.
    """

    def row(name: str, seeds: int) -> Row:
        runs: list[Figures] = []
        for seed in range(seeds):
            stages = stages_of(name, seed)
            last = cast(Stage[StageSettings, ImageData], stages[-1])
            runs.append(measure(train(stages, folder), last, settings))
        return Row(name, cases[name].about, cases[name].expected, runs)

    for name in cases:
        for seed in range(max(settings.seeds, settings.close_seeds)):
            check(stages_of(name, seed), folder)
    rows = [row(name, settings.seeds) for name in cases]
    if settings.close_seeds > settings.seeds:
        close = {one.case for one in rows if is_close(one, rows[0])}
        rows = [row(name, settings.close_seeds if name in close else settings.seeds) for name in cases]
    write_json(folder / "table.json", [one.as_dict() for one in rows])
    write_text(folder / "table.md", table(rows) + "\n")
    return rows


def is_close(row: Row, first: Row) -> bool:
    """Whether the KID of two cases' first runs differs by at most its standard deviation (over subsets) in both."""
    one, other = row.runs[0], first.runs[0]
    std = (one["kid train std"] ** 2 + other["kid train std"] ** 2) ** 0.5
    return abs(one["kid train"] - other["kid train"]) <= std


def measure(model: Path, stage: Stage[StageSettings, ImageData], settings: Settings) -> Figures:
    """The figures of a trained model, stored beside it with the settings that they were measured with."""
    key = {"samples": settings.samples, "sampling_steps": settings.sampling_steps, "steps": stage.steps}
    store = model.parent / "measured.json"
    found = read_store(store)
    if found.get("settings") == key:
        return found["figures"]
    pipeline = TextToImagePipeline.from_pretrained(str(model))
    report = evaluate(
        pipeline,
        required(stage.data.source, "data.source", stage.name),
        samples=settings.samples,
        steps=settings.sampling_steps,
        guidance=pipeline.default_guidance,
        guidance_interval=EVERYWHERE,  # as all studies were measured
        seed=0,
        size=stage.data.size,
        out=model.parent / f"evaluation-{stage.steps}",
        model=stage.name,
        reading=stage.data.reading,
    ).figures
    lines = [json.loads(line) for line in (model.parent / METRICS).read_text().splitlines()]
    figures: Figures = {
        "parameters": report["parameters"]["denoiser"],
        "steps": stage.steps,
        "seconds_per_step": median(line["seconds_per_step"] for line in lines),
        "loss": fmean(line["loss"] for line in lines[-max(1, len(lines) // 4) :]),
    }
    for split in ("train", "held_out"):
        side = report[split]
        if isinstance(side, dict):  # a text says why it was not measured
            figures |= {
                f"kid {split}": side["kid_lite0"],
                f"kid {split} std": side["kid_lite0 std"],
                f"R@1 {split}": side["retrieval"]["generated"]["R@1"],
            }
    write_json(store, {"settings": key, "figures": figures})
    return figures


def table(rows: Sequence[Row]) -> str:
    """Markdown: means over the seeds with their standard deviation; of a single run, KID with that over subsets."""
    expected = any(row.expected for row in rows)
    columns = (*COLUMNS, "expected") if expected else COLUMNS
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [
            f"{row.case}: {row.about}",
            f"{row.runs[0]['parameters'] / 1e6:.2f} M",
            f"{median(run['seconds_per_step'] for run in row.runs):.2f}",
            _cell(row.runs, "loss", ".3f"),
            _cell(row.runs, "kid train", ".3f"),
            _cell(row.runs, "kid held_out", ".3f"),
            _cell(row.runs, "R@1 train", ".2f"),
            _cell(row.runs, "R@1 held_out", ".3f"),
            *([row.expected or "–"] if expected else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(runs: Sequence[Figures], key: str, form: str) -> str:
    values = [run[key] for run in runs if key in run]
    if not values:
        return "–"
    std = stdev(values) if len(values) > 1 else runs[0].get(f"{key} std")
    return f"{fmean(values):{form}}" + ("" if std is None else f" ± {std:{form}}")
