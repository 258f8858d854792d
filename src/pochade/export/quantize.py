"""Weights of an exported graph in fewer bits.

``int8``: the weights of matrix products and embeddings become unsigned 8-bit integers, by ONNX Runtime's dynamic
quantisation, their inputs are rounded when the graph runs. Unsigned, because signed ones saturate on processors without
VNNI: on such a one they were 40 times farther off. Stacks of matrices, which it does not run in 8 bits by channel, keep
16. Convolutions are stored in 8 bits, and computed in float32: ONNX Runtime runs them slower in 8 bits.

``fp16``: all weights are stored in 16 bits, and computed in float32. A model that was saved in float16 stays as it is
to the bit.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pochade.errors import PochadeError, missing_extra
from pochade.export.parity import Input, random_inputs, run, session
from pochade.export.weights import data_of, replacing, save_model, store_in_fewer_bits

OPERATORS = ("MatMul", "Gemm", "Gather")


@dataclass(frozen=True)
class Quantised:
    """A graph with smaller weights."""

    path: Path
    weights: int
    """How many matrices became 8-bit."""
    error: float
    """Root mean square of the difference from the graph it was made of, over that one's standard deviation."""


def quantise(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    precision: Literal["fp16", "int8"] = "int8",
    batch: int = 1,
) -> Quantised:
    """Writes the graph at ``source`` with smaller weights to ``target``, and compares both on random inputs.

    The weights lie in a file beside the graph where those of the source do.

    Args:
        source: a graph that ``pochade.export.onnx`` wrote.
        target: the file, replaced at once when it is complete.
        inputs: those of the graph; masks are all True here.
        precision: see above.
        batch: of the comparison.

    Raises:
        PochadeError: there is no such file, the target cannot be written, or an optional library is missing.
    """
    path = Path(source)
    if not path.is_file():
        raise PochadeError(f"source: {path} is no file, allowed is an exported graph")
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from None
    made = onnx.load(path)
    with replacing(Path(target)) as temporary, _quiet():
        if precision == "int8":
            stacked = {i.name for i in made.graph.initializer if len(i.dims) > 2}
            quantize_dynamic(
                made,
                temporary,
                nodes_to_exclude=[n.name for n in made.graph.node if n.op_type == "MatMul" and n.input[1] in stacked],
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                weight_type=QuantType.QUInt8,
            )
            made = onnx.load(temporary)
        weights = sum(i.data_type == onnx.TensorProto.UINT8 and len(i.dims) > 1 for i in made.graph.initializer)
        store_in_fewer_bits(made, convolutions=precision == "int8")
        save_model(made, temporary, data_of(path) is not None)
        error = difference(path, temporary, inputs, batch)
    return Quantised(Path(target), weights, error)


def difference(
    first: str | os.PathLike[str], second: str | os.PathLike[str], inputs: Sequence[Input], batch: int = 1
) -> float:
    """The root mean square of what ``second`` gives less what ``first`` gives, over the deviation of the latter.

    Of several outputs the largest; on random inputs, masks all True.
    """
    values = random_inputs(inputs, batch)
    for item in inputs:
        if item.dtype == torch.bool:
            values[item.name] = torch.ones_like(values[item.name])
        if item.name == "tokens":  # drawn anew, zero where the mask was False
            values[item.name] = item.random(batch, torch.Generator().manual_seed(1))
    pairs = zip(run(session(Path(first)), values), run(session(Path(second)), values), strict=True)
    return max(float(np.sqrt(np.mean((b - a) ** 2)) / max(float(np.std(a)), 1e-12)) for a, b in pairs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to look for shapes first, which the exporter has done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
