"""The graphs of a bundle in ONNX Runtime, each checked against its hash when it is loaded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..allocator import keep_freed_memory, release_memory
from ..errors import FailureError, PochadeError
from ..files import sha256
from .manifest import Graph, Manifest

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
"""A graph: its inputs by name, all that it has, to its outputs in order."""
Open = Callable[[Path, str, Graph, int | None, bool], Run]
"""What loads a graph: its file, its name, what the manifest says of it, the number of threads (None for one a core),
and whether memory counts more than time."""


def check_openable(name: str, path: str | Path) -> None:
    """Raises PochadeError where a path is not in UTF-8: ONNX Runtime and ``tokenizers`` cannot open it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise PochadeError(
            f"{name}: {str(path)!r} given, allowed is a name in UTF-8, which ONNX Runtime opens"
        ) from None


def session(
    path: str | Path,
    threads: int | None = None,
    *,
    as_mapped: bool = False,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Any:
    """A session on the CPU that gives back what a call does not need any more.

    From the second call on ONNX Runtime would hold a plan of the memory beside the memory itself, and each graph the
    most that it ever needed. Weights in a file of their own are mapped; with ``as_mapped`` they are used like that, and
    not copied into an order that is faster.

    Args:
        path: of the graph.
        threads: None for one a core.
        as_mapped: as said above.
        weights: those that the graph names without holding them. They are read where they lie, as long as the session
            is there, so that they must not change.

    Raises:
        PochadeError: ONNX Runtime is not installed, or cannot open a file of such a name.
    """
    check_openable("graph", path)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise PochadeError("onnxruntime is not installed: pip install onnxruntime") from None
    keep_freed_memory(_KEPT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", str(int(as_mapped)))
    # Threads that spin while they wait keep the cores from those of the next graph: a third of the time of a picture.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(weight) for name, weight in (weights or {}).items()}
    options.add_external_initializers(list(values), list(values.values()))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


_KEPT = 64 * 2**20
"""Bytes that were freed and are kept for the next call of a graph."""


def open_onnx(path: Path, _name: str, _graph: Graph, threads: int | None, low_memory: bool) -> Run:
    """A graph in ONNX Runtime, see ``session``; with ``low_memory`` its weights are used as they are mapped."""
    runs = session(path, threads, as_mapped=low_memory)
    return lambda values: runs.run(None, dict(values))


def named(opens: Open) -> Open:
    """``opens`` with what a library does not load, or refuses when it is called, as a FailureError of one line that
    names the file: libraries have classes of errors of their own."""

    def opened(path: Path, name: str, graph: Graph, threads: int | None, low_memory: bool) -> Run:
        with _named(path):
            runs = opens(path, name, graph, threads, low_memory)

        def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            with _named(path):
                return runs(values)

        return run

    return opened


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except PochadeError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise FailureError(f"{path}: the runtime refuses the graph: {type(error).__name__}: {said}") from error


class Graphs:
    """The graphs of a bundle, loaded when they are first called.

    Args:
        folder: of the bundle.
        manifest: its manifest.
        threads: None for one a core.
        low_memory: only one graph is loaded at a time, and weights in files of their own are used as mapped.
        opens: loads a graph.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int | None, low_memory: bool, opens: Open = open_onnx
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._threads = threads
        self._low_memory = low_memory
        self._open = opens
        self._loaded: dict[str, Run] = {}

    @property
    def settings(self) -> str:
        """What the time of a call depends on."""
        return f"{self._threads or 'all'} threads, {'low' if self._low_memory else 'usual'} memory"

    def has(self, name: str) -> bool:
        """Whether the manifest names a file."""
        return name in self._manifest.files

    def check_file(self, name: str) -> Path:
        """The path of a file of the bundle. Raises PochadeError where it is missing or altered."""
        file, path = self._manifest.files.get(name), self._folder / name
        if file is None:
            raise PochadeError(f"{path}: the manifest has no hash of it")
        try:
            size = path.stat().st_size
            digest = sha256(path) if size == file.bytes else ""
        except OSError as error:
            raise PochadeError(f"{path}: missing from the bundle ({error.strerror})") from None
        if size != file.bytes:
            raise PochadeError(f"{path}: altered or cut off: {size:,} bytes, the manifest has {file.bytes:,}")
        if digest != file.sha256:
            raise PochadeError(
                f"{path}: altered or cut off: SHA-256 {digest[:12]}, the manifest has {file.sha256[:12]}"
            )
        return path

    def _check_graph(self, graph: Graph) -> Path:
        """The path of a graph, which may be a folder (Core ML), all of whose files are checked."""
        inside = [name for name in self._manifest.files if name.startswith(f"{graph.file}/")]
        for name in (*(inside or [graph.file]), graph.data):
            if name is not None:
                self.check_file(name)
        return self._folder / graph.file

    def load(self, name: str) -> Run:
        """A graph, ready to run. Raises PochadeError where a file of it is missing or altered."""
        if name not in self._loaded:
            graph = self._manifest.graphs[name]
            path = self._check_graph(graph)
            if self._low_memory:
                self._loaded.clear()
                release_memory()
            self._loaded[name] = self._open(path, name, graph, self._threads, self._low_memory)
        return self._loaded[name]

    def run(self, name: str, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of a graph for its inputs by name, in as many calls as its batch needs where that is fixed."""
        runs, batch = self.load(name), self._manifest.graphs[name].inputs[0].shape[0]
        rows = len(next(iter(values.values())))
        if batch is None or batch == rows:
            return runs(values)
        parts: list[list[np.ndarray]] = []
        for start in range(0, rows, batch):
            taken = np.arange(start, start + batch).clip(max=rows - 1)
            parts.append(runs({key: value[taken] for key, value in values.items()}))
        return [np.concatenate(outputs)[:rows] for outputs in zip(*parts, strict=True)]
