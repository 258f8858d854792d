"""What every form of a bundle's graphs answers, and how a graph is described."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pochade.errors import PochadeError
from pochade.export import parity
from pochade.export.networks import Network
from pochade.export.precision import CALIBRATED, Precision
from pochade.runtime.engines import OPENERS
from pochade.runtime.graphs import Run
from pochade.runtime.manifest import Graph, Value

Batch = int | Literal["dynamic"]
Graphs = dict[str, Graph]
Examples = Mapping[str, Sequence[Mapping[str, np.ndarray]]]
"""Graph -> inputs that pictures called it with, by name."""


@dataclass(frozen=True)
class Options:
    """How graphs are written, whatever their form."""

    batch: Batch
    """A number, or "dynamic" for any."""
    external_data: bool = False
    """Whether weights get files beside the graphs."""
    standard: bool = False
    """Whether graphs in ONNX have the standard's operators alone."""


class Format(ABC):
    """One form of graphs, and the runtime that has it."""

    name: ClassVar[str]
    """Of ``pochade export --for``, and in the manifest."""
    extra: ClassVar[str]
    """Of the package, with the libraries that write it."""
    precisions: ClassVar[Mapping[str, tuple[Precision, ...]]]
    """Presets of ``parse_precision``; every graph has one of these names."""
    default_precision: ClassVar[str] = "fp32"
    free_batch: ClassVar[bool]
    """Whether one graph takes any batch."""
    external_data: ClassVar[bool] = False
    """Whether weights can get files beside the graphs."""

    def batch(self, given: Batch | None, precisions: Collection[Precision] = ()) -> Batch:
        """The batch for what a user gave, None for nothing. Raises PochadeError where it cannot be."""
        static = next((one for one in precisions if one in CALIBRATED), None)
        if given is None:
            return "dynamic" if self.free_batch and static is None else 1
        if given == "dynamic" and (static is not None or not self.free_batch):
            raise PochadeError(f"batch: any given for {static or self.name}, allowed are whole numbers from 1")
        if given != "dynamic" and given < 1:
            raise PochadeError(f"batch: {given} given, allowed are whole numbers from 1")
        return given

    @abstractmethod
    def check(self) -> None:
        """Raises PochadeError where a library is missing that writes or runs it."""

    @abstractmethod
    def convert(self, networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        """Writes networks in float32, each compared with eager PyTorch, into ``folder``.

        Raises:
            FailureError: a network has no such form, or differs from eager.
        """

    @abstractmethod
    def round(
        self,
        networks: Sequence[Network],
        folder: Path,
        graphs: Graphs,
        precisions: Mapping[str, Precision],
        examples: Examples,
    ) -> Graphs:
        """Replaces what ``convert`` wrote by graphs with smaller weights, for those that are not ``fp32``.

        ``examples`` are given where a precision is one of ``CALIBRATED``.
        """

    def open(self, path: Path, name: str, graph: Graph, threads: int | None, low_memory: bool) -> Run:
        """Loads the graph ``name``; see ``pochade.runtime.graphs.Open``.

        Raises:
            PochadeError: this machine cannot run it, or a library is missing.
        """
        return OPENERS[self.name](path, name, graph, threads, low_memory)

    def runs_here(self) -> bool:
        """Whether ``open`` can be called on this machine."""
        return True

    def remarks(self, folder: Path, graphs: Mapping[str, Graph]) -> list[str]:
        """Lines that a user should read of what was written."""
        del folder, graphs
        return []


def on_tensors(graph: Run) -> parity.Run:
    """A graph that takes tensors."""
    return lambda values: graph({name: value.numpy() for name, value in values.items()})


def opened(form: Format, folder: Path, graph: Graph, name: str) -> parity.Run:
    """A graph of ``folder``, which takes tensors."""
    return on_tensors(form.open(folder / graph.file, name, graph, None, False))


def batches(options: Options) -> tuple[int, ...]:
    """Those at which graphs are compared with eager."""
    return (1, 3) if options.batch == "dynamic" else (options.batch,)


def described(
    network: Network,
    file: str,
    options: Options,
    *,
    data: str | None = None,
    precision: Precision = "fp32",
    difference: float | None = None,
    error: float | None = None,
    milliseconds: float | None = None,
) -> Graph:
    """A graph for the manifest."""
    batch = None if options.batch == "dynamic" else options.batch
    inputs = [Value(i.name, (batch, *i.shape), str(i.dtype).removeprefix("torch."), i.absent) for i in network.inputs]
    outputs = [
        Value(name, (batch, *shape), "float32")
        for name, shape in zip(network.outputs, output_shapes(network), strict=True)
    ]
    return Graph(
        file,
        data,
        precision,
        tuple(inputs),
        tuple(outputs),
        network.parameters,
        difference,
        error,
        milliseconds,
    )


@torch.no_grad()
def output_shapes(network: Network) -> list[tuple[int, ...]]:
    """Without the batch axis."""
    found = network.module(*parity.random_inputs(network.inputs, 1).values())
    return [tuple(t.shape[1:]) for t in (found if isinstance(found, tuple) else (found,))]


def compared(form: Format, folder: Path, graph: Graph, network: Network, options: Options) -> Graph:
    """A graph that was written in float32, with its largest difference from eager and its milliseconds.

    Raises:
        FailureError: it differs from eager.
    """
    runs, sizes = opened(form, folder, graph, network.name), batches(options)
    title = graph.file if Path(graph.file).stem == network.name else f"{graph.file}, {network.name}"
    return replace(
        graph,
        largest_difference=parity.compare(title, runs, network.module, network.inputs, batches=sizes),
        milliseconds=parity.milliseconds(runs, network.inputs, sizes[0]),
    )


def rounded(form: Format, folder: Path, graph: Graph, network: Network, precision: Precision) -> Graph:
    """A graph whose weights were rounded, with the error that this costs and its milliseconds."""
    runs, batch = opened(form, folder, graph, network.name), graph.inputs[0].shape[0] or 1
    return replace(
        graph,
        precision=precision,
        precision_error=parity.error(runs, network.module, network.inputs, batch),
        milliseconds=parity.milliseconds(runs, network.inputs, batch),
    )


def example(network: Network, batch: int) -> tuple[Tensor, ...]:
    """Random inputs in order."""
    return tuple(parity.random_inputs(network.inputs, batch).values())
