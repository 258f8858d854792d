from pathlib import Path

import onnxruntime
import pytest
import torch
from diffusers.models.transformers.sana_transformer import GLUMBConv
from torch import Tensor, nn

from pochade.nn.feedforward import FeedForward, GatedFeedForward, MixFeedForward


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_feedforward_is_swiglu_and_drops_in_training_alone(dropout: float):
    torch.manual_seed(0)
    module = GatedFeedForward(6, 10, dropout)
    x = torch.randn(4, 6)
    gate, inner = module.gate_and_in(x)[:, :10], module.gate_and_in(x)[:, 10:]
    expected = module.out(gate * torch.sigmoid(gate) * inner)
    torch.testing.assert_close(module.eval()(x), expected)
    assert torch.allclose(module.train()(x), expected) == (dropout == 0)


def test_plain_feedforward_is_gaussian_error_linear():
    torch.manual_seed(0)
    module = FeedForward(6, 10).double()
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    inner = module.inner(x)
    expected = module.out(inner * (1 + torch.erf(inner / 2**0.5)) / 2)
    torch.testing.assert_close(module(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 2)])
def test_mix_feedforward_equals_the_convolutions_of_sana(size: tuple[int, int], dtype: torch.dtype, tolerance: float):
    torch.manual_seed(0)
    module, diffusers_module = (
        MixFeedForward(6, 10).to(dtype),
        GLUMBConv(6, 6, 10 / 6, residual_connection=False).to(dtype),
    )
    diffusers_module.load_state_dict(
        {
            "conv_inverted.weight": module.inner.weight[:, :, None, None],
            "conv_inverted.bias": module.inner.bias,
            "conv_depth.weight": module.depthwise.weight,
            "conv_depth.bias": module.depthwise.bias,
            "conv_point.weight": module.out.weight[:, :, None, None],
        }
    )
    tokens = torch.randn(2, size[0] * size[1], 6, dtype=dtype)
    results: list[tuple[Tensor, Tensor]] = []
    for function in (
        lambda x: module(x, *size),
        lambda x: diffusers_module(x.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2),
    ):
        x = tokens.clone().requires_grad_()
        out = function(x)
        results.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_mix_feedforward_sees_the_eight_neighbours_and_no_further():
    torch.manual_seed(0)
    module = MixFeedForward(4, 8).double()
    x = torch.randn(1, 35, 4, dtype=torch.float64)
    changed = x.clone()
    changed[0, 2 * 7 + 3] += 1
    moved = (module(changed, 5, 7) - module(x, 5, 7)).abs().amax(-1).view(5, 7) > 1e-9
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(moved, expected)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plain, self.mix = FeedForward(6, 12), MixFeedForward(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.mix(x, 3, 5))


@pytest.mark.no_cover  # tracing a trace takes twice as long
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")  # of torch, in its exporter
def test_feedforwards_compile_into_one_graph_and_export(tmp_path: Path):
    module = Both().eval()
    x = torch.randn(2, 15, 6)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))
    path = tmp_path / "feedforward.onnx"
    torch.onnx.export(module, (x,), path, dynamo=True, opset_version=20, verbose=False, report=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), module(x).detach(), atol=1e-5, rtol=1e-5)
