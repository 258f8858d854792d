"""Operators whose ONNX form is ours: what they compute, and what ONNX Runtime makes of them."""

from collections import Counter
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pochade.export.networks import Network
from pochade.export.onnx import export
from pochade.export.parity import Input
from pochade.nn.attention import linear_attention
from pochade.nn.four_direction_scan import FourDirectionScan, Selection
from pochade.nn.norms import LayerNorm, RMSNorm
from pochade.nn.zigzag_scan import ZigzagScan


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = RMSNorm(6)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(self.norm(x).transpose(1, 2), (5,), eps=1e-6)


class Attention(nn.Module):
    def forward(self, q: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, 2 * q, q + 1, attn_mask=mask[:, None, None])


class Interpolation(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(x, y, torch.sigmoid(x * y))


class Softplus(nn.Module):
    """Of numbers from -100 to 100: nothing overflows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(100 * torch.tanh(10 * x))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) + x.mean(1, keepdim=True)[:, 0]


class Mixture(nn.Module):
    def forward(self, streams: Tensor, alpha: Tensor) -> Tensor:
        return torch.einsum("bjnd,bjni->bind", streams, alpha)


class Divided(nn.Module):
    """Products that are split: into equal and other parts, and one that is used as a whole too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(6, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.first(x).split((3, 4, 5), dim=-1)
        d, e = self.second(x).chunk(2, dim=-1)
        f, g = self.second(a.mean(-1, keepdim=True) + x).chunk(2, dim=-1)
        h, i = self.first(x + 1).chunk(2, dim=-1)
        whole = self.first(x - 1)
        j, k = whole.chunk(2, dim=-1)
        return torch.cat((d * e, f - g, torch.sigmoid(h) * i, torch.tanh(c), b, j * k, whole), -1)


class Positive(nn.Module):
    """What linear attention makes of queries and keys, and the mean of the tokens in each head."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_attention(3 * q, k, v)


class NormOfSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = LayerNorm(6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(torch.tanh(x) + y)


class Convolutions(nn.Module):
    """Of 6 and 9 channels: two of one tensor with one weight, one in steps; then with groups, 1 x 1, and to 5
    channels."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.steps = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(9, 4, 1, stride=2)
        self.grouped, self.product = nn.Conv2d(18, 12, 3, groups=2), nn.Conv2d(6, 8, 1)
        self.few = nn.Conv2d(6, 5, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        wide = torch.tanh(self.wide(x)) + F.conv2d(x, self.wide.weight, padding=1)
        grouped = self.grouped(torch.cat((y, y + 1), 1))
        found = (wide, self.steps(y), grouped, self.product(torch.tanh(x)), self.few(torch.tanh(x)))
        return torch.cat([one.flatten(1) for one in found], 1)


class Scans(nn.Module):
    """Of a token grid of 2 x 3: in four directions, along a zigzag, and in one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.four, self.path = FourDirectionScan(6, 4, 3), ZigzagScan(6, 4, 16, "rows-top-left")
        self.one = Selection(6, 6, 1, 5, "scalar")

    def forward(self, x: Tensor) -> Tensor:
        return self.four(x, 2, 3) + self.path(x, 2, 3) + self.one.scan(x, self.one(x))


CASES = {
    "rms norm": (Norm(), [(5, 6)], {}),
    "attention": (Attention(), [(2, 5, 4), (5,)], {"SimplifiedLayerNormalization": 0, "IsNaN": 0}),
    "interpolation": (Interpolation(), [(5, 6), (5, 6)], {"Where": 0}),
    "softplus": (Softplus(), [(5, 6)], {"Where": 0, "Softplus": 0, "Log": 1}),
    "mean of few": (Mean(), [(2, 5, 6)], {"ReduceMean": 0}),
    "mean of many": (Mean(), [(9, 5, 6)], {"ReduceMean": 2}),
    "mean of tokens": (Mean(), [(9, 6)], {"ReduceMean": 0, "MatMul": 1}),
    "mixture of few": (Mixture(), [(2, 5, 6), (2, 5, 3)], {"Einsum": 0}),
    "mixture of many": (Mixture(), [(9, 5, 6), (9, 5, 3)], {"Einsum": 1}),
    "divided products": (Divided(), [(5, 6)], {"Split": 1}),
    "linear attention": (Positive(), [(2, 9, 4)] * 3, {"Elu": 0, "ReduceMean": 0, "Exp": 2}),
    "norm of a sum": (NormOfSum(), [(5, 6), (5, 6)], {"SkipLayerNormalization": 0, "LayerNormalization": 1}),
    "convolutions": (Convolutions(), [(6, 5, 7), (9, 5, 7)], {"Pad": 2, "Conv": 6}),
}


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize("case", CASES)
def test_an_operator_equals_eager_and_is_short(case: str, tmp_path: Path) -> None:
    module, shapes, counts = CASES[case]
    kinds = [torch.bool if case == "attention" and i == 1 else torch.float32 for i in range(len(shapes))]
    inputs = tuple(Input(f"x{i}", s, k, low=1) for i, (s, k) in enumerate(zip(shapes, kinds, strict=True)))
    path = tmp_path / "graph.onnx"
    written = export(Network("graph", module.eval(), inputs, ("y",)), path, tolerance=1e-5)  # raises if it differs
    assert written.difference <= 1e-5
    found = optimised(path)
    assert {name: found[name] for name in counts} == counts
    if case == "rms norm":
        assert found["SimplifiedLayerNormalization"] == 2
        assert set(found) <= {"SimplifiedLayerNormalization", "Transpose"}


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.parametrize("standard", [True, False])
@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_scans_are_nodes_of_the_runtime_or_composed_of_the_standards(
    standard: bool, batch: Literal["dynamic"] | int, tmp_path: Path
) -> None:
    network = Network("graph", Scans().eval(), (Input("x", (6, 6)),), ("y",))
    path = tmp_path / "graph.onnx"
    export(network, path, batch=batch, standard=standard, tolerance=1e-5)  # raises if it differs
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node].count("LinearAttention") == (0 if standard else 3)
    assert {one.domain for one in model.opset_import} == ({""} if standard else {"", "com.microsoft"})


def optimised(path: Path) -> Counter[str]:
    """How often each operator is in the graph that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
