"""Weights of ONNX graphs: how they lie, and the files that hold them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pochade.files import atomic_folder

DATA = ".data"
"""What the name of a file of weights has beyond that of its graph."""
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
