# pyright: reportMissingImports=false
# Its libraries are an extra.
"""Graphs as methods of one ExecuTorch program, for Android and iOS: XNNPACK or portable kernels run them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx, nn

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
from pochade.export.formats.programs import PLAIN_ATTENTION, converting, program
from pochade.export.networks import Network
from pochade.export.precision import Precision
from pochade.files import write_bytes
from pochade.runtime.graphs import Run
from pochade.runtime.manifest import Graph

FILE = "model.pte"


class ExecuTorch(Format):
    """``model.pte``, with a method for each graph, of its name. In 8 bits linear layers have weights by channel, and
    their inputs are rounded when they run; all else is float32."""

    name = "executorch"
    extra = "executorch"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = {
        "fp32": ("fp32", "fp32", "fp32", "fp32"),
        "int8": ("int8", "int8", "fp32", "fp32"),
    }
    free_batch = False

    def check(self) -> None:
        try:
            with converting("executorch"):
                import executorch.exir  # noqa: F401
                import torchao  # noqa: F401
        except PochadeError as error:
            if isinstance(error.__cause__, ImportError):
                raise missing_extra(self.name, self.extra) from None
            raise

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        batch = batches(options)[0]
        with converting(FILE):
            write_bytes(folder / FILE, _lowered({n.name: n.module for n in networks}, networks, batch))
        graphs: Graphs = {}
        for network in networks:
            graph = described(network, FILE, options, error=0.0)
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
        batch = next(iter(graphs.values())).inputs[0].shape[0] or 1
        with converting(FILE):
            modules = {
                n.name: n.module if precisions[n.name] == "fp32" else _quantised(n, example(n, batch)) for n in networks
            }
            write_bytes(folder / FILE, _lowered(modules, networks, batch))
        found = dict(graphs)
        for network in networks:
            if precisions[network.name] == "fp32":
                continue
            graph, precision = graphs[network.name], precisions[network.name]
            found[network.name] = rounded(self, folder, graph, network, precision)
        return found

    def open(self, path: Path, name: str, graph: Graph, threads: int | None, low_memory: bool) -> Run:
        self.check()
        with converting(path.name):
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            if threads is not None:
                portable_lib._unsafe_reset_threadpool(threads)
            method: Any = Runtime.get().load_program(path).load_method(name)

        def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            given = [torch.from_numpy(np.ascontiguousarray(values[item.name])) for item in graph.inputs]
            found = method.execute(given)
            return [output.numpy().copy() for output in found]

        return run


def constants(graph: fx.Graph) -> set[fx.Node]:
    """What is computed of no input: parameters, buffers, and all that is made of them alone."""
    found = set[fx.Node]()
    for node in graph.nodes:
        if node.op != "placeholder" and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _quantised(network: Network, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """The network with linear layers of 8 bits, but for those that read a constant, as learned queries are: rounding it
    when it runs would be done once and for all here, and XNNPACK takes no layer whose input is rounded already."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    settings: Any = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer: Any = XNNPACKQuantizer().set_global(settings)
    # It would make tensors of float32 of all scalars, also of those beside whole numbers; linear layers have none.
    quantizer.transform_for_annotation = lambda model: model
    exported: Any = program(network.module, inputs, PLAIN_ATTENTION).module()
    constant = constants(exported.graph)
    quantizer.set_filter_function(lambda node: not constant.intersection(node.all_input_nodes[:1]))
    prepared: Any = prepare_pt2e(exported, quantizer)
    prepared(*inputs)
    return convert_pt2e(prepared)


def _lowered(modules: Mapping[str, nn.Module], networks: Sequence[Network], batch: int) -> bytes:
    """The file of a program with these modules as methods."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    programs = {n.name: program(modules[n.name], example(n, batch), PLAIN_ATTENTION) for n in networks}
    edge: Any = to_edge_transform_and_lower(
        programs,
        partitioner=[XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    return edge.to_executorch().buffer
