"""A model as a bundle: the folder that a host runs without PyTorch (docs/on-device.md describes it)."""

import copy
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pochade import __version__
from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.errors import PochadeError
from pochade.export.onnx import (
    Exported,
    export_decoder,
    export_denoiser,
    export_encoder,
    export_text_encoder,
)
from pochade.export.parity import random_inputs, run, session
from pochade.export.precision import Precision, parse_precision
from pochade.export.quantize import quantise
from pochade.export.readme import readme
from pochade.export.weights import data_of
from pochade.files import atomic_folder, sha256, write_text
from pochade.flow.sampling import set_timesteps
from pochade.pipelines import hub
from pochade.pipelines.base import GenerationPipeline
from pochade.pipelines.checks import IMAGE_GUIDANCE, check_size, usual_strength
from pochade.pipelines.schedulers import SCHEDULERS
from pochade.runtime import Bundle
from pochade.runtime.manifest import (
    FORMAT,
    MANIFEST,
    TABLE_STEPS,
    TOKENIZER,
    Defaults,
    File,
    Graph,
    Latents,
    Manifest,
    Model,
    Sampling,
    Text,
    Value,
)
from pochade.text_encoders.base import PromptEncoder
from pochade.types import TASKS

PICTURES = 4
"""Sampled to compare precisions,"""
PICTURE_STEPS = 4
"""in so many steps,"""
PROMPTS = ("a red apple", "a sleeping cat", "a sailboat", "a red house with a door", "a yellow flower", "a blue bird")
"""of these where a model names no prompts."""
METHODS = ("euler", "lcm")
"""Names of ``SCHEDULERS`` that a host integrates by."""
README = "README.md"


def model_facts(name: str, folder: Path) -> Model:
    """What the card of a model says of it: ``license``, ``attribution``, ``widget`` (prompts to try) and ``styles``."""
    from huggingface_hub import ModelCard

    card = folder / README
    said: dict[str, Any] = {}
    if card.is_file():
        said = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    return Model(
        name,
        hub.model_sha256(folder),
        said.get("license"),
        said.get("attribution"),
        tuple(str(item["text"]) for item in said.get("widget") or ()),
        tuple(map(str, said.get("styles") or ())),
    )


def export_bundle(
    pipe: GenerationPipeline,
    folder: str | os.PathLike[str],
    model: Model,
    *,
    precision: str = "fp32",
    size: int | tuple[int, int] | None = None,
    depth: int | None = None,
    decoder: TinyVAEDecoder | None = None,
    batch: int | Literal["dynamic"] = "dynamic",
    external_data: bool = False,
    pictures: int = PICTURES,
) -> Manifest:
    """Writes a model as a bundle: its graphs, ``tokenizer.json``, ``README.md`` and ``manifest.json``.

    Every graph is compared with eager PyTorch in float32 before its weights are rounded. The folder is complete or not
    there at all.

    Args:
        pipe: of any class and family; it is copied, to the CPU and float32.
        folder: a new or an empty one.
        model: where the weights come from, see ``model_facts``.
        precision: of the weights, as ``parse_precision`` reads it. ``int8`` is that of text encoder and denoiser:
            autoencoders then have 16 bits.
        size: pixels a side, or height and width (None: as the model was trained).
        depth: iterations in the denoiser's graph, where the family has them (None: as configured).
        decoder: stands in place of the autoencoder's own.
        batch: a number, or "dynamic" for any.
        external_data: weights in files beside the graphs, ``<graph>.data``, which ONNX Runtime maps into memory.
        pictures: how many are sampled in ``precision`` and in float32, to be compared; 0 for none.

    Raises:
        PochadeError: an argument is out of range, the folder holds something, the model's scheduler is none that hosts
            have, or an optional library is missing.
        FailureError: a graph differs from eager; nothing is written.
    """
    precisions = parse_precision(precision)
    height, width = (size, size) if isinstance(size, int) else size or (pipe.default_size, pipe.default_size)
    for name, value in (("height", height), ("width", width)):
        check_size(name, value, pipe.size_multiple)
    autoencoder, spec = pipe.autoencoder, pipe.denoiser.input_spec()
    down = int(autoencoder.downsampling)
    cells = (height // down, width // down)
    sampling = _sampling(pipe.scheduler, pipe.default_steps)
    tokens = pipe.text_encoder.max_tokens if isinstance(pipe.text_encoder, PromptEncoder) else 1
    shared: dict[str, Any] = {"batch": batch, "external_data": external_data}
    place = Path(folder)
    empty = place.is_dir() and not any(place.iterdir())
    with atomic_folder(place, replace=empty) as new:
        graphs: dict[str, Exported] = {}
        if isinstance(pipe.text_encoder, PromptEncoder):
            write_text(new / TOKENIZER, pipe.text_encoder.tokenizer_json())
            path = new / "text_encoder.onnx"
            graphs["text_encoder"] = export_text_encoder(pipe.text_encoder, path, text_tokens=tokens, **shared)
        path = new / "denoiser.onnx"
        graphs["denoiser"] = export_denoiser(
            pipe.denoiser, path, latent_size=cells, text_tokens=tokens, depth=depth, **shared
        )
        shared["latent_size"] = cells
        graphs["decoder"] = export_decoder(decoder or autoencoder, new / "decoder.onnx", **shared)
        if isinstance(autoencoder, ImageAutoencoder):
            graphs["encoder"] = export_encoder(autoencoder, new / "encoder.onnx", **shared)
        depth = spec.depth if depth is None else depth
        manifest = Manifest(
            FORMAT,
            __version__,
            model,
            height,
            width,
            _latents(autoencoder, cells),
            _text(pipe.text_encoder),
            sampling,
            Defaults(
                pipe.default_steps,
                pipe.default_guidance,
                depth,
                {task: usual_strength(task, task in spec.tasks and task != "edit", 2) for task in TASKS[1:]},
                IMAGE_GUIDANCE,
            ),
            TASKS if "encoder" in graphs else TASKS[:1],
            spec.tasks,
            {name: _described(graph, "fp32") for name, graph in graphs.items()},
            {} if depth is None else {str(depth): "denoiser"},
        )
        if set(precisions.values()) != {"fp32"}:
            exact = _pictures(new, manifest, pictures)
            rounded = {name: _described(graph, precisions[name]) for name, graph in graphs.items()}
            manifest = replace(manifest, graphs=rounded)
            manifest = replace(manifest, picture_psnr=_psnr(exact, _pictures(new, manifest, pictures)))
        write_text(new / README, readme(manifest))
        return _write_manifest(new, manifest)


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the files that lie in the folder, as it was written there."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    manifest = replace(manifest, files={path.name: File(path.stat().st_size, sha256(path)) for path in paths})
    write_text(folder / MANIFEST, manifest.to_json())
    return manifest


def _pictures(folder: Path, manifest: Manifest, count: int) -> list[np.ndarray]:
    """So many pictures of the graphs in a folder, [H, W, 3] in bytes."""
    _write_manifest(folder, manifest)
    bundle = Bundle(folder)
    prompts = manifest.model.prompts or PROMPTS
    if manifest.text is None or manifest.text.classes:
        prompts = ("",) if manifest.text is None else manifest.text.classes
    return [
        np.asarray(bundle.generate(prompts[i % len(prompts)], seed=i, steps=PICTURE_STEPS).image) for i in range(count)
    ]


def _psnr(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float | None:
    """Peak signal-to-noise ratio in dB over pictures, at most 99; None of none."""
    if not first:
        return None
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(first, second, strict=True)]
    return min(99.0, float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9))))


def _sampling(scheduler: Any, default_steps: int) -> Sampling:
    """The method and the times of a model's scheduler. Raises PochadeError where hosts have none such."""
    name = type(scheduler).__name__
    method = next((m for m in METHODS if SCHEDULERS[m][1] == name), None)
    if method is None:
        allowed = " and ".join(SCHEDULERS[m][1] for m in METHODS)
        raise PochadeError(f"scheduler: {name} is the model's, a bundle has {allowed}")
    shift, own = float(scheduler.config.shift), copy.deepcopy(scheduler)
    times: dict[str, tuple[float, ...]] = {}
    for steps in sorted({*TABLE_STEPS, default_steps}):
        set_timesteps(own, steps, torch.device("cpu"))
        times[str(steps)] = tuple(float(t) for t in own.sigmas)
        even = [1 - i / steps for i in range(steps + 1)]
        if max(abs(shift * u / (1 + (shift - 1) * u) - t) for u, t in zip(even, times[str(steps)], strict=True)) > 1e-5:
            raise PochadeError("scheduler: its times are not an even grid, shifted; a bundle has no other")
    return Sampling(method, shift, times)


def _latents(autoencoder: Any, cells: tuple[int, int]) -> Latents:
    channels = int(autoencoder.config.latent_channels)
    mean, std = [0.0] * channels, [1.0] * channels
    if isinstance(autoencoder, ImageAutoencoder):
        mean, std = autoencoder.config.latents_mean or mean, autoencoder.config.latents_std or std
    return Latents(channels, *cells, int(autoencoder.downsampling), tuple(mean), tuple(std))


def _text(encoder: Any) -> Text | None:
    if encoder is None:
        return None
    if isinstance(encoder, PromptEncoder):
        return Text(encoder.identity, TOKENIZER, encoder.max_tokens, encoder.closing_tokens)
    return Text("class_label", classes=tuple(encoder.names))


def _described(graph: Exported, precision: Precision) -> Graph:
    """A graph, rounded in its place."""
    error = 0.0
    if precision != "fp32":
        batch = graph.batch or 1
        error = quantise(graph.path, graph.path, graph.inputs, precision=precision, batch=batch).error
    data = data_of(graph.path)
    inputs = [
        Value(i.name, (graph.batch, *i.shape), str(i.dtype).removeprefix("torch."), i.absent) for i in graph.inputs
    ]
    outputs = [
        Value(o, (graph.batch, *shape), "float32") for o, shape in zip(graph.outputs, graph.output_shapes, strict=True)
    ]
    return Graph(
        graph.path.name,
        None if data is None else data.name,
        precision,
        tuple(inputs),
        tuple(outputs),
        graph.parameters,
        graph.difference,
        error,
        _milliseconds(graph),
    )


def _milliseconds(graph: Exported, repeats: Iterable[int] = range(3)) -> float:
    """The fastest of a few calls, after one."""
    runs, values = session(graph.path), random_inputs(graph.inputs, graph.batch or 1)
    run(runs, values)
    times: list[float] = []
    for _ in repeats:
        start = time.perf_counter()
        run(runs, values)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)
