"""What ``pochade export --for`` writes, run by the library of each target where that is installed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cli.run import cli
from conftest import toy_components
from pochade.errors import FailureError, PochadeError
from pochade.export.bundle import export_bundle
from pochade.export.formats import coreml
from pochade.export.formats.base import Options
from pochade.export.formats.executorch import constants
from pochade.export.networks import Network
from pochade.export.parity import Input
from pochade.export.precision import parse_precision
from pochade.export.targets import FORMATS, TARGETS, find_target, open_bundle
from pochade.nn.scan_orders import inverse_order, reorder, scan_order
from pochade.pipelines import run_request
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle
from pochade.runtime.manifest import Manifest, Model, read_manifest

LIBRARIES = {"openvino": "nncf", "coreml": "coremltools", "executorch": "executorch", "litert": "litert_torch"}
"""Target -> one library of its extra."""


def written(target: str, precision: str, folder: Path) -> Manifest:
    """The toy as a bundle for a target; skipped where its libraries are not installed."""
    try:
        FORMATS[target].check()
    except PochadeError as error:
        pytest.skip(str(error))
    pipe = TextToImagePipeline(**toy_components())
    manifest = export_bundle(pipe, folder, Model("toy"), form=FORMATS[target], precision=precision)
    assert read_manifest(folder) == manifest
    assert manifest.target == target
    return manifest


def eager() -> Any:
    pipe = TextToImagePipeline(**toy_components())
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(7)]
    return pipe("a red apple", num_inference_steps=3, guidance_scale=3.0, generator=noise, output_type="np").images[0]


@pytest.mark.parametrize("target", ["openvino", "executorch", "litert"])
def test_a_bundle_gives_the_pictures_of_pytorch(target: str, tmp_path: Path) -> None:
    manifest = written(target, "fp32", tmp_path / "b")
    assert list(manifest.graphs) == ["text_encoder", "denoiser", "decoder", "encoder"]
    assert all(graph.largest_difference < 1e-4 for graph in manifest.graphs.values())  # type: ignore[operator]
    batch = None if target == "openvino" else 1
    assert {value.shape[0] for graph in manifest.graphs.values() for value in graph.inputs} == {batch}
    bundle = open_bundle(tmp_path / "b", threads=1)
    picture = bundle.generate("a red apple", seed=7, steps=3, guidance=3.0).image
    np.testing.assert_allclose(np.asarray(picture) / 255, eager(), atol=2 / 255)
    again = bundle.generate("a red apple", seed=7, steps=3, guidance=3.0).image
    assert again.tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("target", "precision"), [("openvino", "int8"), ("openvino", "fp16"), ("executorch", "int8"), ("litert", "int8")]
)
def test_weights_in_fewer_bits(target: str, precision: str, tmp_path: Path) -> None:
    manifest = written(target, precision, tmp_path / "b")
    wanted = parse_precision(precision, FORMATS[target].precisions)
    assert {name: graph.precision for name, graph in manifest.graphs.items()} == wanted
    for graph in manifest.graphs.values():
        assert graph.precision_error is not None
        assert (graph.precision_error == 0) == (graph.precision == "fp32")
        assert graph.precision_error < 0.05
    assert manifest.picture_psnr is not None
    assert manifest.picture_psnr > 20
    assert open_bundle(tmp_path / "b").generate("a red apple", seed=7, steps=2).image.size == (32, 32)


class Zigzag(nn.Module):
    """Tokens along a zigzag path and back, and a state that is handed on as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        order = scan_order("rows-top-right", 4, 4)
        mixed = self.mix(reorder(tokens, order)).cumsum(1) + state
        return reorder(mixed, inverse_order(order)), mixed.detach()


@pytest.mark.parametrize("target", ["coreml", "executorch", "litert"])
def test_a_path_over_the_tokens_and_a_state(target: str, tmp_path: Path) -> None:
    form = FORMATS[target]
    try:
        form.check()
    except PochadeError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    module = Zigzag().eval().requires_grad_(False)
    network = Network("path", module, (Input("tokens", (16, 8)), Input("state", (1, 8))), ("velocity", "next_state"))
    graph = form.convert([network], tmp_path, Options(1))["path"]
    assert [(value.name, value.shape) for value in graph.outputs] == [
        ("velocity", (1, 16, 8)),
        ("next_state", (1, 16, 8)),
    ]
    if form.runs_here():
        assert graph.largest_difference is not None
        assert graph.largest_difference < 1e-5


class Words(nn.Module):
    """Tokens with positions of whole numbers, as BERT has them, and attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.heads, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(mask.long().cumsum(1) * mask + 1)
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.heads(x).chunk(3, -1))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.out(seen.transpose(1, 2).reshape(*ids.shape, -1))


def check_8_bits_of_executorch(network: Network, folder: Path) -> None:
    """It converts, and its weights change it by less than a twentieth. Skips where there is no ExecuTorch."""
    form = FORMATS["executorch"]
    try:
        form.check()
    except PochadeError as error:
        pytest.skip(str(error))
    graphs = form.convert([network], folder, Options(1))
    rounded = form.round([network], folder, graphs, {network.name: "int8"}, {})[network.name]
    assert rounded.precision_error is not None
    assert 0 < rounded.precision_error < 0.05


def test_8_bits_leave_whole_numbers_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (Input("ids", (6,), torch.int64, high=20), Input("mask", (6,), torch.bool, low=2))
    network = Network("words", Words().eval().requires_grad_(False), inputs, ("tokens",))
    check_8_bits_of_executorch(network, tmp_path)


class LearnedQueries(nn.Module):
    """Queries that are learned, and attend to tokens: a layer whose input no token has a part in."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 4, 16))
        self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.query(self.queries.expand(tokens.shape[0], -1, -1).contiguous())
        return (queries @ self.key(tokens).transpose(1, 2)).softmax(-1) @ tokens


def test_constants_are_computed_of_no_input() -> None:
    network = LearnedQueries().eval().requires_grad_(False)
    graph = torch.export.export(network, (torch.randn(1, 6, 16),)).module().graph
    found = constants(graph)
    products = [node for node in graph.nodes if "linear" in str(node.target)]
    assert [node in found for node in products] == [True, False]
    assert [node.op for node in graph.nodes if node.op == "get_attr" and node not in found] == []


def test_8_bits_leave_layers_of_constants_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LearnedQueries().eval().requires_grad_(False)
    check_8_bits_of_executorch(Network("plan", network, (Input("tokens", (6, 16)),), ("plan",)), tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs Core ML")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_core_ml_is_inspected_where_it_cannot_run(precision: str, tmp_path: Path) -> None:
    manifest = written("coreml", precision, tmp_path / "b")
    denoiser = manifest.graphs["denoiser"]
    assert (denoiser.largest_difference, denoiser.precision_error, denoiser.milliseconds) == (None, None, None)
    assert manifest.picture_psnr is None
    assert {v.name: v.dtype for v in denoiser.inputs}["mask"] == "int32"
    packages = {name.partition("/")[0] for name in manifest.files if "/" in name}
    assert packages == {graph.file for graph in manifest.graphs.values()}
    weights = {name: file.bytes for name, file in manifest.files.items() if name.endswith("weight.bin")}
    assert len(weights) == 4
    with pytest.raises(FailureError, match=r"decoder.mlpackage: the package has inputs"):
        coreml.inspect(tmp_path / "b" / "decoder.mlpackage", denoiser)
    with pytest.raises(PochadeError, match=r"Core ML runs on a Mac, this machine has "):
        open_bundle(tmp_path / "b").generate("a red apple")


def test_the_host_without_pytorch_refuses_other_targets(toy_bundle: Path, tmp_path: Path) -> None:
    text = (toy_bundle / "manifest.json").read_text().replace('"target": "onnx"', '"target": "executorch"')
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(PochadeError, match=r"^bundle: .* is for 'executorch', allowed are onnx, openvino, "):
        Bundle(tmp_path)
    (tmp_path / "manifest.json").write_text(text.replace("executorch", "ncnn"))
    with pytest.raises(PochadeError, match=r"is for 'ncnn', allowed are onnx, openvino, coreml, executorch, litert"):
        open_bundle(tmp_path)
    assert open_bundle(toy_bundle).manifest.target == "onnx"


@pytest.mark.parametrize("target", sorted(LIBRARIES))
def test_an_absent_library_is_named_with_the_command_that_installs_it(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = LIBRARIES[target]
    for module in [name for name in sys.modules if name.startswith(f"{library}.")]:  # found without what holds them
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PochadeError, match=rf"^[\w-]+ is not installed: pip install 'pochade\[{target}\]'$"):
        find_target(target)


@pytest.mark.parametrize(
    ("name", "given", "precision", "message"),
    [
        ("openvin", {}, None, r"for: 'openvin' given, allowed are onnx, web, .* \(did you mean 'openvino'"),
        ("litert", {}, "fp16", r"precision: 'fp16' given for litert, allowed are fp32, int8"),
        ("executorch", {}, "int8,decoder=fp16", r"precision: 'decoder=fp16' given, allowed are changes GRAPH=NAME"),
        ("litert", {"external_data": True}, None, r"external_data: given for litert, allowed is onnx$"),
        ("onnx", {"onnxruntime_web": "x"}, None, r"onnxruntime_web: given for onnx, allowed is web$"),
        ("web", {"batch": 2}, None, r"batch: given for web, allowed is onnx and openvino and"),
    ],
)
def test_bad_arguments(name: str, given: dict[str, Any], precision: str | None, message: str) -> None:
    with pytest.raises(PochadeError, match=message):
        find_target(name, given, precision)


def test_every_form_is_a_target_and_has_its_extra() -> None:
    assert set(FORMATS) < set(TARGETS)
    with pytest.raises(PochadeError, match="batch: any given for coreml, allowed are whole numbers from 1"):
        FORMATS["coreml"].batch("dynamic")
    with pytest.raises(PochadeError, match="batch: 0 given"):
        FORMATS["onnx"].batch(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--depth", "999"), "depth: 999 given, allowed are 1 to 64"),
        (("--batch", "0"), "batch: 0 given, allowed are whole numbers from 1"),
        (("--size", "40"), "size: 40 given, allowed are multiples of 16"),
        (("--for", "web", "--onnxruntime-web", "/none"), "onnxruntime_web: '/none' is not there, allowed is the npm"),
        (("--for", "web", "--depth", "1,2"), "depth: 1,2 given for web, allowed is one: a page has one denoiser"),
        (
            (
                "--for",
                "litert2",
            ),
            "for: 'litert2' given, allowed are",
        ),
    ],
)
def test_wrong_use_is_refused_before_a_model_is_loaded(
    toy_pipeline_folder: Path,
    tmp_path: Path,
    capsys: object,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(run_request, "open_pipeline", lambda *_, **__: pytest.fail("a model was loaded"))
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path / "new"), *given, code=2)
    assert done.error.startswith(f"error: {message}")


def test_more_is_refused_before_a_model_is_loaded(
    toy_pipeline_folder: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_request, "open_pipeline", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "mine.txt").touch()
    done = cli(capsys, "export", str(toy_pipeline_folder), str(tmp_path), code=2)
    assert "exists already, allowed is a new folder or an empty one" in done.error
    done = cli(capsys, "export", "microforge-edit", str(tmp_path / "new"), "--depth", "2", code=2)
    assert done.error == "error: depth: 2 given, but this model does not iterate: allowed is none"
