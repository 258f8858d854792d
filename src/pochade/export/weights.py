"""Weights of ONNX graphs: how they lie, and the files that hold them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pochade.files import atomic_folder

DATA = ".data"
"""What the name of a file of weights has beyond that of its graph."""
_LEAST = 1024
"""Numbers that a weight has which is stored in fewer bits."""
_LARGEST_FP16 = 65504.0
_LIMIT = 2**31 - 2**24
"""Bytes of weights that a single ONNX file can hold, with some left for the graph."""


def save_model(model: Any, path: Path, external_data: bool = False) -> None:
    """Writes a graph into one file, and its weights into ``<path>.data`` if asked or where they exceed 2 GB."""
    import onnx

    if not external_data and sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= _LIMIT:
        onnx.save(model, path)
        return
    data = f"{path.name}{DATA}"
    path.with_name(data).unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, path, save_as_external_data=True, location=data)


def data_of(path: Path) -> Path | None:
    """The file of a graph's weights, None where they are in the graph's own."""
    data = path.with_name(f"{path.name}{DATA}")
    return data if data.is_file() else None


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file of the same name in a new folder that takes the place of ``path`` when the block ends well.

    With it goes the file of its weights (``data_of``); one that ``path`` had and has no more is removed.
    """
    before = data_of(path)
    with atomic_folder(path.parent, replace="files") as folder:
        yield folder / path.name
        after = data_of(folder / path.name)
    if before is not None and after is None:
        before.unlink()


def store_in_fewer_bits(model: Any, *, convolutions: bool) -> None:
    """Stores the weights that are float32 in 16 bits, or those of convolutions in 8 with a scale for each channel.

    Nodes in front turn them into float32, which ONNX Runtime does once, when it loads the graph: the file is smaller,
    the time of a call is the same.

    Args:
        model: is changed.
        convolutions: whether those of convolutions get 8 bits.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    axes = {"Conv": 0, "ConvTranspose": 1}
    channels = (
        {node.input[1]: axes[node.op_type] for node in graph.node if node.op_type in axes} if convolutions else {}
    )
    stored: list[Any] = []
    nodes: list[Any] = []
    for weight in graph.initializer:
        stored.append(weight)
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        values, name = numpy_helper.to_array(weight), weight.name
        largest = float(np.abs(values).max(initial=0))
        if values.size < _LEAST or not 0 < largest <= _LARGEST_FP16:
            continue
        if name not in channels:
            stored[-1] = numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16")
            nodes.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT))
            continue
        others = tuple(axis for axis in range(values.ndim) if axis != channels[name])
        scale = np.maximum(np.abs(values).max(others, keepdims=True) / 127, 1e-12).astype(np.float32)
        stored[-1] = numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}_int8")
        stored.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_steps"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_steps", f"{name}_scale"], [name]))
    kept = [*nodes, *graph.node]
    for field, items in (("initializer", stored), ("node", kept)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)


def transpose_weights(model: Any) -> None:
    """Turns weights that the graph transposes before a product into transposed weights, each once.

    ONNX Runtime would make transposed copies when it loads the graph. And only weights as such are quantised, where its
    own way of transposing those of ``Gemm`` goes wrong for two nodes that share them, as in an iterated core.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    turned: dict[str, str] = {}

    def transposed(name: str) -> str:
        if name not in turned:
            turned[name] = f"{name}_transposed"
            array = np.ascontiguousarray(numpy_helper.to_array(weights[name]).T)
            graph.initializer.append(numpy_helper.from_array(array, turned[name]))
        return turned[name]

    renamed: dict[str, str] = {}
    kept: list[Any] = []
    for node in graph.node:
        attributes = {a.name: a for a in node.attribute}
        source = weights.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is not None and len(source.dims) == 2 and list(attributes["perm"].ints) == [1, 0]:
            renamed[node.output[0]] = transposed(source.name)
            continue
        if node.op_type == "Gemm" and node.input[1] in weights and attributes.get("transB") and attributes["transB"].i:
            node.input[1] = transposed(node.input[1])
            node.attribute.remove(attributes["transB"])
            node.attribute.append(helper.make_attribute("transB", 0))
        kept.append(node)
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    graph.ClearField("node")
    graph.node.extend(kept)
    used = {name for node in graph.node for name in node.input}
    for name in turned.keys() - used:
        graph.initializer.remove(weights[name])
