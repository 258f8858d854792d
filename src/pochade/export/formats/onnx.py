"""Graphs in ONNX, for ONNX Runtime on computers and phones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pochade.errors import missing_extra
from pochade.export import npu, onnx, parity
from pochade.export.formats.base import Examples, Format, Graphs, Options, described, opened
from pochade.export.networks import Network
from pochade.export.precision import CALIBRATED, PRESETS, Precision
from pochade.export.quantize import quantise
from pochade.export.weights import data_of
from pochade.runtime.manifest import ONNX, Graph


class Onnx(Format):
    name = ONNX
    extra = "export"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {
        **PRESETS,
        "w8a16": ("w8a16", "w8a16", "w8a16", "w8a16"),
        "w8a8": ("w8a8", "w8a8", "w8a8", "w8a8"),
    }
    free_batch = True
    external_data = True

    def check(self) -> None:
        try:
            import onnx
            import onnxruntime
            import onnxscript  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra(str(error.name), self.extra) from None
        del onnx, onnxruntime

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        graphs: Graphs = {}
        for network in networks:
            path = folder / f"{network.name}.onnx"
            written = onnx.export(
                network, path, batch=options.batch, external_data=options.external_data, standard=options.standard
            )
            graph = described(
                network,
                path.name,
                options,
                data=None if written.data is None else written.data.name,
                difference=written.difference,
                error=0.0,
            )
            took = parity.milliseconds(opened(self, folder, graph, network.name), network.inputs, written.batch or 1)
            graphs[network.name] = replace(graph, milliseconds=took)
        return graphs

    def round(
        self,
        networks: Sequence[Network],
        folder: Path,
        graphs: Graphs,
        precisions: Mapping[str, Precision],
        examples: Examples,
    ) -> Graphs:
        rounded = dict(graphs)
        for network in networks:
            graph, precision = graphs[network.name], precisions[network.name]
            if precision == "fp32":
                continue
            path, batch = folder / graph.file, graph.inputs[0].shape[0] or 1
            if precision in ("w8a16", "w8a8"):
                error = npu.quantise(path, path, examples.get(network.name, ()), precision)
            else:
                error = quantise(path, path, network.inputs, precision=precision, batch=batch).error
            took = parity.milliseconds(opened(self, folder, graph, network.name), network.inputs, batch)
            data = data_of(path)
            rounded[network.name] = replace(
                graph,
                data=None if data is None else data.name,
                precision=precision,
                precision_error=error,
                milliseconds=took,
            )
        return rounded

    def remarks(self, folder: Path, graphs: Mapping[str, Graph]) -> list[str]:
        for_npus = {name: graph.file for name, graph in graphs.items() if graph.precision in CALIBRATED}
        return npu.coverage(folder, for_npus)
