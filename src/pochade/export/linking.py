"""Takes out of ONNX graphs the weights that the files of a model have."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pochade.export.weights import data_of, save_model
from pochade.files import write_json
from pochade.pipelines.linked import Link, table_of, weight_files
from pochade.pipelines.tensor_files import mapped_tensors

_LEAST = 1024
"""Bytes of a weight that is taken out."""
_Digest = tuple[bytes, tuple[int, ...]]
_PARTS = (1, 2, 3)
"""Into how many parts ``divide_products`` may have divided a weight."""


class Weights:
    """Those of the model in ``folder``, found by their values."""

    def __init__(self, folder: Path) -> None:
        self._tensors = {
            (component, name): tensor
            for component, files in weight_files(folder).items()
            for file in files
            for name, tensor in mapped_tensors(file).items()
        }
        self._found: dict[_Digest, tuple[Link, slice | None]] = {}
        """What of a tensor of the model is a weight: all, or the transpose of these of its rows."""
        for link, tensor in self._tensors.items():
            for rows in _parts(len(tensor)) if tensor.ndim == 2 else ():
                self._found.setdefault(_digest(tensor[rows].T), (link, rows))
        self._found |= {_digest(tensor): (link, None) for link, tensor in self._tensors.items()}

    def link(self, graph: Path) -> None:
        """Takes out of the graph in a file what the model has, and writes the table of it (``table_of``).

        A weight keeps its name in the graph: nodes in front turn what the file of the model has into float32, and
        transpose it or a part of it, which ONNX Runtime does once, when it loads the graph.
        """
        import onnx
        from onnx import TensorProto, numpy_helper

        model, data = onnx.load(graph), data_of(graph)
        kept: list[Any] = []
        nodes: list[Any] = []
        table: dict[str, Link] = {}
        for weight in model.graph.initializer:
            values = numpy_helper.to_array(weight) if weight.data_type == TensorProto.FLOAT else None
            if values is None or values.nbytes < _LEAST or _digest(values) not in self._found:
                kept.append(weight)
                continue
            link, rows = self._found[_digest(values)]
            name = "/".join(link)
            if name not in table:  # once, however many weights are parts of it: ONNX Runtime has a copy for each
                table[name] = link
                kept.append(_elsewhere(name, self._tensors[link]))
            bounds, made = _made_of(name, self._tensors[link], rows, weight.name)
            kept += bounds
            nodes += made
        nodes += model.graph.node
        for field, items in (("initializer", kept), ("node", nodes)):
            model.graph.ClearField(field)
            getattr(model.graph, field).extend(items)
        if data is not None:
            data.unlink()
        save_model(model, graph)
        write_json(table_of(graph), table)


def _parts(rows: int) -> list[slice]:
    """All rows of a matrix, then those of the parts that it may have been divided into."""
    sizes = [rows // count for count in _PARTS if rows % count == 0]
    return [slice(start, start + size) for size in sizes for start in range(0, rows, size)]


def _elsewhere(name: str, stored: np.ndarray) -> Any:
    """A tensor that the host gives."""
    from onnx import TensorProto, helper

    tensor = TensorProto(name=name, dims=stored.shape, data_location=TensorProto.EXTERNAL)
    tensor.data_type = helper.np_dtype_to_tensor_dtype(stored.dtype)
    # The format wants a place for it.
    for key, value in {"location": "model", "offset": "0", "length": str(stored.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _made_of(name: str, stored: np.ndarray, rows: slice | None, weight: str) -> tuple[list[Any], list[Any]]:
    """Tensors that say which rows of the tensor ``name`` a weight is the transpose of, and the nodes that make it."""
    from onnx import TensorProto, helper, numpy_helper

    bounds: list[Any] = []
    steps: list[tuple[str, Mapping[str, Any]]] = []
    if rows is not None and rows.stop - rows.start < len(stored):
        bounds = [numpy_helper.from_array(np.array([at]), f"{weight}_row_{at}") for at in (rows.start, rows.stop)]
        steps.append(("Slice", {}))
    if stored.dtype == np.float16:
        steps.append(("Cast", {"to": TensorProto.FLOAT}))
    if rows is not None:
        steps.append(("Transpose", {"perm": [1, 0]}))
    steps = steps or [("Identity", {})]
    names = [name, *(f"{weight}_{i}" for i in range(1, len(steps))), weight]
    nodes: list[Any] = []
    for i, (operator, more) in enumerate(steps):
        also = [bound.name for bound in bounds] if operator == "Slice" else []
        nodes.append(helper.make_node(operator, [names[i], *also], [names[i + 1]], **more))
    return bounds, nodes


def _digest(values: np.ndarray) -> _Digest:
    return sha256(np.ascontiguousarray(values, dtype=np.float32).data).digest(), values.shape
