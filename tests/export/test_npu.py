"""Graphs for NPUs: whole numbers throughout, static shapes, operators that the providers have."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import toy_components
from pochade.errors import PochadeError
from pochade.export import npu, samples
from pochade.export.bundle import export_bundle
from pochade.export.parity import session
from pochade.export.targets import FORMATS, find_target
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime import Bundle
from pochade.runtime.manifest import Model

WIDTH = 32


def test_a_bundle_of_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "EXAMPLES", 2)
    folder = tmp_path / "b"
    manifest = export_bundle(
        TextToImagePipeline(**toy_components()), folder, Model("toy"), precision="w8a16", pictures=1
    )
    for graph in manifest.graphs.values():
        assert graph.precision == "w8a16"
        assert {value.shape[0] for value in (*graph.inputs, *graph.outputs)} == {1}
        assert graph.precision_error is not None
        assert 0 < graph.precision_error < 0.1
        nodes = onnx.load(folder / graph.file).graph.node
        rounded = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        products = [node for node in nodes if node.op_type in ("MatMul", "Gemm", "Conv")]
        assert products
        assert all(set(node.input[:2]) <= rounded for node in products)
        assert npu.lacking(folder / graph.file)["QNN"] == []
    assert manifest.picture_psnr is not None
    assert manifest.picture_psnr > 30
    assert Bundle(folder).generate("a red apple", seed=1, steps=2, guidance=3.0).image.size == (32, 32)
    said = FORMATS["onnx"].remarks(folder, manifest.graphs)
    assert [line.partition(",")[0] for line in said] == list(manifest.graphs)
    assert all("operators: QNN has all; NNAPI " in line for line in said)


def attention(path: Path) -> Path:
    """Softmax over scores x [1, WIDTH] of which ``mask`` hides some, as PyTorch writes it, times a weight."""
    nodes = [
        helper.make_node("Where", ["mask", "none", "hidden"], ["bias"]),
        helper.make_node("Add", ["x", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("IsNaN", ["shares"], ["empty"]),
        helper.make_node("Where", ["empty", "none", "shares"], ["kept"]),
        helper.make_node("MatMul", ["kept", "w"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    weights = {"none": np.float32(0), "hidden": np.float32(-np.inf), "w": weight}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in "xy"]
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, [1, WIDTH])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    body = helper.make_graph(nodes, "toy", [ends[0], mask], ends[1:], constants)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def inputs(seed: int, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((1, WIDTH), dtype=np.float32), "mask": rng.random((1, WIDTH)) < 0.5, **changes}


def test_what_a_mask_hides_stays_hidden_by_a_finite_number(tmp_path: Path) -> None:
    source, made = attention(tmp_path / "source.onnx"), tmp_path / "made.onnx"
    for precision, most in (("w8a16", 0.02), ("w8a8", 0.2)):
        assert 0 < npu.quantise(source, made, [inputs(seed) for seed in range(8)], precision) < most
        assert {"IsNaN", "Where"} & {node.op_type for node in onnx.load(made).graph.node} == {"Where"}
    values = inputs(9)
    other = {**values, "x": np.where(values["mask"], values["x"], 2.5).astype(np.float32)}
    runs = session(made)
    np.testing.assert_array_equal(runs.run(None, values)[0], runs.run(None, other)[0])


def test_an_input_that_no_picture_gives_has_no_scale(tmp_path: Path) -> None:
    source = attention(tmp_path / "source.onnx")
    for examples, message in (
        ([inputs(0, x=np.zeros((1, WIDTH), np.float32))], "no picture here gives source.onnx its input x"),
        ([], "no picture here calls source.onnx"),
    ):
        with pytest.raises(PochadeError, match=f"precision: w8a16 given, but {message}"):
            npu.quantise(source, tmp_path / "made.onnx", examples, "w8a16")
    assert not (tmp_path / "made.onnx").exists()


def test_the_list_of_nnapi_is_that_of_onnxruntime() -> None:
    text = (files("onnxruntime") / "tools" / "mobile_helpers" / "nnapi_supported_ops.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|ai.onnx:")]
    assert {row.removeprefix("ai.onnx:") for row in rows} == set(npu.OPERATORS["NNAPI"].split())


def test_what_cannot_be() -> None:
    with pytest.raises(PochadeError, match="batch: any given for w8a16, allowed are whole numbers from 1"):
        FORMATS["onnx"].batch("dynamic", ["fp32", "w8a16"])
    assert FORMATS["onnx"].batch(None, ["fp32", "w8a16"]) == 1
    assert FORMATS["onnx"].batch(None, ["fp32"]) == "dynamic"
    with pytest.raises(PochadeError, match="precision: 'w8a16' given, allowed are fp32, fp16, int8"):
        find_target("openvino", {}, "w8a16")


def test_a_large_column_does_not_spoil_the_others(tmp_path: Path) -> None:
    source, made = attention(tmp_path / "source.onnx"), tmp_path / "made.onnx"
    model = onnx.load(source)
    weight = next(w for w in model.graph.initializer if w.name == "w")
    values = numpy_helper.to_array(weight).copy()
    values[:, 0] *= 1000
    values[:, 1] = 0
    weight.CopyFrom(numpy_helper.from_array(values, "w"))
    onnx.save(model, source)
    npu.prepare(source, tmp_path / "prepared.onnx")
    given = inputs(0)
    exact = session(source).run(None, given)[0]
    np.testing.assert_allclose(session(tmp_path / "prepared.onnx").run(None, given)[0], exact, rtol=1e-4, atol=1e-5)
    npu.quantise(source, made, [inputs(seed) for seed in range(8)], "w8a16")
    found = session(made).run(None, given)[0]
    assert np.abs(found - exact)[:, 1:].max() < 0.1 * exact[:, 2:].std()
