# pyright: reportMissingImports=false
# Its libraries are an extra.
"""Graphs in OpenVINO's intermediate representation, for Intel's processors, graphics and NPUs."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pochade.errors import PochadeError, missing_extra
from pochade.export import onnx
from pochade.export.formats.base import Examples, Format, Graphs, Options, compared, described, rounded
from pochade.export.formats.onnx import Onnx
from pochade.export.formats.programs import converting
from pochade.export.networks import Network
from pochade.export.precision import PRESETS, Precision
from pochade.files import atomic_folder


class OpenVino(Format):
    """The graphs are those of ONNX, which OpenVINO reads, in its own form: ``<graph>.xml`` with ``<graph>.bin``."""

    name = "openvino"
    extra = "openvino"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = PRESETS
    free_batch = True

    def check(self) -> None:
        Onnx().check()
        os.environ.setdefault("NNCF_CI", "1")  # else NNCF reports its use to its makers
        for name in ("openvino", "nncf"):
            try:
                with converting(name):
                    __import__(name)
            except PochadeError as error:
                if isinstance(error.__cause__, ImportError):
                    raise missing_extra(name, self.extra) from None
                raise

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        import openvino

        graphs: Graphs = {}
        for network in networks:
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(temporary) / f"{network.name}.onnx"
                written = onnx.export(network, path, batch=options.batch, standard=True)
                with converting(f"{network.name}.xml"):
                    model = openvino.Core().read_model(written.path)
                    openvino.save_model(model, folder / f"{network.name}.xml", compress_to_fp16=False)
                    del model
            graph = described(network, f"{network.name}.xml", options, data=f"{network.name}.bin", error=0.0)
            graphs[network.name] = compared(self, folder, graph, network, options)
        return graphs

    def round(
        self,
        networks: Sequence[Network],
        folder: Path,
        graphs: Graphs,
        precisions: Mapping[str, Precision],
        examples: Examples,
    ) -> Graphs:
        del examples
        import openvino

        found = dict(graphs)
        for network in networks:
            graph, precision = graphs[network.name], precisions[network.name]
            if precision == "fp32":
                continue
            with atomic_folder(folder, replace="files") as new, converting(graph.file):
                model: Any = openvino.Core().read_model(folder / graph.file)
                if precision == "int8":
                    import nncf

                    model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
                openvino.save_model(model, new / graph.file, compress_to_fp16=precision == "fp16")
            found[network.name] = rounded(self, folder, graph, network, precision)
        return found
