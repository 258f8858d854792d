"""ONNX graphs for NPUs: weights and all that is computed in whole numbers, written as QDQ nodes of static shapes.

QDQ is the form that ONNX Runtime's providers for NPUs take: a ``QuantizeLinear`` and a ``DequantizeLinear`` around
every operator say in which scale its numbers are. The scales come from inputs that pictures gave.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pochade.errors import PochadeError
from pochade.export.parity import session
from pochade.export.weights import data_of, replacing, save_model

Example = Mapping[str, np.ndarray]
"""Inputs of a graph by name."""
_HIDDEN = -100.0
"""In place of minus infinity, where a mask hides a token: e^-100 is 0 beside anything, and a scale can hold it."""

OPERATORS: Mapping[str, str] = {
    "QNN": (
        "Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose "
        "Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor Gather GatherElements "
        "GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish "
        "InstanceNormalization Inverse LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax "
        "LpNormalization MatMul Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear "
        "RandomUniformLike Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Resize Round "
        "STFT ScatterElements ScatterND Sigmoid Sign Sin Slice Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh "
        "ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where "
        "com.microsoft:DequantizeLinear com.microsoft:Gelu com.microsoft:QuantizeLinear"
    ),
    "NNAPI": (
        "Abs Add AveragePool BatchNormalization Cast Clip Concat Conv DepthToSpace DequantizeLinear Div Elu Exp "
        "Flatten Floor Gather Gemm GlobalAveragePool GlobalMaxPool Identity LRN LeakyRelu Log MatMul Max MaxPool Min "
        "Mul Neg PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear ReduceMean Relu Reshape Resize Sigmoid Sin "
        "Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze"
    ),
}
"""Provider -> operators that it has, as published: onnxruntime-qnn's docs/execution_providers/QNN-ExecutionProvider.md
(read 2026-11), and onnxruntime's tools/mobile_helpers/nnapi_supported_ops.md (of 1.31). They are ONNX's own where no
domain is named; QDQ nodes of 16 bits are ``com.microsoft``'s, which NNAPI has not."""
_WITHOUT_COST = frozenset({"Constant", "Identity", "Reshape"})
"""Operators that move no numbers; QNN's list does not name them, its provider has them."""


def quantise(source: Path, target: Path, examples: Sequence[Example], precision: str) -> float:
    """Writes the graph at ``source`` as QDQ nodes to ``target``; the error of that.

    Args:
        source: a graph of static shapes in float32.
        target: the file, replaced at once when it is complete.
        examples: inputs that it is called with; the scales hold what it computes of them.
        precision: one of ``CALIBRATED``.

    Returns:
        The root mean square of the difference from ``source`` over the examples, over that one's standard deviation; of
        several outputs the largest.

    Raises:
        PochadeError: an input has the same value in all examples, so that there is no scale for it.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    _check(source.name, examples, precision)
    reader: Any = _Reader(examples)
    activations = QuantType.QUInt16 if precision == "w8a16" else QuantType.QUInt8
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        prepared, made = Path(temporary) / "prepared.onnx", Path(temporary) / "made.onnx"
        prepare(source, prepared)
        config = get_qnn_qdq_config(
            prepared, reader, activation_type=activations, weight_type=QuantType.QUInt8, per_channel=True
        )
        quantize(prepared, made, config)
        model: Any = onnx.load(made)
    model.ClearField("metadata_props")
    with replacing(target) as new:
        save_model(model, new, data_of(source) is not None)
        return _error(source, new, examples)


def prepare(source: Path, target: Path) -> None:
    """Writes the graph at ``source`` in the operators that providers for NPUs have, still in float32, to ``target``."""
    import onnx
    from onnxruntime.quantization.execution_providers.qnn import qnn_preprocess_model

    model: Any = onnx.load(source)
    _finite_masks(model)
    _reciprocals(model)
    onnx.save(model, target)
    with _quiet():
        qnn_preprocess_model(target, target)
    model = onnx.load(target)
    _even_columns(model)
    onnx.save(model, target)


def lacking(path: Path) -> dict[str, list[str]]:
    """Provider -> the operators of a graph that its list does not have, in order; they run on the CPU."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    found = {f"{node.domain}:{node.op_type}" if node.domain else node.op_type for node in nodes} - _WITHOUT_COST
    return {provider: sorted(found - {*known.split()}) for provider, known in OPERATORS.items()}


def coverage(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Lines that say for each provider which operators of which graph (name -> file) it has not."""
    lines: list[str] = []
    for name, file in files.items():
        said = [f"{p} lacks {', '.join(ops)}" if ops else f"{p} has all" for p, ops in lacking(folder / file).items()]
        lines.append(f"{name}, operators: {'; '.join(said)}")
    return lines


class _Reader:
    """Examples one after the other, for the calibration."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._left = iter(examples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self._left, None)
        return None if found is None else dict(found)


def _check(name: str, examples: Sequence[Example], precision: str) -> None:
    if not examples:
        raise PochadeError(f"precision: {precision} given, but no picture here calls {name}: there is nothing to go by")
    for key, first in examples[0].items():
        if first.dtype == np.float32 and all(np.ptp(example[key]) == 0 for example in examples) and first.size > 1:
            said = f"no picture here gives {name} its input {key}: it would have no scale"
            raise PochadeError(f"precision: {precision} given, but {said}")


def _finite_masks(model: Any) -> None:
    """Hides what a mask hides by a finite number, so that nothing need be tested for NaN."""
    from onnx import numpy_helper

    graph = model.graph
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size and values.min() < 100 * _HIDDEN:
            weight.CopyFrom(numpy_helper.from_array(values.clip(min=np.float32(_HIDDEN)), weight.name))
    tested = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "IsNaN"}
    same: dict[str, str] = {}
    kept: list[Any] = []
    for node in graph.node:
        if node.op_type == "IsNaN":
            continue
        if node.op_type == "Where" and tested.get(node.input[0]) == node.input[2]:
            same[node.output[0]] = node.input[2]
            continue
        kept.append(node)
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = same.get(name, name)
    graph.ClearField("node")
    graph.node.extend(kept)


def _reciprocals(model: Any) -> None:
    """Multiplies by the reciprocal of a root in place of dividing by the root: a small root is rounded to zero, and
    what is divided by zero has no bound, where a reciprocal has its largest example."""
    from onnx import helper

    graph = model.graph
    roots = {node.output[0] for node in graph.node if node.op_type == "Sqrt"}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Div" and node.input[1] in roots:
            inverse = f"{node.output[0]}_inverse"
            nodes.append(helper.make_node("Reciprocal", [node.input[1]], [inverse], name=f"{node.name}_inverse"))
            product = helper.make_node("Mul", [node.input[0], inverse], [*node.output], name=f"{node.name}_product")
            nodes.append(product)
        else:
            nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)


def _even_columns(model: Any) -> None:
    """Gives all columns of a matrix the same largest magnitude, and multiplies the product by what that took: x W is
    (x W / s) s. A matrix has one scale on an NPU, which its largest column would spoil for all others."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    factors: dict[str, str] = {}
    nodes: list[Any] = []
    for node in graph.node:
        nodes.append(node)
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2:
            continue
        if weight.name not in factors:
            values = numpy_helper.to_array(weight)
            largest = np.abs(values).max(0).clip(min=np.finfo(np.float32).tiny)
            factors[weight.name] = f"{weight.name}_columns"
            graph.initializer.append(numpy_helper.from_array(largest / largest.max(), factors[weight.name]))
            even = numpy_helper.from_array((values / (largest / largest.max())).astype(np.float32), weight.name)
            weight.CopyFrom(even)
        out = node.output[0]
        node.output[0] = f"{out}_even"
        product = [f"{out}_even", factors[weight.name]]
        nodes.append(helper.make_node("Mul", product, [out], name=f"{node.name}_columns"))
    graph.ClearField("node")
    graph.node.extend(nodes)


def _error(first: Path, second: Path, examples: Sequence[Example]) -> float:
    a, b = session(first), session(second)
    pairs = [(a.run(None, dict(e)), b.run(None, dict(e))) for e in examples]
    errors: list[float] = []
    for i in range(len(pairs[0][0])):
        exact, found = (np.concatenate([pair[side][i] for pair in pairs]) for side in (0, 1))
        errors.append(float(np.sqrt(np.mean((found - exact) ** 2)) / max(float(np.std(exact)), 1e-12)))
    return max(errors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library says of its own steps."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
