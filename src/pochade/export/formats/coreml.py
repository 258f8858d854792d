# pyright: reportMissingImports=false
# Its libraries are an extra.
"""Graphs in Core ML's ML program, for iPhones, iPads and Macs: iOS 17 and macOS 14 or later."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pochade.errors import FailureError, PochadeError, missing_extra
from pochade.export import parity
from pochade.export.formats.base import Examples, Format, Graphs, Options, batches, described, example, opened
from pochade.export.formats.programs import Rules, converting, program
from pochade.export.networks import Network
from pochade.export.precision import PRESETS, Precision
from pochade.files import atomic_folder
from pochade.runtime.engines import COREML_NAMES
from pochade.runtime.manifest import Graph

IOS17 = 8
"""The version of the specification that iOS 17 reads."""
_KNOWN = (
    *("_unsafe_view", "arange", "conv2d", "empty_like", "group_norm", "layer_norm", "linear", "masked_fill", "matmul"),
    *("new_zeros", "ones", "ones_like", "pad", "pixel_shuffle", "pixel_unshuffle", "repeat_interleave", "rms_norm"),
    *("scaled_dot_product_attention", "silu", "softmax", "softplus", "split", "square", "stack", "t", "transpose"),
    *("unbind", "upsample_bilinear2d", "upsample_nearest2d", "zeros", "zeros_like"),
)
"""Operators that the converter has, of those that PyTorch would take apart."""
_DATA = {"float32": 65568, "int32": 131104}
"""The numbers of types in a specification."""


class _Narrow(nn.Module):
    """Whole numbers and booleans come as int32: Core ML has no other inputs."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module = network.module
        self.dtypes = tuple(item.dtype for item in network.inputs)

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = [v if v.is_floating_point() else v.to(d) for v, d in zip(values, self.dtypes, strict=True)]
        return self.module(*given)


class CoreMl(Format):
    """``<graph>.mlpackage``, a folder. Only a Mac runs it; elsewhere inputs, outputs and version are inspected."""

    name = "coreml"
    extra = "coreml"
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]] = PRESETS
    default_precision = "fp16"
    free_batch = False

    def check(self) -> None:
        try:
            with converting("coremltools"):
                import coremltools  # noqa: F401
        except PochadeError as error:
            if isinstance(error.__cause__, ImportError):
                raise missing_extra("coremltools", self.extra) from None
            raise

    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        return self._written(networks, folder, options, dict.fromkeys((n.name for n in networks), "fp32"))

    def round(
        self,
        networks: Sequence[Network],
        folder: Path,
        graphs: Graphs,
        precisions: Mapping[str, Precision],
        examples: Examples,
    ) -> Graphs:
        del examples
        lower = [network for network in networks if precisions[network.name] != "fp32"]
        options = Options(next(iter(graphs.values())).inputs[0].shape[0] or 1)
        with atomic_folder(folder, replace="files") as new:
            written = self._written(lower, new, options, precisions)
        exact = {name: graphs[name].largest_difference for name in written}
        return {
            **graphs,
            **{name: replace(graph, largest_difference=exact[name]) for name, graph in written.items()},
        }

    def _written(
        self, networks: Sequence[Network], folder: Path, options: Options, precisions: Mapping[str, Precision]
    ) -> Graphs:
        graphs: Graphs = {}
        for network in networks:
            precision, file = precisions[network.name], f"{network.name}.mlpackage"
            with converting(file):
                _convert(network, folder / file, batches(options)[0], precision)
            graph = described(network, file, options, precision=precision)
            narrow = [v if v.dtype == "float32" else replace(v, dtype="int32") for v in graph.inputs]
            graph = replace(graph, inputs=tuple(narrow))
            inspect(folder / file, graph)
            if self.runs_here():
                runs, batch = opened(self, folder, graph, network.name), batches(options)[0]
                exact = precision == "fp32"
                graph = replace(
                    graph,
                    largest_difference=parity.compare(file, runs, network.module, network.inputs, batches=(batch,))
                    if exact
                    else None,
                    precision_error=0.0 if exact else parity.error(runs, network.module, network.inputs, batch),
                    milliseconds=parity.milliseconds(runs, network.inputs, batch),
                )
            graphs[network.name] = graph
        return graphs

    def runs_here(self) -> bool:
        return sys.platform == "darwin"


def inspect(path: Path, graph: Graph) -> None:
    """Raises FailureError where a package has other inputs or outputs than ``graph``, or is of another version."""
    import coremltools

    spec: Any = coremltools.utils.load_spec(str(path))
    wanted = sorted((COREML_NAMES.get(v.name, v.name), v.shape, _DATA[v.dtype]) for v in graph.inputs)
    arrays = {i.name: i.type.multiArrayType for i in spec.description.input}
    found = sorted((name, tuple(array.shape), array.dataType) for name, array in arrays.items())
    if found != wanted:
        raise FailureError(f"{path.name}: the package has inputs {found}, the network {wanted}")
    outputs = [(o.name, o.type.multiArrayType.dataType) for o in spec.description.output]
    if outputs != [(v.name, _DATA["float32"]) for v in graph.outputs]:
        raise FailureError(f"{path.name}: the package has outputs {outputs}, the network {graph.outputs}")
    if spec.specificationVersion != IOS17:
        raise FailureError(f"{path.name}: of version {spec.specificationVersion}, iOS 17 has {IOS17}")


def _rules() -> Rules:
    """PyTorch's own decompositions of all that the converter does not have."""
    table = torch.export.default_decompositions()
    return {op: rule for op, rule in table.items() if op.name().split("::")[-1].split(".")[0] not in _KNOWN}


def _convert(network: Network, path: Path, batch: int, precision: Precision) -> None:
    import coremltools as ct

    values = [v if v.is_floating_point() else v.int() for v in example(network, batch)]
    names = [item.name for item in network.inputs]
    model: Any = ct.convert(
        program(_Narrow(network).eval(), tuple(values), _rules()),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
        inputs=[
            ct.TensorType(name=name, shape=v.shape, dtype=np.float32 if v.is_floating_point() else np.int32)
            for name, v in zip(names, values, strict=True)
        ],
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in network.outputs],
        skip_model_load=True,
    )
    if precision == "int8":
        from coremltools.optimize import coreml as optimize

        settings = optimize.OptimizationConfig(optimize.OpLinearQuantizerConfig(mode="linear_symmetric"))
        model = optimize.linear_quantize_weights(model, settings)
    model.save(str(path))
