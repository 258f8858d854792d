"""Quality by steps and depth: the table that a budget of time is spent by (``pochade.runtime.budget``)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, cast

from torch import Tensor

from pochade.arguments import check_pipeline, path_text
from pochade.data.progress import progress_bar
from pochade.data.sources import Source, open_source
from pochade.data.sources.image_files import Reading
from pochade.errors import PochadeError
from pochade.evaluation import bootstrap
from pochade.evaluation.generation import PictureStore, fingerprint, generate, read
from pochade.evaluation.kid import kid
from pochade.evaluation.measure import advance_of
from pochade.evaluation.pictures import MOST_REAL, caption_embeddings, pooled_features, read_splits
from pochade.evaluation.ranks import join_ranks
from pochade.evaluation.report import silent
from pochade.evaluation.retrieval import RetrievalProbe
from pochade.evaluation.settings import Settings, check_out
from pochade.evaluation.training_data import read_training_data, seen_groups
from pochade.features.lite0 import load_lite0
from pochade.files import check_absent, write_json
from pochade.pipelines import hub
from pochade.pipelines.budget import QUALITY
from pochade.pipelines.text_to_image import TextToImagePipeline

Row = TypedDict(
    "Row",
    {
        "steps": int,
        "depth": int | None,
        "kid_lite0": float,
        "kid_lite0 std": float,
        "R@1": float,
        "R@1 standard error": float,
        "intervals": dict[str, bootstrap.Interval],
    },
)


class Grid(TypedDict):
    """What ``quality.json`` holds."""

    model_sha256: str
    data: str
    split: str
    pictures: int
    guidance: float
    guidance_interval: list[float]
    seed: int
    size: int
    date: str
    rows: list[Row]


def evaluate_grid(
    pipeline: TextToImagePipeline,
    data: Source | str | Path,
    steps: Sequence[int],
    depths: Sequence[int] = (),
    *,
    samples: int = 500,
    guidance: float = 3.0,
    seed: int = 0,
    out: str | Path,
    batch_size: int = 32,
    size: int | None = None,
    reading: Reading | None = None,
    progress: bool = True,
) -> Grid:
    """Measure KID (Lite0) and retrieval R@1 of a model for every number of steps and every depth.

    Pictures are of captions that the model was trained on, with the same seeds in every cell. They are kept below
    ``out``, so that an evaluation that was interrupted is continued there. ``out/quality.json`` is written at the end.

    Args:
        pipeline: a `pochade.TextToImagePipeline` from a folder.
        data: as of ``report.evaluate``, and so what is not named here.
        steps: numbers of sampling steps.
        depths: iterations in the denoiser; none: as configured.
        out: the folder to write to.

    Raises:
        PochadeError: a setting is out of range, the data cannot be used, ``out`` holds a table already, or the pipeline
            was loaded from no folder.
        FailureError: ``out`` cannot be written.
    """
    check_pipeline("pipeline", pipeline)
    for count in steps:
        Settings(samples, count, guidance, seed, batch_size)
    folder = Path(path_text("out", out))
    check_out(folder, data)
    check_absent("out", folder, (QUALITY,))
    if pipeline.name_or_path is None:
        raise PochadeError("pipeline: made in memory, one from a folder is needed, whose weights the table names")
    usual = pipeline.denoiser.input_spec().depth
    if depths and usual is None:
        raise PochadeError(f"depths: {tuple(depths)} given, but the family has no iterations: allowed are none")
    place = Path(pipeline.name_or_path)
    ranks = join_ranks()
    progress = progress and ranks.main
    net = load_lite0()
    dataset = open_source(data, "all", progress=progress, reading=reading)
    seen = seen_groups(dataset, read_training_data(place), progress=progress)
    side = int(pipeline.default_size) if size is None else size
    real = read_splits(dataset, side, seed, seen.groups, max(MOST_REAL, samples), folder).train
    count = min(samples, len(real))
    captions = real.captions[:count]
    embeddings = caption_embeddings(real.captions)
    key: dict[str, Any] = {"weights": fingerprint(pipeline), "guidance": guidance, "size": side}
    key["device"] = pipeline.components["autoencoder"].device.type
    cells = [(many, depth) for depth in depths or (usual,) for many in steps]
    rows: list[Row] = []
    with silent(pipeline), progress_bar(progress) as bar:
        task = bar.add_task("features of real pictures", total=len(real))
        features = pooled_features(net, real.images, advance_of(bar, task))
        probe = RetrievalProbe.fit(features, embeddings)
        whole = bar.add_task("pictures of the grid", total=len(cells) * count)
        for many, depth in cells:
            store = PictureStore(folder, {**key, "steps": many, "depth": depth})
            generate(
                pipeline,
                captions,
                store,
                steps=many,
                guidance=guidance,
                seed=seed,
                batch_size=batch_size,
                options={"height": side, "width": side, "depth": depth},
                ranks=ranks,
                advance=advance_of(bar, whole),
            )
            if ranks.main:
                made = pooled_features(net, read(store, captions, seed))
                rows.append(_row(many, depth, features, made, probe, embeddings, real.concepts))
    if not ranks.main:
        ranks.wait()
        return cast(Grid, hub.read_json(folder / QUALITY))
    table: Grid = {
        "model_sha256": hub.model_sha256(place),
        "data": str(data),
        "split": "train",
        "pictures": count,
        "guidance": guidance,
        "guidance_interval": list(pipeline.default_guidance_interval),
        "seed": seed,
        "size": side,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    check_absent("out", folder, (QUALITY,))  # another process may have written one meanwhile
    write_json(folder / QUALITY, table)
    ranks.wait()
    return table


def _row(
    steps: int,
    depth: int | None,
    real: Tensor,
    made: Tensor,
    probe: RetrievalProbe,
    embeddings: Tensor,
    concepts: Sequence[str],
) -> Row:
    mean, std = kid(real, made)
    precision = probe.precision(made, embeddings, concepts)
    hits = probe.hits(made, embeddings, concepts)[1]
    return {
        "steps": steps,
        "depth": depth,
        "kid_lite0": mean,
        "kid_lite0 std": std,
        "R@1": precision.top1,
        "R@1 standard error": precision.standard_error1,
        "intervals": {"kid_lite0": bootstrap.of_kid(mean, real, made), "R@1": bootstrap.of_mean(hits)},
    }
