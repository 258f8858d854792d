"""A model as a bundle: the folder that a host runs without PyTorch (docs/on-device.md describes it)."""

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pochade import __version__
from pochade.arguments import check_pipeline, path_text, plain
from pochade.autoencoders.base import ImageAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.errors import PochadeError
from pochade.export import samples
from pochade.export.formats.base import Batch, Format, Options
from pochade.export.formats.onnx import Onnx
from pochade.export.networks import (
    Network,
    decoder_network,
    denoiser_network,
    encoder_network,
    text_encoder_network,
)
from pochade.export.precision import CALIBRATED, parse_precision
from pochade.export.readme import readme
from pochade.files import atomic_folder, check_replaceable, sha256, write_text
from pochade.flow.sampling import set_timesteps
from pochade.pipelines import decoders, hub
from pochade.pipelines.base import GenerationPipeline
from pochade.pipelines.checks import IMAGE_GUIDANCE, check_size, usual_strength
from pochade.pipelines.schedulers import SCHEDULERS
from pochade.runtime.manifest import (
    EMOJI,
    FORMAT,
    MANIFEST,
    METHODS,
    TABLE_STEPS,
    TOKENIZER,
    WITHOUT_SOURCE,
    Defaults,
    File,
    Latents,
    Manifest,
    Model,
    Quality,
    Sampling,
    Text,
)
from pochade.text_encoders.base import PromptEncoder
from pochade.types import TASKS

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
    form: Format | None = None,
    precision: str | None = None,
    size: int | tuple[int, int] | None = None,
    depths: Sequence[int] = (),
    decoder: Path | None = None,
    quality: tuple[Quality, ...] = (),
    batch: Batch | None = None,
    external_data: bool = False,
    standard: bool = False,
    pictures: int = samples.PICTURES,
) -> Manifest:
    """Writes a model as a bundle: its graphs, ``tokenizer.json``, ``emoji.json``, ``README.md`` and ``manifest.json``.

    Every graph is compared with eager PyTorch in float32 before its weights are rounded. The folder is complete or not
    there at all.

    Args:
        pipe: of any class and family; it is copied, to the CPU and float32.
        folder: a new or an empty one.
        model: where the weights come from, see ``model_facts``.
        form: of the graphs (None: ONNX).
        precision: of the weights, as ``parse_precision`` reads it from the form's presets (None: the form's own).
        size: pixels a side, or height and width (None: as the model was trained).
        depths: iterations in the denoiser's graph, where the family has them (none: as configured); of several, each
            has a graph, and the first is that of a call that names none.
        decoder: the folder of one that stands in place of the autoencoder's own.
        quality: the model's table, see ``pochade.pipelines.budget.read_quality``.
        batch: a number, or "dynamic" for any (None: any where the form can, else 1).
        external_data: weights in files beside the graphs, ``<graph>.data``, which ONNX Runtime maps into memory.
        standard: graphs in ONNX have the standard's operators alone, see ``onnx.export``; those for NPUs always have.
        pictures: how many are sampled in ``precision`` and in float32, to be compared; 0 for none.

    Raises:
        PochadeError: an argument is out of range, the folder holds something, the decoder is for other latents, the
            model's scheduler is none that hosts have, or an optional library is missing.
        FailureError: a graph differs from eager; nothing is written.
    """
    check_pipeline("pipe", pipe)
    place = Path(path_text("folder", folder))
    check_replaceable("folder", place)
    form = Onnx() if form is None else form
    precisions = parse_precision(precision or form.default_precision, form.precisions, form.name)
    if external_data and not form.external_data:
        raise PochadeError(f"external_data: given for {form.name}, allowed is onnx")
    calibrated = not set(CALIBRATED).isdisjoint(precisions.values())
    options = Options(form.batch(batch, precisions.values()), external_data, standard or calibrated)
    size = plain(size)
    height, width = (size, size) if isinstance(size, int) else size or (pipe.default_size, pipe.default_size)
    for name, value in (("height", height), ("width", width)):
        check_size(name, value, pipe.size_multiple)
    form.check()
    spec, down = pipe.denoiser.input_spec(), int(pipe.autoencoder.downsampling)
    cells = (height // down, width // down)
    sampling = _sampling(pipe.scheduler, pipe.default_steps)
    small = None if decoder is None else decoders.load_decoder(pipe.autoencoder, decoder)
    with atomic_folder(place) as new:
        if isinstance(pipe.text_encoder, PromptEncoder):
            write_text(new / TOKENIZER, pipe.text_encoder.tokenizer_json())
            if names := pipe.text_encoder.emoji_names():
                write_text(new / EMOJI, json.dumps(names, ensure_ascii=False, separators=(",", ":"), sort_keys=True))
        networks = _networks(pipe, cells, depths, small)
        precisions |= {n.name: precisions["denoiser"] for n in networks if n.name.startswith("denoiser")}
        graphs = form.convert(networks, new, options)
        depth = depths[0] if depths else spec.depth
        manifest = Manifest(
            FORMAT,
            __version__,
            model,
            height,
            width,
            _latents(pipe.autoencoder, cells),
            _text(pipe.text_encoder),
            sampling,
            Defaults(
                pipe.default_steps,
                pipe.default_guidance,
                depth,
                {task: usual_strength(task, task in spec.tasks and task != "edit", 2) for task in TASKS[1:]},
                IMAGE_GUIDANCE,
                pipe.default_guidance_interval,
            ),
            TASKS if "encoder" in graphs else TASKS[:1],
            spec.tasks,
            graphs,
            {str(d): _denoiser(i) for i, d in enumerate(depths or ([] if depth is None else [depth]))},
            quality=quality,
            target=form.name,
            model_depth=spec.depth,
            decoder=None if decoder is None else decoders.decoder_facts(decoder),
        )
        if set(precisions.values()) != {"fp32"}:
            count = pictures if form.runs_here() else 0
            _write_manifest(new, manifest)
            exact = samples.pictures(new, manifest, form, count)
            examples = samples.examples(new, manifest, form) if calibrated else {}
            manifest = replace(manifest, graphs=form.round(networks, new, graphs, precisions, examples))
            _write_manifest(new, manifest)
            manifest = replace(manifest, picture_psnr=samples.psnr(exact, samples.pictures(new, manifest, form, count)))
        write_text(new / README, readme(_write_manifest(new, manifest)))
        return _write_manifest(new, manifest)


def _networks(
    pipe: GenerationPipeline, cells: tuple[int, int], depths: Sequence[int], decoder: TinyVAEDecoder | None
) -> list[Network]:
    """Those that the pipeline has, in the order of ``precision.GRAPHS``."""
    encoder, autoencoder = pipe.text_encoder, pipe.autoencoder
    networks: list[Network] = []
    tokens = 1
    if isinstance(encoder, PromptEncoder):
        tokens = encoder.max_tokens
        networks.append(text_encoder_network(encoder, text_tokens=tokens))
    size: dict[str, Any] = {"latent_size": cells, "text_tokens": tokens}
    for i, depth in enumerate(depths or (None,)):
        networks.append(denoiser_network(pipe.denoiser, **size, depth=depth, name=_denoiser(i)))
    spec = pipe.denoiser.input_spec()
    if spec.source_apart and spec.tasks:
        networks.append(denoiser_network(pipe.denoiser, **size, source=False, name=WITHOUT_SOURCE))
    networks.append(decoder_network(decoder or autoencoder, latent_size=cells))
    if isinstance(autoencoder, ImageAutoencoder):
        networks.append(encoder_network(autoencoder, latent_size=cells))
    return networks


def _denoiser(i: int) -> str:
    """The name of the graph of depth i of a bundle."""
    return f"denoiser_{i}" if i else "denoiser"


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the files that lie in the folder, as it was written there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {path.relative_to(folder).as_posix(): File(path.stat().st_size, sha256(path)) for path in paths}
    manifest = replace(manifest, files=files)
    write_text(folder / MANIFEST, manifest.to_json())
    return manifest


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
