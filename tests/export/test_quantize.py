"""Graphs with 8-bit weights, against the graphs that they were made of."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pochade.errors import PochadeError
from pochade.export.parity import Input, random_inputs, run, session
from pochade.export.quantize import difference, quantise
from pochade.export.weights import BLOCK, transpose_weights

WIDTH = 32
INPUTS = (Input("x", (WIDTH,)),)


def weight(name: str, seed: int) -> Any:
    values = np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
    return numpy_helper.from_array(values.astype(np.float32), name)


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def graph(path: Path, nodes: list[Any], weights: list[Any]) -> Path:
    """A graph x [1, WIDTH] -> y [1, WIDTH]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in "xy")
    body = helper.make_graph(nodes, "toy", [x], [y], weights)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """One square weight in two products of each kind, transposed by the graph, as an iterated core has it."""
    nodes = [
        node("Gemm", ["x", "w", "b"], "a1", transB=1),
        node("Gemm", ["a1", "w"], "a2", transB=1),
        node("Transpose", ["v"], "v1", perm=[1, 0]),
        node("MatMul", ["a2", "v1"], "a3"),
        node("Transpose", ["v"], "v2", perm=[1, 0]),
        node("MatMul", ["a3", "v2"], "a4"),
        node("MatMul", ["a4", "u"], "y"),
    ]
    bias = numpy_helper.from_array(np.ones(WIDTH, dtype=np.float32), "b")
    return graph(tmp_path / "shared.onnx", nodes, [weight("w", 0), weight("v", 1), weight("u", 2), bias])


def test_a_stack_of_matrices_becomes_8_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, WIDTH // 4, WIDTH)).astype(np.float32)
    shapes = [np.array(shape, dtype=np.int64) for shape in ((4, 1, WIDTH // 4), (1, 4 * WIDTH))]
    constants = [
        numpy_helper.from_array(v, n) for v, n in zip((values, *shapes), ("s", "apart", "joined"), strict=True)
    ]
    nodes = [
        node("MatMul", ["x", "w"], "a"),
        node("Reshape", ["a", "apart"], "b"),
        node("MatMul", ["b", "s"], "c"),
        node("Reshape", ["c", "joined"], "d"),
        node("Slice", ["d", "from", "to", "axis"], "y"),
    ]
    ends = [numpy_helper.from_array(np.array([v]), n) for n, v in (("from", 0), ("to", WIDTH), ("axis", 1))]
    made = quantise(
        graph(tmp_path / "s.onnx", nodes, [weight("w", 0), *constants, *ends]), tmp_path / "int8.onnx", INPUTS
    )
    assert made.weights == 2
    assert 0 < made.error < 0.01


def test_each_block_of_a_column_has_its_scale(tmp_path: Path) -> None:
    """What is small beside other columns, or beside other blocks of its own, loses no more than they do."""
    values = np.random.default_rng(0).standard_normal((2 * BLOCK, WIDTH)).astype(np.float32)
    values[:, 3] *= 1e-4
    values[BLOCK:, 5] *= 1e-4
    values[:, 7] = 0
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, w]) for n, w in (("x", 2 * BLOCK), ("y", WIDTH)))
    body = helper.make_graph([node("MatMul", ["x", "w"], "y")], "toy", [x], [y], [numpy_helper.from_array(values, "w")])
    path = tmp_path / "blocks.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    made = quantise(path, tmp_path / "int8.onnx", (Input("x", (2 * BLOCK,)),))
    assert made.path.stat().st_size < 0.4 * path.stat().st_size
    runs = session(made.path)
    stored = runs.run(None, {"x": np.zeros((1, 2 * BLOCK), dtype=np.float32)})[0]
    assert not stored.any()
    rows = np.eye(2 * BLOCK, dtype=np.float32)
    got = np.concatenate([runs.run(None, {"x": row[None]})[0] for row in rows])
    blocks = values.reshape(-1, BLOCK, WIDTH)
    steps = (blocks.max(1).clip(min=0) - blocks.min(1).clip(max=0)) / 255
    assert (np.abs(got - values).reshape(blocks.shape) <= 1.001 * steps[:, None]).all()
    assert (got[:, 7] == 0).all()


def test_shared_weights_become_8_bit_once_and_the_function_stays(shared: Path, tmp_path: Path) -> None:
    model = onnx.load(shared)
    transpose_weights(model)  # as exported graphs have them
    turned = tmp_path / "turned.onnx"
    onnx.save(model, turned)
    made = quantise(turned, tmp_path / "int8.onnx", INPUTS)
    assert made.weights == 3
    assert 0 < made.error < 0.01
    kept = [i for i in onnx.load(made.path).graph.initializer if len(i.dims) == 2]
    assert [i.data_type for i in kept] == [TensorProto.UINT8] * 3
    assert made.error == pytest.approx(difference(shared, made.path, INPUTS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["int8.onnx", "shared.onnx", "turned.onnx"]


def test_transposed_weights_give_the_same(shared: Path, tmp_path: Path) -> None:
    model = onnx.load(shared)
    transpose_weights(model)
    assert [n.op_type for n in model.graph.node] == ["Gemm", "Gemm", "MatMul", "MatMul", "MatMul"]
    assert sorted(i.name for i in model.graph.initializer) == ["b", "u", "v_transposed", "w_transposed"]
    onnx.save(model, tmp_path / "turned.onnx")
    assert difference(shared, tmp_path / "turned.onnx", INPUTS) < 1e-6


def convolution(path: Path, values: np.ndarray) -> Path:
    kernel = numpy_helper.from_array(values, "k")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, values.shape[1], 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(values), 8, 8])
    body = helper.make_graph([node("Conv", ["x", "k"], "y", pads=[1] * 4)], "toy", [x], [y], [kernel])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_convolutions_are_stored_in_8_bits_and_computed_in_float(tmp_path: Path) -> None:
    """Each channel has its scale, so that a small one loses no more than a large one."""
    values = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    values[3] *= 1e-3
    path = convolution(tmp_path / "conv.onnx", values)
    inputs = (Input("x", (16, 8, 8)),)
    made = quantise(path, tmp_path / "int8.onnx", inputs)
    assert made.weights == 0
    assert 0 < made.error < 0.01
    assert made.path.stat().st_size < 0.4 * path.stat().st_size
    given = random_inputs(inputs, 1)
    (want,), (got,) = (run(session(p), given) for p in (path, made.path))
    small = np.abs(got[:, 3] - want[:, 3]).max() / want[:, 3].std()
    assert small < 0.05
    assert {n.op_type for n in onnx.load(made.path).graph.node} == {"Conv", "Cast", "Mul"}


def test_what_float16_holds_is_stored_in_16_bits_without_loss(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float16)
    path = convolution(tmp_path / "conv.onnx", values.astype(np.float32))
    made = quantise(path, tmp_path / "fp16.onnx", (Input("x", (16, 8, 8)),), precision="fp16")
    assert made.error == 0
    assert made.path.stat().st_size < 0.6 * path.stat().st_size
    # What float16 cannot hold stays as it is, and so does what is small.
    for scale in (1e6, 0.0):
        path = convolution(tmp_path / "other.onnx", scale * values.astype(np.float32))
        quantise(path, tmp_path / "same.onnx", (Input("x", (16, 8, 8)),), precision="fp16")
        assert [n.op_type for n in onnx.load(tmp_path / "same.onnx").graph.node] == ["Conv"]


def test_embeddings_become_8_bit(tmp_path: Path) -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, WIDTH])
    body = helper.make_graph([node("Gather", ["w", "ids"], "y")], "toy", [ids], [y], [weight("w", 0)])
    path = tmp_path / "embedding.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    made = quantise(path, tmp_path / "int8.onnx", (Input("ids", (5,), torch.int64, high=WIDTH),))
    assert made.weights == 1
    assert 0 < made.error < 0.02
    assert session(made.path).get_inputs()[0].shape == [1, 5]


def test_errors(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(PochadeError, match=r"source: .*none.onnx is no file, allowed is an exported graph"):
        quantise(tmp_path / "none.onnx", tmp_path / "x.onnx", INPUTS)
    with pytest.raises(PochadeError, match=r"shared.onnx: is a file, a folder is needed"):
        quantise(shared, shared / "x.onnx", INPUTS)
    assert [p.name for p in tmp_path.iterdir()] == ["shared.onnx"]
