"""Graphs in ONNX that share the weights of their model, for ``pochade generate`` on the machine that has it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from pochade.export import onnx
from pochade.export.formats.base import Graphs, Options, compared, described
from pochade.export.formats.onnx import Onnx
from pochade.export.linking import Weights
from pochade.export.networks import Network
from pochade.export.precision import Precision
from pochade.export.weights import data_of
from pochade.pipelines.linked import LINKED, open_linked
from pochade.runtime.graphs import Run, named
from pochade.runtime.manifest import Graph


class Linked(Onnx):
    """Of the model in ``model``."""

    name = LINKED
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {"fp32": ("fp32", "fp32", "fp32", "fp32")}
    external_data = False

    def __init__(self, model: Path) -> None:
        self._model = model

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        weights = Weights(self._model)
        graphs: Graphs = {}
        for network in networks:
            path = folder / f"{network.name}.onnx"
            onnx.export(network, path, batch=options.batch)
            weights.link(path)
            data = data_of(path)
            graph = described(network, path.name, options, data=None if data is None else data.name, error=0.0)
            # Without a time, so that graphs which are made again are the same to the bit.
            graphs[network.name] = replace(compared(self, folder, graph, network, options), milliseconds=None)
        return graphs

    def open(self, path: Path, name: str, graph: Graph, threads: int | None, low_memory: bool) -> Run:
        return named(partial(open_linked, self._model))(path, name, graph, threads, low_memory)
