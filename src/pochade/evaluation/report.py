"""All figures of a text-to-image pipeline, in ``report.json``, ``report.html`` and ``sheet.png``."""

import json
import platform
import sys
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pochade.arguments import (
    EVERYWHERE,
    check_pipeline,
    path_text,
)
from pochade.data.dataset import Shape
from pochade.data.progress import progress_bar
from pochade.data.sources import Source, open_source
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError, missing_extra
from pochade.evaluation import copying
from pochade.evaluation.external import load_clip, load_inception
from pochade.evaluation.figures import Figures, TrainingFigures, TrainingSource
from pochade.evaluation.generation import PictureStore, TextToImage, fingerprint, generate, modules_of, read
from pochade.evaluation.measure import Evaluator, Measured, advance_of, lite0_figures
from pochade.evaluation.networks import Networks, features_of
from pochade.evaluation.page import Card, write_page
from pochade.evaluation.pictures import MOST_REAL, Splits, read_splits, shape_of, to_pil
from pochade.evaluation.profile import model_size
from pochade.evaluation.ranks import join_ranks
from pochade.evaluation.settings import Settings, check_out
from pochade.evaluation.training_data import Seen, TrainingData, read_training_data, seen_groups
from pochade.features.lite0 import load_lite0
from pochade.files import atomic_file, check_absent, write_json
from pochade.images.sheets import sheet
from pochade.pipelines.hub import read_json

NO_RECORD = "not recorded: the splits are those of the data alone"
SHOWN = 48
"""Pictures of each split on the page and the sheet."""


@dataclass(frozen=True)
class Report:
    """The figures, as they stand in ``report.json``, and where the files lie."""

    figures: Figures
    json: Path
    page: Path
    sheet: Path
    cards: Mapping[str, Sequence[Card]]
    """The pictures on the page, by split; none in a process that has not written it."""


def evaluate(
    pipeline: TextToImage,
    data: Source | str | Path,
    *,
    samples: int = 500,
    per_caption: int = 1,
    steps: int = 50,
    guidance: float = 3.0,
    seed: int = 0,
    out: str | Path,
    batch_size: int = 32,
    clip: str | None = None,
    inception: str | None = None,
    size: int | Shape | None = None,
    depth: int | None = None,
    guidance_interval: tuple[float, float] | None = None,
    model: str | None = None,
    trained: Collection[str] = (),
    reading: Reading | None = None,
    progress: bool = True,
) -> Report:
    """Measure ``pipeline`` on captions that it was trained on and on held-out ones.

    Where the data keep pairs of style and concept apart, the split "composed", on these as well.

    Generated pictures are kept below ``out``: an evaluation that was interrupted is continued there, and one with
    other settings generates its own. The files of the report are written at the end, each at once. Processes that
    ``torchrun`` started share the pictures and their features, in a folder that all see; the figures do not depend on
    how many they are.

    Args:
        pipeline: a `pochade.TextToImagePipeline`, or anything else of that form.
        data: a source, its text form ("openmoji", "cifar10:PATH" ...), or a folder of pictures or shards. Splits are
            those of the data; what ``training.json`` of the model's folder lists as trained on counts as training.
        samples: captions of each split, one of each concept; all where there are fewer.
        per_caption: see `Settings`. As many real pictures of a split are read as are generated, or 10,000 where that is
            more.
        out: the folder to write to.
        clip: see `Settings`; left out, the figures that need it are "not measured".
        inception: see `Settings`; left out, the figures that need it are "not measured".
        size: see `Settings`.
        depth: see `Settings`.
        guidance_interval: see `Settings`.
        model: the name of the model in the report.
        trained: groups of the data that count as training ones, beside those that the model has seen.
        reading: background and limits of the pictures of the data; None: the default ones.
        progress: show it on the error stream.

    Raises:
        PochadeError: a setting is out of range, the data cannot be used, a package or weights are missing, or ``out``
            holds the report of another evaluation, or other files that the report would replace; before any work.
        FailureError: ``out`` cannot be written.
    """
    check_pipeline("pipeline", pipeline)
    settings = Settings(
        samples, steps, guidance, seed, batch_size, clip, inception, size, depth, per_caption, guidance_interval
    )
    samples, steps, guidance, seed, batch_size, clip, inception, size, depth, per_caption, _ = astuple(settings)
    folder = Path(path_text("out", out))
    check_out(folder, data)
    _need_skimage()
    ranks = join_ranks()
    progress = progress and ranks.main
    networks = Networks(
        load_lite0(), load_inception(inception) if inception else None, load_clip(clip) if clip else None
    )
    options: dict[str, Any] = {} if depth is None else {"depth": depth}
    interval = pipeline.default_guidance_interval if guidance_interval is None else guidance_interval
    if guidance_interval is not None:
        options["guidance_interval"] = interval
    if size is None:
        size = int(pipeline.default_size)
    else:
        options["width"], options["height"] = shape_of(size)
    training = () if pipeline.name_or_path is None else read_training_data(Path(pipeline.name_or_path))
    dataset = open_source(data, "all", progress=progress, reading=reading)
    if progress and dataset.report is not None and dataset.report.skipped_count:
        print(f"warning: {dataset.report.summary()}", file=sys.stderr)
    seen = seen_groups(dataset, training, progress=progress)
    for warning in seen.warnings() if ranks.main else ():
        print(f"warning: {warning}", file=sys.stderr)
    weights = fingerprint(pipeline)
    recorded = {**asdict(settings), "size": size, "guidance_interval": list(interval)}
    compared = (weights, str(data), dataset.fingerprint(), recorded)
    _check_report(folder, *compared)
    device = pipeline.components["autoencoder"].device.type
    key = {"weights": weights, "steps": steps, "guidance": guidance, "size": size, "device": device}
    key |= {name: options[name] for name in ("depth", "guidance_interval") if name in options}
    store = PictureStore(folder, key)
    most = max(MOST_REAL, samples * per_caption)
    real = read_splits(dataset, size, seed, {*seen.groups, *trained}, most, folder)
    few = {split: len(pictures) for split, pictures in real.present().items() if len(pictures) < samples}
    if few and samples != Settings.samples and ranks.main:
        there = ", ".join(f"{count} of {split}" for split, count in few.items())
        more = "; per_caption makes several pictures of each" if per_caption == 1 else ""
        print(f"warning: samples: {samples} given, but there are fewer captions: {there}{more}", file=sys.stderr)
    start = time.perf_counter()
    measured: dict[str, Measured] = {}
    with silent(pipeline), progress_bar(progress) as bar:
        evaluator = Evaluator(real, networks, bar) if ranks.main else None
        for split, pictures in real.present().items():
            prompts = pictures.captions[:samples] * per_caption
            task = bar.add_task(f"pictures of {split}", total=len(prompts))
            generate(
                pipeline,
                prompts,
                store,
                steps=steps,
                guidance=guidance,
                seed=seed,
                batch_size=batch_size,
                options=options,
                ranks=ranks,
                advance=advance_of(bar, task),
            )
            task = bar.add_task(f"features of {split}", total=len(prompts))
            found = features_of(networks, store, prompts, seed, ranks, advance_of(bar, task))
            if evaluator is not None and found is not None:
                measured[split] = evaluator.measure(split, read(store, prompts, seed), found, per_caption)
    report, page, overview = (folder / name for name in ("report.json", "report.html", "sheet.png"))
    if evaluator is None:
        ranks.wait()
        return Report(cast(Figures, read_json(report)), report, page, overview, {})
    of = {split: one.figures for split, one in measured.items()}
    figures: Figures = {
        "model": model or type(pipeline).__name__,
        "data": str(data),
        "data_fingerprint": compared[2],
        "settings": recorded,
        "weights_sha256": weights,
        "parameters": {name: model_size(part).parameters for name, part in modules_of(pipeline).items()},
        "training": _training(training, seen, real),
        "train": of["train"],
        "held_out": of.get("held_out", real.why),
        "autoencoder": evaluator.autoencoder(pipeline.components["autoencoder"], samples, batch_size),
        "seconds": round(time.perf_counter() - start, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "diffusers", "transformers")},
        },
    }
    if "composed" in of:
        figures["composed"] = of["composed"]
    if "held_out" in evaluator.sides:
        # The same distances between real pictures alone: what a perfect generator would reach on this little data.
        features = evaluator.train.features, evaluator.sides["held_out"].features
        figures["real held-out beside real training pictures"] = lite0_figures(*features)
    # Another process may have written one meanwhile.
    _check_report(folder, *compared)
    written = _write(folder, figures, evaluator, measured)
    ranks.wait()
    return written


@contextmanager
def silent(pipeline: TextToImage) -> Generator[None]:
    """Without the pipeline's own bar for each batch."""
    before = dict(vars(pipeline).get("_progress_bar_config", {}))
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def _need_skimage() -> None:
    if find_spec("skimage") is None:
        raise missing_extra("scikit-image", "eval")


def _training(training: Sequence[TrainingData], seen: Seen, real: Splits) -> TrainingFigures | str:
    """What the model was trained on, as far as it is recorded, and what of the data that makes a training picture."""
    if not training:
        return NO_RECORD
    rows: list[TrainingSource] = [
        {
            "source": one.source,
            "held_out": one.held_out,
            "compared": one.source not in seen.unknown,
            "changed": one.source in seen.changed,
        }
        for one in training
    ]
    return {"data": rows, "held-out pictures that were trained on": real.trained}


def _check_report(folder: Path, weights: str, data: str, fingerprint: str, settings: Mapping[str, object]) -> None:
    """Raises PochadeError where ``folder`` holds the report of another evaluation."""
    path = folder / "report.json"
    if not path.is_file():
        check_absent("out", folder, ("report.json", "report.html", "sheet.png"))
        return
    found = read_json(path)
    usual = {"per_caption": 1, "guidance_interval": list(EVERYWHERE)}  # of reports that do not name them
    before = usual | found.get("settings", {})
    same = [found.get("weights_sha256"), found.get("data"), before] == json.loads(json.dumps([weights, data, settings]))
    if not same or found.get("data_fingerprint", fingerprint) != fingerprint:
        raise PochadeError(
            f"out: {folder} holds the report of {found.get('model')} on {found.get('data')}, of other weights, data or "
            "settings; choose another folder"
        )


def _write(folder: Path, figures: Figures, evaluator: Evaluator, measured: Mapping[str, Measured]) -> Report:
    cards = {
        split: _cards(evaluator, split, one, range(min(SHOWN, len(one.images)))) for split, one in measured.items()
    }
    near = {
        split: _cards(evaluator, split, one, one.nearest.distance.argsort(stable=True)[: copying.LISTED].tolist())
        for split, one in measured.items()
    }
    report = Report(figures, folder / "report.json", folder / "report.html", folder / "sheet.png", cards)
    shown = [card for part in cards.values() for card in part]
    write_json(report.json, figures)  # first: what is beside it is then known to be of this evaluation
    with atomic_file(report.sheet) as file:
        page = sheet([card.made for card in shown], [card.caption for card in shown], columns=12)
        page.save(file, format="PNG")
    write_page(report.page, figures, cards, near)
    return report


def _cards(evaluator: Evaluator, split: str, measured: Measured, rows: Sequence[int]) -> list[Card]:
    real, train, nearest = evaluator.sides[split].real, evaluator.train.real, measured.nearest
    return [
        Card(
            real.captions[i % measured.captions],
            to_pil(real.images[i % measured.captions]),
            to_pil(measured.images[i]),
            to_pil(train.images[j]),
            train.captions[j],
            float(nearest.distance[i]) / evaluator.typical,
        )
        for i, j in ((i, int(nearest.index[i])) for i in rows)
    ]
