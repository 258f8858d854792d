# pyright: reportMissingImports=false
# Its libraries are an extra.
"""Graphs for LiteRT, once TensorFlow Lite, for Android: ``<graph>.tflite``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from pochade.errors import PochadeError, missing_extra
from pochade.export.formats.base import (
    Examples,
    Format,
    Graphs,
    Options,
    batches,
    compared,
    described,
    example,
    rounded,
)
from pochade.export.formats.programs import PLAIN_ATTENTION, converting
from pochade.export.networks import Network
from pochade.export.precision import Precision
from pochade.files import write_bytes
from pochade.nn.scan.operators import DECOMPOSITIONS


class _Named(nn.Module):
    """The network with inputs and outputs by name, which the file's signature then has."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        self.inputs = tuple(item.name for item in network.inputs)
        self.outputs = network.outputs

    def forward(self, **values: Tensor) -> dict[str, Tensor]:
        found = self.module(*(values[name] for name in self.inputs))
        return dict(zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=True))


class LiteRt(Format):
    """A file for each graph, with inputs and outputs by name. In 8 bits weights are rounded by channel, and what layers
    take is rounded when they run."""

    name = "litert"
    extra = "litert"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {
        "fp32": ("fp32", "fp32", "fp32", "fp32"),
        "int8": ("int8", "int8", "fp32", "fp32"),
    }
    free_batch = False

    def check(self) -> None:
        for name in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
            try:
                with converting(name):
                    __import__(name)
            except PochadeError as error:
                if isinstance(error.__cause__, ImportError):
                    raise missing_extra(name.replace("_", "-"), self.extra) from None
                raise

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        batch = batches(options)[0]
        graphs: Graphs = {}
        for network in networks:
            graph = described(network, f"{network.name}.tflite", options, error=0.0)
            narrow = [replace(v, dtype="int32") if v.dtype == "int64" else v for v in graph.inputs]
            graph = replace(graph, inputs=tuple(narrow))
            with converting(graph.file):
                write_bytes(folder / graph.file, _converted(network, batch))
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
        found = dict(graphs)
        for network in networks:
            graph = graphs[network.name]
            if precisions[network.name] == "fp32":
                continue
            with converting(graph.file):
                from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

                tool: Any = quantizer.Quantizer(str(folder / graph.file), recipe.dynamic_wi8_afp32())
                # Products that no layer makes, such as a scan's with zeros and ones, hold no weights. The runtime
                # refuses one whose first factor alone is rounded.
                batched, kept = qtyping.TFLOperationName.BATCH_MATMUL, algorithm_manager.AlgorithmName.NO_QUANTIZE
                tool.update_quantization_recipe(".*", batched, algorithm_key=kept)
                write_bytes(folder / graph.file, bytes(tool.quantize().quantized_model))
            found[network.name] = rounded(self, folder, graph, network, precisions[network.name])
        return found


def _converted(network: Network, batch: int) -> bytes:
    import litert_torch
    from litert_torch.fx_infra import decomp

    decomp.update_pre_convert_decomp({**DECOMPOSITIONS, **PLAIN_ATTENTION})
    values = {item.name: value for item, value in zip(network.inputs, example(network, batch), strict=True)}
    return litert_torch.convert(_Named(network).eval(), sample_kwargs=values).model_content()
