"""Weights of an exported graph in fewer bits; all is computed in float32, whatever they are stored in.

``int8``: weights of matrix products and embeddings, see ``weights.store_matrices_in_8_bits``, and those of
convolutions, by channel. ``fp16``: all weights; a model that was saved in float16 stays as it is to the bit. What
``int8`` does not store in 8 bits has 16.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pochade.errors import PochadeError, missing_extra
from pochade.export.parity import Input, random_inputs, run, session
from pochade.export.weights import (
    data_of,
    replacing,
    save_model,
    store_in_fewer_bits,
    store_matrices_in_8_bits,
)


@dataclass(frozen=True)
class Quantised:
    """A graph with smaller weights."""

    path: Path
    weights: int
    """How many matrices and embeddings became 8-bit."""
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
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "export") from None
    made = onnx.load(path)
    weights = store_matrices_in_8_bits(made) if precision == "int8" else 0
    with replacing(Path(target)) as temporary:
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
