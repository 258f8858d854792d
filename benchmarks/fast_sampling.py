"""Ways to spend less on a picture: fewer steps, guidance over an interval, reuse between steps, distilled models.

    python benchmarks/fast_sampling.py open-drawings lrf-openmoji lira-nano microforge-nano iris-nano iris-fast
    python benchmarks/fast_sampling.py --times                                   (on a machine with nothing else to do)

KID (Lite0) and retrieval on captions of training concepts, with the same seeds in every row, and with --times the
milliseconds of a picture, text and decoder included: the least of interleaved rounds. NAME=MODEL measures a model that
is not shipped; what was distilled from OTHER is called "OTHER distilled". Writes docs/benchmarks/fast_sampling.json
(--output changes the name) and, with --times, docs/images/fast-sampling.svg; pictures are kept below --pictures, so
that an interrupted run goes on.

Reuse is of what the trunk adds to its input, in every second step: of the whole trunk, as TeaCache (2411.19108) skips
steps, or of its first half, as DeepCache (2312.00858) keeps deep features. Only LRF, whose recursions are the halves,
is measured with it.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import torch
from torch import Tensor

mpl.use("Agg")

from matplotlib import pyplot as plt

from few_steps import figures
from measuring import processor, timed
from pochade.arguments import MIDDLE
from pochade.data.progress import progress_bar
from pochade.data.sources import open_source
from pochade.denoisers.lrf import LRFDenoiser
from pochade.evaluation.generation import PictureStore, fingerprint, generate, read
from pochade.evaluation.measure import Evaluator
from pochade.evaluation.networks import Networks
from pochade.evaluation.pictures import read_splits
from pochade.evaluation.report import silent
from pochade.features.lite0 import load_lite0
from pochade.files import write_json
from pochade.flow.guidance import Guidance
from pochade.flow.sampling import set_timesteps
from pochade.pipelines.schedulers import make_scheduler
from pochade.pipelines.text_to_image import TextToImagePipeline
from scans_plot import GREY

DOCS = Path(__file__).parents[1] / "docs"
DATA = {"open-drawings": "drawings::sets=openmoji"}
"""What a model is measured on, where it is not OpenMoji."""
ROUNDS = 7
TICKS = (50, 100, 200, 500, 1000, 2000)
KINDS = {
    "steps": ("steps, guided at all times", GREY, "o"),
    "interval": ("guided in an interval", "#2a8fd8", "s"),
    "reuse": ("reuse in every second step", "#d9772b", "^"),
    "dpm": ("DPM-Solver", "#3d9a50", "v"),
    "distilled": ("distilled, without guidance", "#c9568f", "D"),
}
"""How they are drawn."""
Reused = Literal["trunk", "half"]


@dataclass(frozen=True)
class Way:
    """How a picture is sampled."""

    steps: int
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    reuse: Reused | None = None
    scheduler: str | None = None


STEPS = (50, 20, 8, 6, 4, 3, 2)
INTERVALS = ((0.0, 0.7), (0.2, 1.0), (0.2, 0.7), (0.4, 1.0), (0.4, 0.8))
GUIDED = (
    *(Way(steps, 3.0) for steps in STEPS),
    *(Way(steps, 3.0, MIDDLE) for steps in (20, 6, 3)),
    *(Way(steps, 3.0, interval) for steps in (8, 4) for interval in INTERVALS),
    *(Way(steps, 3.0, scheduler="dpm") for steps in (8, 6, 4)),
)
DISTILLED = tuple(Way(steps) for steps in (8, 4, 3, 2, 1))
REUSE = (
    *(Way(20, 3.0, reuse=part) for part in ("trunk", "half")),
    *(Way(8, 3.0, reuse=part) for part in ("trunk", "half")),
)
REUSE_DISTILLED = tuple(Way(steps, reuse=part) for steps in (8, 4) for part in ("trunk", "half"))


def ways_of(pipe: TextToImagePipeline) -> tuple[Way, ...]:
    """By whether a model is sampled with guidance, and whether its trunk can be reused."""
    recursive = isinstance(pipe.denoiser, LRFDenoiser)
    if pipe.default_guidance == 1:
        return DISTILLED + (REUSE_DISTILLED if recursive else ())
    return GUIDED + (REUSE if recursive else ())


class _Memory:
    """What the calls of a picture's steps share."""

    def __init__(self, blocks: int, recursions: int, steps: int, part: Reused) -> None:
        self.calls, self.steps = blocks * recursions, steps
        self.last = self.calls - 1 if part == "trunk" else blocks * (recursions // 2) - 1
        self.count = 0
        self.entered = self.added = torch.empty(0)

    def call(self, forward: Callable[..., Tensor], x: Tensor, *arguments: Any) -> Tensor:
        """A block's call."""
        step, place = divmod(self.count, self.calls)
        self.count = (self.count + 1) % (self.calls * self.steps)
        if place > self.last:
            return forward(x, *arguments)
        if place == 0:
            self.entered = x
        if step % 2:
            return x if place < self.last else self.entered + self.added
        x = forward(x, *arguments)
        if place == self.last:
            self.added = x - self.entered
        return x


@contextmanager
def reusing(pipe: TextToImagePipeline, way: Way) -> Iterator[None]:
    """Within it the denoiser reuses what the way says."""
    denoiser = pipe.denoiser
    if way.reuse is None or not isinstance(denoiser, LRFDenoiser):
        yield
        return
    memory = _Memory(len(denoiser.core), denoiser.config.recursions, way.steps, way.reuse)
    for block in denoiser.core:
        block.forward = partial(memory.call, block.forward)
    try:
        yield
    finally:
        for block in denoiser.core:
            del block.forward


def options_of(way: Way) -> dict[str, Any]:
    """Arguments of a pipeline."""
    return {} if way.guidance == 1 else {"guidance_interval": way.interval}


def evaluations(way: Way, pipe: TextToImagePipeline) -> float:
    """Calls of the denoiser for a picture, one for each branch; with reuse, the share of the trunk that is computed."""
    scheduler = pipe.scheduler if way.scheduler is None else make_scheduler(way.scheduler)
    steps = len(set_timesteps(scheduler, way.steps, torch.device("cpu")))
    inside = Guidance(way.guidance, interval=way.interval).inside(scheduler.sigmas[:steps])
    calls = [2 if way.guidance != 1 and guided else 1 for guided in inside.tolist()]
    kept = {None: 0.0, "trunk": 1.0, "half": 0.5}[way.reuse]
    return sum(n * (1 - kept * (step % 2)) for step, n in enumerate(calls))


def measure(
    name: str, model: str, samples: int, pictures: Path, evaluators: dict[Any, Evaluator]
) -> list[dict[str, Any]]:
    """A row for each way to sample a model."""
    rows: list[dict[str, Any]] = []
    pipe = TextToImagePipeline.from_pretrained(model)
    data, side = DATA.get(name, "openmoji"), int(pipe.default_size)
    if (data, side) not in evaluators:
        with progress_bar(False) as bar:
            evaluators[data, side] = Evaluator(read_splits(open_source(data, "all"), side), Networks(load_lite0()), bar)
    evaluator = evaluators[data, side]
    captions = evaluator.train.real.captions[:samples]
    own = pipe.scheduler
    for way in ways_of(pipe):
        pipe.scheduler = own if way.scheduler is None else make_scheduler(way.scheduler)
        store = PictureStore(pictures, {"weights": fingerprint(pipe), "size": side, **asdict(way)})
        with silent(pipe), reusing(pipe, way):
            generate(pipe, captions, store, steps=way.steps, guidance=way.guidance, seed=0, options=options_of(way))
        row = {"model": name, **asdict(way), "evaluations": evaluations(way, pipe)}
        row |= figures(evaluator, "train", read(store, captions, 0))
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def time_ways(model: str, ways: Sequence[Way]) -> dict[Way, float]:
    """Milliseconds of a picture, the least of interleaved rounds."""
    pipe = TextToImagePipeline.from_pretrained(model)
    own, found = pipe.scheduler, dict[Way, float]()
    with silent(pipe):
        for number in range(ROUNDS + 1):
            for way in ways:
                pipe.scheduler = own if way.scheduler is None else make_scheduler(way.scheduler)
                with reusing(pipe, way):
                    sample = partial(
                        pipe,
                        "a red apple",
                        num_inference_steps=way.steps,
                        guidance_scale=way.guidance,
                        generator=torch.Generator().manual_seed(0),
                        **options_of(way),
                    )
                    taken = 1000 * timed(sample, "cpu")
                if number:  # the first round warms up
                    found[way] = min(taken, found.get(way, taken))
    return found


def way_in(row: dict[str, Any]) -> Way:
    """The way of a row of the record."""
    return Way(row["steps"], row["guidance"], tuple(row["interval"]), row["reuse"], row["scheduler"])


def kind_of(row: Mapping[str, Any]) -> str:
    """Of ``KINDS``."""
    if row["guidance"] == 1 and row["reuse"] is None:
        return "distilled"
    if row["interval"] != [0.0, 1.0]:
        return "interval"
    return "reuse" if row["reuse"] else row["scheduler"] or "steps"


def draw(record: dict[str, Any], path: Path) -> None:
    """KID against milliseconds, a diagram for each model and what was distilled from it."""
    models = [name for name in record["models"] if not name.endswith(" distilled")]
    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY)
    settings: dict[Any, Any] = {"svg.hashsalt": "pochade", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings | style):
        figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
        for axis, model in zip(axes.flat, models, strict=False):
            rows = [row for row in record["rows"] if row["model"] in (model, f"{model} distilled")]
            for kind, (title, colour, marker) in KINDS.items():
                points = sorted((row["ms"], row["kid train"]) for row in rows if kind_of(row) == kind)
                if points:
                    line = "-" if kind in ("steps", "distilled") else "none"
                    drawn = {"linestyle": line, "color": colour, "marker": marker, "markersize": 5, "label": title}
                    axis.plot(*zip(*points, strict=True), **drawn)
            best = min(row["kid train"] for row in rows)
            axis.set(title=model, xscale="log", ylim=(0.8 * best, 3 * best), xticks=TICKS, xlim=(30, 3500))
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.minorticks_off()
            axis.grid(color=GREY, alpha=0.25, linewidth=0.6, which="both")
            axis.spines[["top", "right"]].set_visible(False)
            axis.patch.set_alpha(0)
            axis.set_xlabel("milliseconds a picture")
        for axis in axes.flat[len(models) :]:
            axis.remove()
        figure.supylabel("KID (Lite0)")
        found = {
            label: handle
            for axis in figure.axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="[NAME=]MODEL")
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--times", action="store_true", help="of the rows in the record")
    parser.add_argument("--pictures", type=Path, default=Path("runs/fast-sampling"))
    parser.add_argument("--output", type=Path, default=DOCS / "benchmarks" / "fast_sampling.json")
    args = parser.parse_args()
    record: dict[str, Any] = {"samples": args.samples, "rows": [], "models": {}}
    if args.output.is_file():
        record = json.loads(args.output.read_text(encoding="utf-8"))
    evaluators: dict[Any, Evaluator] = {}
    for argument in args.models:
        name, _, model = argument.rpartition("=")
        rows = measure(name or model, model, args.samples, args.pictures, evaluators)
        record["rows"] = [row for row in record["rows"] if row["model"] != (name or model)] + rows
        record["models"][name or model] = model
        write_json(args.output, record)
    if args.times:
        record["processor"], record["threads"] = processor(), torch.get_num_threads()
        for name, model in record["models"].items():
            rows = [row for row in record["rows"] if row["model"] == name]
            found = time_ways(model, [way_in(row) for row in rows])
            for row in rows:
                row["ms"] = found[way_in(row)]
        write_json(args.output, record)
        draw(record, DOCS / "images" / "fast-sampling.svg")


if __name__ == "__main__":
    main()
