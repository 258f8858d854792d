"""All that ``pochade export --for`` writes, by name: bundles in a form of graphs, and a page that runs one."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pochade.arguments import is_given
from pochade.errors import PochadeError, nearest
from pochade.export.bundle import export_bundle
from pochade.export.formats.base import Format
from pochade.export.formats.coreml import CoreMl
from pochade.export.formats.executorch import ExecuTorch
from pochade.export.formats.linked import Linked
from pochade.export.formats.litert import LiteRt
from pochade.export.formats.onnx import Onnx
from pochade.export.formats.openvino import OpenVino
from pochade.export.onnxruntime_web import onnxruntime_web
from pochade.export.precision import PRESETS, Precision, parse_precision
from pochade.export.site import export_site
from pochade.pipelines.base import GenerationPipeline
from pochade.runtime import Bundle
from pochade.runtime.manifest import Manifest, Model, Quality

FORMATS: dict[str, Format] = {form.name: form for form in (Onnx(), OpenVino(), CoreMl(), ExecuTorch(), LiteRt())}


@dataclass(frozen=True)
class Request:
    """What is exported, and how; as ``export_bundle`` and ``export_site`` have it. None is for what is left out."""

    pipe: GenerationPipeline
    folder: str | os.PathLike[str]
    model: Model
    precision: str | None = None
    size: tuple[int, int] | None = None
    depths: tuple[int, ...] = ()
    decoder: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Those that one target has and another has not, by name."""
    quality: tuple[Quality, ...] = ()


@dataclass(frozen=True)
class Target:
    """One of ``TARGETS``.

    Attributes:
        help: a line for the command line.
        options: the names of those that it has.
        precisions: see ``Format``.
        check: raises PochadeError where a library is missing, or for options by name, ``precision`` and ``depths``
            among them, that it does not take.
        write: writes a request; the manifest, and lines to print.
    """

    help: str
    options: tuple[str, ...]
    precisions: Mapping[str, tuple[Precision, ...]]
    check: Callable[[Mapping[str, Any]], None]
    write: Callable[[Request], tuple[Manifest, list[str]]]


def find_target(
    name: str, given: Mapping[str, Any] | None = None, precision: str | None = None, depths: Sequence[int] = ()
) -> Target:
    """The target of a name.

    Args:
        name: of ``TARGETS``.
        given: options by name; those that are None or False are not.
        precision: see ``parse_precision``; None for the target's own.
        depths: as of ``Request``.

    Raises:
        PochadeError: there is none of the name, it has not such an option or precision, a value is out of range, or a
            library is missing.
    """
    if name not in TARGETS:
        raise PochadeError(f"for: {name!r} given, allowed are {', '.join(TARGETS)}{nearest(name, TARGETS)}")
    target = TARGETS[name]
    for option, value in (given or {}).items():
        if is_given(value) and option not in target.options:
            having = [other for other, one in TARGETS.items() if option in one.options]
            raise PochadeError(f"{option}: given for {name}, allowed is {' and '.join(having)}")
    if precision is not None:
        parse_precision(precision, target.precisions, name)
    target.check({**(given or {}), "precision": precision, "depths": depths})
    return target


def open_bundle(folder: str | os.PathLike[str], *, threads: int | None = None, low_memory: bool = False) -> Bundle:
    """A bundle of any target as a model. ``Bundle`` alone has all but those that need PyTorch to run in Python.

    Raises:
        PochadeError: as ``Bundle``.
    """
    openers = {form.name: form.open for form in FORMATS.values()}
    return Bundle(Path(folder), threads=threads, low_memory=low_memory, openers=openers)


def _bundle(form: Format, request: Request) -> tuple[Manifest, list[str]]:
    manifest = export_bundle(
        request.pipe,
        request.folder,
        request.model,
        form=form,
        precision=request.precision,
        size=request.size,
        depths=request.depths,
        decoder=request.decoder,
        quality=request.quality,
        **request.options,
    )
    return manifest, form.remarks(Path(request.folder), manifest.graphs)


def _check_bundle(form: Format, options: Mapping[str, Any]) -> None:
    form.check()
    precision = options["precision"] or form.default_precision
    form.batch(options.get("batch"), parse_precision(precision, form.precisions, form.name).values())


def _check_page(options: Mapping[str, Any]) -> None:
    FORMATS["onnx"].check()
    if len(options["depths"]) > 1:
        depths = ",".join(map(str, options["depths"]))
        raise PochadeError(f"depth: {depths} given for web, allowed is one: a page has one denoiser")
    onnxruntime_web(options.get("onnxruntime_web"))


def _page(request: Request) -> tuple[Manifest, list[str]]:
    site = export_site(
        request.pipe,
        request.folder,
        request.model,
        precision=request.precision or "int8",
        size=request.size,
        depth=request.depths[0] if request.depths else None,
        decoder=request.decoder,
        quality=request.quality,
        runtime=request.options.get("onnxruntime_web"),
    )
    return site.manifest, [f"download: {site.download / 1e6:.1f} MB, to edit {site.editing / 1e6:.1f} MB more"]


def bundle_target(form: Format, help: str) -> Target:
    """A bundle in a form of graphs."""
    options = ("batch", "external_data") if form.external_data else ("batch",)
    return Target(help, options, form.precisions, partial(_check_bundle, form), partial(_bundle, form))


def linked_target(model: Path) -> Target:
    """Graphs that share the weights of the model in ``model``, for ``pochade generate``.

    Raises PochadeError where a library is missing.
    """
    target = bundle_target(Linked(model), "ONNX Runtime, with the model's files")
    target.check({"precision": None})
    return target


TARGETS: dict[str, Target] = {
    "onnx": bundle_target(FORMATS["onnx"], "ONNX Runtime, and pochade run"),
    "web": Target("a page that runs in a browser", ("onnxruntime_web",), PRESETS, _check_page, _page),
    "openvino": bundle_target(FORMATS["openvino"], "OpenVINO, on Intel's processors"),
    "coreml": bundle_target(FORMATS["coreml"], "Core ML, on iPhones, iPads and Macs"),
    "executorch": bundle_target(FORMATS["executorch"], "ExecuTorch, on Android and iOS"),
    "litert": bundle_target(FORMATS["litert"], "LiteRT, on Android"),
}
