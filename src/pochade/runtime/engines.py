# pyright: reportMissingImports=false
# All but ONNX Runtime are optional.
"""The libraries that run a bundle's graphs, by the target that it was exported for."""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PochadeError
from .graphs import Open, Run, named, open_onnx
from .manifest import ONNX, Graph


def _missing(library: str) -> PochadeError:
    return PochadeError(f"{library} is not installed: pip install {library}")


def open_openvino(path: Path, _name: str, _graph: Graph, threads: int | None, _low_memory: bool) -> Run:
    """A graph in OpenVINO on the CPU, computed in float32."""
    try:
        import openvino
    except ModuleNotFoundError:
        raise _missing("openvino") from None
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().compile_model(path, "CPU", settings)
    outputs = range(len(model.outputs))

    def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = model(dict(values))
        return [found[i] for i in outputs]

    return run


def open_litert(path: Path, _name: str, graph: Graph, threads: int | None, _low_memory: bool) -> Run:
    """A graph in LiteRT's interpreter, by its signature."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise _missing("ai-edge-litert") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature: Any = Interpreter(str(path), num_threads=threads).get_signature_runner()
    types = {key: detail["dtype"] for key, detail in signature.get_input_details().items()}

    def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = signature(**{key: values[key].astype(kind, copy=False) for key, kind in types.items()})
        return [found[output.name] for output in graph.outputs]

    return run


COREML_NAMES = {"state": "state_workaround"}
"""Inputs whose names Core ML keeps for itself, and those that its converter gives them."""


def open_coreml(path: Path, _name: str, graph: Graph, _threads: int | None, _low_memory: bool) -> Run:
    """A graph in Core ML, on a Mac."""
    if sys.platform != "darwin":
        raise PochadeError(f"{path}: Core ML runs on a Mac, this machine has {sys.platform}")
    try:
        import coremltools
    except ModuleNotFoundError:
        raise _missing("coremltools") from None
    model: Any = coremltools.models.MLModel(str(path))

    def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        numbers = {key: v if v.dtype == np.float32 else v.astype(np.int32) for key, v in values.items()}
        given = {COREML_NAMES.get(key, key): value for key, value in numbers.items()}
        found = model.predict(given)
        return [np.asarray(found[output.name], dtype=np.float32) for output in graph.outputs]

    return run


OPENERS: dict[str, Open] = {
    ONNX: named(open_onnx),
    "openvino": named(open_openvino),
    "litert": named(open_litert),
    "coreml": named(open_coreml),
}
