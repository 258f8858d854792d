"""Weights of ONNX graphs: how they lie, and the files that hold them."""

import math
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pochade.files import atomic_folder

DATA = ".data"
"""What the name of a file of weights has beyond that of its graph."""
_LEAST = 1024
"""Numbers that a weight has which is stored in fewer bits."""
BLOCK = 32
"""Numbers of a column that share a scale and a zero point, at most."""
_LEAST_BLOCK = 16
"""Where a column has no such divisor, it has one scale."""
_SMALLEST = np.float32(1e-30)
_WIDENING = ("DequantizeLinear", "Reshape", "Transpose")
"""The nodes in front of a product. ONNX Runtime joins the last one with it."""
_LEAST_CHANNEL = 64
"""Numbers that a channel of a convolution has which is stored in 8 bits."""
_LARGEST_FP16 = 65504.0
_VECTOR = 4
"""Channels that ONNX Runtime's convolutions on WebGPU read and write at once."""
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
        convolutions: whether those of convolutions get 8 bits, where a channel has at least ``_LEAST_CHANNEL`` numbers:
            depthwise ones are small.
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
        if name not in channels or values.size < _LEAST_CHANNEL * values.shape[channels[name]]:
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


def store_matrices_in_8_bits(model: Any) -> int:
    """Stores weights of matrix products in 8 bits with a scale and a zero point for each ``BLOCK`` numbers of a column,
    those of embeddings with a scale for each row; the count of those weights.

    Products are computed in float32: nodes in front, of ONNX alone, turn the weights into it at every call, which keeps
    8 bits of them in memory, and costs little beside a product. Inputs are not rounded, so that every processor gives
    the same but for the order of sums.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            uses.setdefault(name, set()).add((node.op_type, i))
    stored: list[Any] = []
    nodes: list[Any] = []
    embeddings: set[str] = set()
    for weight in graph.initializer:
        kinds = uses.get(weight.name, set())
        large = weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1 and math.prod(weight.dims) >= _LEAST
        if large and kinds and kinds <= {("MatMul", 1), ("Gemm", 1)}:
            tensors, made = _blocks_of_columns(weight.name, numpy_helper.to_array(weight))
            nodes += made
        elif large and kinds == {("Gather", 0)} and len(weight.dims) == 2:
            tensors = _rows(weight.name, numpy_helper.to_array(weight))
            embeddings.add(weight.name)
        else:
            tensors = [weight]
        stored += tensors
    count = len(nodes) // len(_WIDENING) + len(embeddings)
    for node in graph.node:
        looked_up = node.op_type == "Gather" and node.input[0] in embeddings
        nodes += _looked_up(node.input[0], node.input[1], node.output[0]) if looked_up else [node]
    for field, items in (("initializer", stored), ("node", nodes)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    return count


def _blocks_of_columns(name: str, values: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Matrices [..., K, N] as tensors in 8 bits, and the nodes ``_WIDENING`` that make them float32 again."""
    from onnx import helper, numpy_helper

    columns = np.ascontiguousarray(values.swapaxes(-1, -2))
    block = math.gcd(columns.shape[-1], BLOCK)
    blocks = columns.reshape(-1, block if block >= _LEAST_BLOCK else columns.shape[-1])
    least, most = blocks.min(1).clip(max=0), blocks.max(1).clip(min=0)
    scale = np.maximum((most - least) / np.float32(255), _SMALLEST)
    zero = np.round(-least / scale)
    numbers = (np.round(blocks / scale[:, None]) + zero[:, None]).clip(0, 255)
    tensors = {
        "uint8": numbers.astype(np.uint8),
        "scale": scale,
        "zero": zero.astype(np.uint8),
        "shape": np.array(columns.shape, dtype=np.int64),
    }
    axes = [*range(values.ndim - 2), values.ndim - 1, values.ndim - 2]
    widen, shape, turn = _WIDENING
    nodes = [
        helper.make_node(widen, [f"{name}_{part}" for part in ("uint8", "scale", "zero")], [f"{name}_blocks"], axis=0),
        helper.make_node(shape, [f"{name}_blocks", f"{name}_shape"], [f"{name}_columns"]),
        helper.make_node(turn, [f"{name}_columns"], [name], perm=axes),
    ]
    return [numpy_helper.from_array(tensor, f"{name}_{part}") for part, tensor in tensors.items()], nodes


def _rows(name: str, values: np.ndarray) -> list[Any]:
    """An embedding [V, D] as tensors in 8 bits, of which ``_looked_up`` makes float32 again."""
    from onnx import numpy_helper

    scale = np.maximum(np.abs(values).max(1, keepdims=True) / np.float32(127), _SMALLEST)
    tensors = {"int8": np.round(values / scale).astype(np.int8), "scale": scale}
    return [numpy_helper.from_array(tensor, f"{name}_{part}") for part, tensor in tensors.items()]


def _looked_up(name: str, ids: str, out: str) -> list[Any]:
    from onnx import TensorProto, helper

    return [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{out}_int8"]),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_steps"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{out}_scale"]),
        helper.make_node("Mul", [f"{out}_steps", f"{out}_scale"], [out]),
    ]


def transpose_weights(model: Any) -> None:
    """Turns weights that the graph transposes before a product into transposed weights, each once.

    ONNX Runtime would make transposed copies when it loads the graph, and only weights as such are stored in fewer
    bits.
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


def divide_products(model: Any) -> None:
    """Turns a product with a weight that the graph splits along its columns into a product for each part.

    ONNX Runtime copies what it splits, which takes a tenth of the time of the product where the tokens are many.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    axes = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}

    def columns(name: str, start: int, end: int) -> str:
        part = f"{name}_columns_{start}_{end}"
        if part not in weights:
            values = np.ascontiguousarray(numpy_helper.to_array(weights[name])[..., start:end])
            weights[part] = numpy_helper.from_array(values, part)
            graph.initializer.append(weights[part])
        return part

    def alone(name: str, kind: str) -> Any:
        """The node that makes a tensor for one other node, where it is of that kind and has a weight."""
        node = made_by.get(name)
        fits = node is not None and node.op_type == kind and uses[name] == 1 and node.input[1] in weights
        return node if fits else None

    replaced: dict[str, list[Any]] = {}
    divided: set[str] = set()
    for node in graph.node:
        bias = alone(node.input[0], "Add") if node.op_type == "Split" else None
        product = alone(node.input[0] if bias is None else bias.input[0], "MatMul") if node.op_type == "Split" else None
        if product is None or len(weights[product.input[1]].dims) != 2:
            continue
        ends = _ends(node, weights, axes.get(node.input[0]), weights[product.input[1]].dims[1])
        parts: list[Any] = []
        for start, end, out in zip([0, *ends], ends, node.output, strict=False):
            made = out if bias is None else f"{out}_product"
            part = columns(product.input[1], start, end)
            parts.append(
                helper.make_node("MatMul", [product.input[0], part], [made], name=f"{product.name}_columns_{start}")
            )
            if bias is not None:
                part = columns(bias.input[1], start, end)
                parts.append(helper.make_node("Add", [made, part], [out], name=f"{bias.name}_columns_{start}"))
        if parts:
            replaced[node.output[0]] = parts
            gone = [old for old in (product, bias) if old is not None]
            replaced |= {old.output[0]: [] for old in gone}
            divided |= {old.input[1] for old in gone}
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    graph.ClearField("node")
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for name in divided - used:
        graph.initializer.remove(weights[name])


def _ends(split: Any, weights: Mapping[str, Any], axes: int | None, width: int) -> list[int]:
    """Where the parts of a tensor of so many axes end along its last one, none where another one is split."""
    from onnx import numpy_helper

    attributes = {a.name: a.i for a in split.attribute}
    axis = attributes.get("axis", 0)
    if axes is None or axis not in (-1, axes - 1):
        return []
    if len(split.input) > 1:
        sizes = weights.get(split.input[1])
        return [] if sizes is None else numpy_helper.to_array(sizes).cumsum().tolist()
    size = -(-width // attributes["num_outputs"])
    return [min(size * (i + 1), width) for i in range(attributes["num_outputs"])]


def pad_channels(model: Any) -> None:
    """Gives convolutions of 6, 9, 15, 18 and so on channels zeros for more, up to a multiple of ``_VECTOR``.

    ONNX Runtime's kernel for WebGPU (to 1.31) reads channels by threes where their number is a multiple of 3 and not of
    4, but counts them by fours: all but the first three are wrong ones. Only where it writes a multiple of 4, and not
    in convolutions that are products, 1 x 1, or have groups.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    nodes: list[Any] = []
    padded: dict[str, str] = {}

    def add(name: str, values: np.ndarray) -> None:
        graph.initializer.append(numpy_helper.from_array(values, name))

    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None and _misread(node, weight.dims):
            x, name = node.input[:2]
            axes, missing = len(weight.dims), -weight.dims[1] % _VECTOR
            if x not in padded:
                padded[x] = f"{x}_padded"
                add(f"{x}_pads", np.array([0] * (axes + 1) + [missing] + [0] * (axes - 2)))
                nodes.append(helper.make_node("Pad", [x, f"{x}_pads"], [padded[x]], name=padded[x]))
            if name not in padded:
                padded[name] = f"{name}_padded"
                add(padded[name], np.pad(numpy_helper.to_array(weight), [(0, 0), (0, missing)] + [(0, 0)] * (axes - 2)))
            node.input[0], node.input[1] = padded[x], padded[name]
        nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for name in (padded.keys() & weights.keys()) - used:
        graph.initializer.remove(weights[name])


def _misread(convolution: Any, shape: Sequence[int]) -> bool:
    """Whether a weight of the shape (out, in, kernel) is one that ``pad_channels`` is for."""
    attributes = {a.name: a for a in convolution.attribute}
    steps = attributes["strides"].ints if "strides" in attributes else []
    grouped = "group" in attributes and attributes["group"].i > 1
    written, read, *kernel = shape
    misread = read > 3 and read % 3 == 0 and read % _VECTOR != 0 and written % _VECTOR == 0
    return misread and not grouped and max(*kernel, *steps) > 1
