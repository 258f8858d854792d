"""Profile of a model: size, memory and time of each component, in eager PyTorch and as exported ONNX graphs.

Each figure is measured in a process of its own that loads nothing else, so that its memory is that of the component.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pochade.arguments import MAX_THREADS, check_count
from pochade.device import precision_name, resolve_device, resolve_precision
from pochade.errors import FailureError, PochadeError, missing_extra, nearest
from pochade.evaluation.profile import COMPONENTS, IN_TURN, PICTURE, model_size
from pochade.evaluation.profile.figures import (
    Component,
    Eager,
    EagerJob,
    Graphs,
    GraphsJob,
    Measured,
    Profile,
    Row,
    Settings,
)
from pochade.evaluation.profile.models import is_random, load, load_skeleton
from pochade.export.onnx import (
    Exported,
    export_decoder,
    export_denoiser,
    export_text_encoder,
)
from pochade.export.quantize import quantise
from pochade.files import write_text
from pochade.pipelines.metadata import versions
from pochade.types import InputSpec

RUNTIMES = ("eager", "onnx", "all")
KEPT_IN_FLOAT = ("decoder",)
"""Convolutions, which ONNX Runtime runs slower in 8 bits than in float32: no 8-bit form is made of them."""

Log = Callable[[str], None]


def profile(
    model: str,
    *,
    size: int | None = None,
    steps: int = 4,
    text_encoder: str | None = None,
    batch: int = 1,
    threads: int | None = None,
    depth: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    runtime: str = "all",
    repeats: int = 5,
    keep: str | os.PathLike[str] | None = None,
    log: Log | None = None,
) -> Profile:
    """Measures a model; the result can be written as JSON.

    ``rows`` has one for each component, for ``picture`` (all of them in one process) and, as graphs, for
    ``picture_in_turn`` (each loaded when it is needed, and released), in each runtime and precision. A picture's
    seconds are those of text, ``steps`` calls of the denoiser and decoder, without guidance.

    Args:
        model: name of a shipped model, folder, hub name, or ``FAMILY:VARIANT`` for random weights.
        size: rows and columns of the picture in pixels (None: as the model was trained).
        steps: sampling steps.
        text_encoder: "minilm", "tinyclip" or "clip-l", for random weights.
        batch: pictures at once.
        threads: of the processor (None: as torch chooses).
        depth: iterations, where the family has them (None: as configured).
        device: of eager, as ``pochade.device.resolve_device`` takes it; graphs run on the CPU.
        precision: of denoiser and decoder in eager, as ``pochade.device.resolve_precision`` takes it.
        runtime: "eager", "onnx" or "all".
        repeats: calls of which the fastest counts.
        keep: an empty or new folder for the exported graphs (None: they are removed).
        log: called with a line about each step.

    Raises:
        PochadeError: an argument is out of range, or a library is missing.
        FailureError: a graph differs from eager, or a measuring process failed.
    """
    for name, value in (("steps", steps), ("batch", batch), ("repeats", repeats)):
        check_count(name, value)
    if threads is not None:
        check_count("threads", threads, MAX_THREADS)
    if runtime not in RUNTIMES:
        raise PochadeError(f"runtime: {runtime!r} given, allowed are {', '.join(RUNTIMES)}{nearest(runtime, RUNTIMES)}")
    if runtime != "eager":
        _need_onnx()
    place = resolve_device(device)
    chosen = precision_name(resolve_precision(precision, place))
    folder = None if keep is None else _empty_folder(Path(keep))
    log = log or (lambda _: None)
    modules = {name: load_skeleton(model, name, text_encoder) for name in COMPONENTS}
    modules = {name: module for name, module in modules.items() if module is not None}
    if depth is not None:
        check_count("depth", depth)
    modules["denoiser"].check_depth(depth)
    latent_size = _latent_size(modules["denoiser"].input_spec(), int(modules["decoder"].downsampling), size)
    tokens = int(modules["text_encoder"].max_tokens) if "text_encoder" in modules else 1
    random = is_random(model)
    settings: Settings = {
        "model": model,
        "text_encoder": text_encoder,
        "latent_size": list(latent_size),
        "text_tokens": tokens,
        "steps": steps,
        "batch": batch,
        "threads": threads or torch.get_num_threads(),
        "depth": depth,
        "device": str(place),
        "precision": chosen,
        "repeats": repeats,
    }
    found: Profile = {
        **settings,
        "size": latent_size[0] * int(modules["decoder"].downsampling),
        "versions": versions(),
        "components": {
            name: _component(module, random and type(module).__name__ != "MiniLMEncoder")
            for name, module in modules.items()
        },
        "rows": [],
        "exports": {},
    }
    tokenizer = None if "text_encoder" not in modules else modules["text_encoder"].tokenizer_json()
    names = list(modules)
    del modules
    if runtime != "onnx":
        for component in (*names, PICTURE):
            log(f"{component}, eager")
            job: EagerJob = {**settings, "component": component}
            measured: Eager = _run("eager", component, job)
            weights = sum(_weights_mb(found, n) for n in names if component in (n, PICTURE))
            row = _row(component, "eager", "fp32" if component == "text_encoder" else chosen, weights, measured, None)
            found["rows"].append({**row, "device_mb": measured["device_mb"]})
    if runtime != "eager":
        with tempfile.TemporaryDirectory(prefix="pochade-profile-") as temporary:
            _in_onnx(found, names, folder or Path(temporary), tokenizer, log)
    return found


def _weights_mb(found: Profile, component: str) -> float:
    """Of a component in eager: a pipeline keeps the text encoder in float32."""
    size = found["components"][component]
    return size["fp32_mb"] if component == "text_encoder" or found["precision"] == "fp32" else size["fp16_mb"]


def _component(module: nn.Module, random: bool) -> Component:
    size = model_size(module)
    return {
        "class": type(module).__name__,
        "random": random,
        "parameters": size.parameters,
        "fp32_mb": size.fp32_mb,
        "fp16_mb": size.fp16_mb,
    }


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "export") from None


def _empty_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PochadeError(f"keep: {folder} exists and is not an empty folder, which is needed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PochadeError(f"keep: {folder} cannot be made: {error.strerror}") from None
    return folder


def _latent_size(spec: InputSpec, f: int, size: int | None) -> tuple[int, int]:
    """Rows and columns for ``size`` pixels, of which a latent cell covers ``f`` a side."""
    size = f * spec.sample_size if size is None else size
    multiple = f * spec.size_multiple
    if size < multiple or size % multiple:
        raise PochadeError(f"size: {size} given, allowed are multiples of {multiple} pixels, from {multiple} on")
    return size // f, size // f


def _in_onnx(found: Profile, names: list[str], folder: Path, tokenizer: str | None, log: Log) -> None:
    """Adds the rows of the exported graphs, float32 and with 8-bit weights."""
    vocabulary = None
    if tokenizer is not None:
        vocabulary = folder / "tokenizer.json"
        write_text(vocabulary, tokenizer)
    files: dict[str, dict[str, Path]] = {"fp32": {}, "int8": {}}
    errors: dict[str, float] = {}
    for name in names:
        log(f"{name}, exporting")
        start = time.perf_counter()
        exported = _export(found, name, folder / f"{name}.onnx")
        seconds = time.perf_counter() - start
        found["exports"][name] = {"seconds": seconds, "difference": exported.difference}
        files["fp32"][name] = files["int8"][name] = exported.path
        if name not in KEPT_IN_FLOAT:
            log(f"{name}, rounding its weights to 8 bits")
            made = quantise(exported.path, folder / f"{name}-int8.onnx", exported.inputs, batch=found["batch"])
            files["int8"][name], errors[name] = made.path, made.error
    for precision, paths in files.items():
        for component in (*names, PICTURE, IN_TURN):
            if precision == "int8" and component in KEPT_IN_FLOAT:
                continue
            log(f"{component}, ONNX Runtime {precision}")
            held = {component: paths[component]} if component in names else paths
            job: GraphsJob = {
                "component": component,
                "files": {name: str(path) for name, path in held.items()},
                "tokenizer": None if vocabulary is None else str(vocabulary),
                "steps": found["steps"],
                "threads": found["threads"],
                "repeats": found["repeats"],
            }
            measured: Graphs = _run("graphs", component, job)
            if measured["torch"]:
                raise FailureError(
                    f"{component}: the process of ONNX Runtime has loaded torch, its memory says nothing"
                )
            error = errors.get(component) if precision == "int8" else None
            found["rows"].append(_row(component, "onnx", precision, measured["weights_mb"], measured, error))


def _export(found: Profile, name: str, path: Path) -> Exported:
    module, batch = load(found["model"], name, found["text_encoder"]), found["batch"]
    rows, columns = found["latent_size"]
    shared: dict[str, Any] = {"batch": batch, "external_data": True}
    if name == "text_encoder":
        return export_text_encoder(module, path, text_tokens=found["text_tokens"], **shared)
    if name == "decoder":
        return export_decoder(module, path, latent_size=(rows, columns), **shared)
    return export_denoiser(
        module,
        path,
        latent_size=(rows, columns),
        text_tokens=found["text_tokens"],
        depth=found["depth"],
        **shared,
    )


def _row(component: str, runtime: str, precision: str, weights: float, measured: Measured, error: float | None) -> Row:
    return {
        "component": component,
        "runtime": runtime,
        "precision": precision,
        "weights_mb": weights,
        "libraries_mb": measured["libraries_mb"],
        "loading_mb": measured["loading_mb"],
        "rest_mb": measured["rest_mb"],
        "peak_mb": measured["peak_mb"],
        "seconds": measured["seconds"],
        "device_mb": None,
        "error": error,
    }


def _run(worker: str, component: str, job: Mapping[str, object]) -> Any:
    """The JSON that a measuring process writes for a job; it ends with this one."""
    command = [sys.executable, "-W", "ignore", "-m", f"pochade.evaluation.profile.{worker}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, errors = process.communicate(json.dumps(job))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise FailureError(f"{component}: the measuring process ended with {how}: {last}")
    return json.loads(out)
